//! The tree of directives, with the files that `include` names in their places.
//!
//! Files come from a [`Files`], so that this is pure. Everything has a bound: files, their size, their depth, blocks, directives.

use super::lexer::{Lexer, Token};
use super::{NginxError, Place, glob};

const FILE_BYTES_MAX: usize = 1 << 20;
const FILES_MAX: usize = 1000;
const BYTES_MAX: usize = 16 << 20;
const INCLUDE_DEPTH_MAX: usize = 16;
const BLOCK_DEPTH_MAX: usize = 32;
const DIRECTIVES_MAX: usize = 100_000;
const WORDS_MAX: usize = 10_000;

/// Where files come from.
pub trait Files {
    /// Returns the bytes of a file, at most `max` and one more.
    ///
    /// # Errors
    /// A text that says why it cannot be read.
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, String>;

    /// Returns the names in a folder; none if it cannot be read.
    fn list(&self, folder: &str) -> Vec<String>;
}

/// One directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// Tells it from all others.
    pub id: usize,
    /// Its name.
    pub name: String,
    /// The words after it.
    pub args: Vec<String>,
    /// What stands in its braces.
    pub block: Option<Vec<Directive>>,
    /// Where it begins.
    pub place: Place,
}

impl Directive {
    /// Returns a word after its name, or an empty one.
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |word| word.as_str())
    }

    /// Returns its block, or an empty one.
    pub(super) fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Blocks whose content is data or another language.
pub(super) fn is_opaque(name: &str) -> bool {
    name.ends_with("_by_lua_block")
        || matches!(name, "map" | "geo" | "types" | "split_clients" | "charset_map" | "match")
}

/// Reads a file and all that it includes.
pub(super) fn parse(path: &str, files: &dyn Files) -> Result<Vec<Directive>, NginxError> {
    let folder = path.rsplit_once('/').map_or(".", |(folder, _)| if folder.is_empty() { "/" } else { folder });
    let mut parser = Parser { files, folder, open: vec![], read: 0, bytes: 0, directives: 0 };
    let start = Place { file: path.to_owned(), line: 1, column: 1 };
    parser.file(path, &start, 0)
}

struct Parser<'a> {
    files: &'a dyn Files,
    /// The folder of the main file, from which all relative names start.
    folder: &'a str,
    /// The files that are being read, the outermost first.
    open: Vec<String>,
    read: usize,
    bytes: usize,
    directives: usize,
}

impl Parser<'_> {
    fn file(&mut self, path: &str, from: &Place, depth: usize) -> Result<Vec<Directive>, NginxError> {
        if self.open.iter().any(|open| open == path) {
            return Err(from.error(format!("`{path}` includes itself")));
        }
        if self.open.len() >= INCLUDE_DEPTH_MAX {
            return Err(from.error(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep")));
        }
        self.read += 1;
        if self.read > FILES_MAX {
            return Err(from.error(format!("more than {FILES_MAX} files are included")));
        }
        let bytes = self.files.read(path, FILE_BYTES_MAX).map_err(|why| match self.open.is_empty() {
            true => NginxError::Unreadable { file: path.to_owned(), why },
            false => from.error(format!("cannot read `{path}`: {why}")),
        })?;
        self.bytes += bytes.len();
        let start = Place { file: path.to_owned(), line: 1, column: 1 };
        if bytes.len() > FILE_BYTES_MAX {
            return Err(start.error(format!("the file has more than {FILE_BYTES_MAX} bytes")));
        }
        if self.bytes > BYTES_MAX {
            return Err(start.error(format!("all files together have more than {BYTES_MAX} bytes")));
        }
        // Comments in old encodings are common, and names in one are none that anybody could use.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.open.push(path.to_owned());
        let mut lexer = Lexer::new(path, &text);
        let inside = self.block(&mut lexer, None, depth)?;
        self.open.pop();
        Ok(inside)
    }

    /// Reads directives up to the end of the file, or to the `}` of the block that `opened`.
    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        opened: Option<&Place>,
        depth: usize,
    ) -> Result<Vec<Directive>, NginxError> {
        let mut found = vec![];
        loop {
            let (name, place) = match (lexer.next()?, opened) {
                (None, None) | (Some((Token::Close, _)), Some(_)) => return Ok(found),
                (None, Some(opened)) => return Err(opened.error("the block is never closed: `}` is missing")),
                (Some((Token::Close, place)), None) => return Err(place.error("`}` closes nothing")),
                (Some((Token::Open, place)), _) => return Err(place.error("`{` has no name before it")),
                (Some((Token::End, place)), _) => return Err(place.error("`;` ends nothing")),
                (Some((Token::Word(name), place)), _) => (name, place),
            };
            self.directives += 1;
            if self.directives > DIRECTIVES_MAX {
                return Err(place.error(format!("there are more than {DIRECTIVES_MAX} directives")));
            }
            let mut directive = Directive { id: self.directives, name, args: vec![], block: None, place };
            loop {
                match lexer.next()? {
                    Some((Token::Word(word), _)) if directive.args.len() < WORDS_MAX => directive.args.push(word),
                    Some((Token::Word(_), place)) => {
                        return Err(place.error("there are too many words: is a `;` missing?"));
                    }
                    Some((Token::End, _)) => break,
                    Some((Token::Open, place)) if directive.name.ends_with("_by_lua_block") => {
                        lexer.skip_foreign(&place)?;
                        directive.block = Some(vec![]);
                        break;
                    }
                    Some((Token::Open, place)) if depth >= BLOCK_DEPTH_MAX => {
                        return Err(place.error(format!("blocks are more than {BLOCK_DEPTH_MAX} deep")));
                    }
                    Some((Token::Open, place)) => {
                        directive.block = Some(self.block(lexer, Some(&place), depth + 1)?);
                        break;
                    }
                    Some((Token::Close, place)) => {
                        return Err(place.error(format!("`{}` is not ended: `;` is missing", shown(&directive.name))));
                    }
                    None => {
                        let message = format!("`{}` is not ended: `;` is missing", shown(&directive.name));
                        return Err(directive.place.error(message));
                    }
                }
            }
            match (&*directive.name, &directive.args[..]) {
                ("include", [pattern]) if directive.block.is_none() => {
                    self.directives -= 1;
                    for path in self.named(pattern, &directive.place)? {
                        found.extend(self.file(&path, &directive.place, depth)?);
                    }
                }
                _ => found.push(directive),
            }
        }
    }

    /// Returns the files that an `include` names. A pattern may stand for none.
    fn named(&self, pattern: &str, place: &Place) -> Result<Vec<String>, NginxError> {
        let whole = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{}/{pattern}", self.folder) };
        let root = if whole.starts_with('/') { "/" } else { "" };
        let mut found = vec![root.to_owned()];
        for part in whole.split('/').filter(|part| !part.is_empty()) {
            let mut next = vec![];
            for folder in &found {
                let join = |name: &str| match folder.as_str() {
                    "" => name.to_owned(),
                    "/" => format!("/{name}"),
                    folder => format!("{folder}/{name}"),
                };
                if !glob::is_pattern(part) {
                    next.push(join(part));
                    continue;
                }
                let mut names = self.files.list(if folder.is_empty() { "." } else { folder });
                names.retain(|name| glob::matches(part, name));
                names.sort();
                next.extend(names.iter().map(|name| join(name)));
                if next.len() > FILES_MAX {
                    return Err(place.error(format!("`{}` stands for more than {FILES_MAX} files", shown(pattern))));
                }
            }
            found = next;
        }
        Ok(found)
    }
}

/// Returns a text fit for a message: one line, not too long.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    cut.replace("\\'", "'").replace("\\\"", "\"")
}
