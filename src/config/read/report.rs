//! Reports to users: findings with position and advice, and how they are drawn.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::config::read::MASK;
use crate::config::read::key::KeyPath;
use crate::config::read::locate::{Aim, locate};
use crate::config::read::outline::Position;
use crate::config::read::parts::{FileNumber, SourceParts, WrittenAt};
use crate::config::read::secret_lines::{continues_secret, lines, mask_secrets};
use crate::header::visible::is_hidden;

/// Beyond this column, only the surroundings of a mistake are shown of its line.
const COLUMN_MAX: usize = 500;

/// Longer messages are cut: what a mistake quotes may be as long as the file.
const MESSAGE_CHARS_MAX: usize = 1000;

/// Longer paths are cut.
const PATH_CHARS_MAX: usize = 300;

/// Longer words are not underlined to their end, and no more than this is shown after them: the snippet is one line
/// of a terminal.
const WORD_CHARS_MAX: usize = 80;

/// The text of a file and of those that it includes, for reporting what is wrong with them.
#[derive(Clone, Debug)]
pub struct Source {
    /// The first is the main one.
    files: Vec<SourceText>,
    pub(in crate::config) parts: SourceParts,
}

#[derive(Clone, Debug)]
struct SourceText {
    name: String,
    text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and probably does not mean what its author thinks.
    Warning,
}

/// One mistake. Displays as it is drawn: with the line, a caret, and advice.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The name of the file.
    pub file: String,
    /// The path to it, as `routes[0].upstream`; empty for the file as a whole.
    pub path: String,
    /// The line, from 1, if known.
    pub line: Option<usize>,
    /// The column, from 1 and in characters, if known.
    pub col: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    drawn: String,
}

/// A mistake whose position is not known yet.
#[derive(Debug)]
pub(in crate::config) struct Note {
    pub(in crate::config) severity: Severity,
    pub(in crate::config) path: KeyPath,
    /// If the path is one of this file, not of what all files say together.
    pub(in crate::config) file: Option<FileNumber>,
    /// The part to point at; `None` for nothing in particular.
    pub(in crate::config) aim: Option<Aim>,
    pub(in crate::config) message: String,
    pub(in crate::config) help: Option<String>,
}

/// All errors of a configuration. Displays as the whole report.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    name: String,
    findings: Vec<Finding>,
}

impl Source {
    pub(in crate::config) fn new(name: &str, text: &str) -> Source {
        let file = SourceText { name: name.to_owned(), text: text.to_owned() };
        Source { files: vec![file], parts: SourceParts::default() }
    }

    /// Adds a file that the main one includes.
    pub(in crate::config) fn add(&mut self, name: &str, text: &str) -> FileNumber {
        self.files.push(SourceText { name: name.to_owned(), text: text.to_owned() });
        self.files.len() - 1
    }

    /// Returns the name of the file.
    pub fn name(&self) -> &str {
        &self.files[0].name
    }

    /// Returns the name of a file, or of the main one.
    pub(in crate::config) fn name_of(&self, file: FileNumber) -> &str {
        &self.file(file).name
    }

    /// Returns the bytes of all texts.
    pub(in crate::config) fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.text.len()).sum()
    }

    /// Returns the names of the files that are included, in the order in which they are read.
    pub fn included(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files[1..].iter().map(|file| file.name.as_str())
    }

    /// Puts findings into the order of the files and lines.
    pub(in crate::config) fn sort(&self, findings: &mut [Finding]) {
        let numbers: HashMap<&str, usize> =
            self.files.iter().enumerate().map(|(number, file)| (file.name.as_str(), number)).collect();
        findings.sort_by_key(|finding| {
            (numbers.get(finding.file.as_str()).copied(), finding.line.unwrap_or(usize::MAX), finding.col)
        });
    }

    fn file(&self, file: FileNumber) -> &SourceText {
        self.files.get(file).unwrap_or(&self.files[0])
    }

    /// Returns an error about the value at `path`, for later judges: `control::compile`, when a certificate is
    /// missing.
    pub fn error(&self, path: &KeyPath, message: impl Into<String>, help: Option<String>) -> Finding {
        self.finding(Severity::Error, path, Some(Aim::Value), message.into(), help)
    }

    /// Finds the positions of many mistakes, each text being walked once. What several say of the same place, since it
    /// is repeated by an alias or as a default, is told once.
    pub(in crate::config) fn findings(&self, notes: Vec<Note>) -> Vec<Finding> {
        let places = self.places(&notes);
        let mut told = HashSet::new();
        let mut findings = vec![];
        for (note, (written, at)) in notes.into_iter().zip(places) {
            if at.is_some() && !told.insert((written.file, at, note.message.clone())) {
                continue;
            }
            let mut message = note.message;
            if note.file.is_none() && self.parts.default_of(&note.path).as_ref() == Some(&written) {
                let element = KeyPath::from_steps(note.path.steps().iter().take(2).cloned().collect());
                message = format!("{message} (for {})", self.shown_from(written.file, &element));
            }
            findings.push(self.finding_in(&written, note.severity, at, message, note.help));
        }
        findings
    }

    /// Returns for each note where it belongs.
    fn places(&self, notes: &[Note]) -> Vec<(WrittenAt, Option<Position>)> {
        let own = |note: &Note| match note.file {
            Some(file) => WrittenAt { file, path: note.path.clone() },
            None => self.parts.own(&note.path),
        };
        let mut places: Vec<(WrittenAt, Option<Position>)> = notes.iter().map(|note| (own(note), None)).collect();
        let mut unfound = vec![];
        for (file, source) in self.files.iter().enumerate() {
            let here: Vec<(usize, Aim)> = places
                .iter()
                .zip(notes)
                .enumerate()
                .filter_map(|(index, (place, note))| (place.0.file == file).then_some((index, note.aim?)))
                .collect();
            let wanted: Vec<(&KeyPath, Aim)> = here.iter().map(|(index, aim)| (&places[*index].0.path, *aim)).collect();
            for ((index, aim), found) in here.iter().zip(locate(&source.text, &wanted)) {
                places[*index].1 = found.at;
                if !found.is_whole && notes[*index].file.is_none() {
                    unfound.push((*index, *aim));
                }
            }
        }
        // What is not written for itself may be a default.
        let defaults: Vec<(usize, Aim, WrittenAt)> = unfound
            .into_iter()
            .filter_map(|(index, aim)| Some((index, aim, self.parts.default_of(&notes[index].path)?)))
            .collect();
        let wanted: Vec<(&KeyPath, Aim)> = defaults.iter().map(|(_, aim, written)| (&written.path, *aim)).collect();
        let found = locate(&self.files[0].text, &wanted);
        for ((index, _, written), found) in defaults.iter().zip(found).filter(|(_, found)| found.is_whole) {
            places[*index] = (written.clone(), found.at);
        }
        places
    }

    /// Returns a path as one in `file` would say it: with the name of the file, if it is another.
    pub(in crate::config) fn shown_from(&self, file: FileNumber, path: &KeyPath) -> String {
        let written = self.parts.own(path);
        match written.file == file {
            true => written.path.to_string(),
            false => format!("{} of {}", written.path, self.name_of(written.file)),
        }
    }

    pub(in crate::config) fn finding(
        &self,
        severity: Severity,
        path: &KeyPath,
        aim: Option<Aim>,
        message: String,
        help: Option<String>,
    ) -> Finding {
        let note = Note { severity, path: path.clone(), file: None, aim, message, help };
        self.findings(vec![note]).pop().expect("one note is told")
    }

    /// Returns what is wrong with the main file at a position of its text.
    pub(in crate::config) fn finding_at(
        &self,
        severity: Severity,
        path: &KeyPath,
        at: Option<Position>,
        message: String,
        help: Option<String>,
    ) -> Finding {
        self.finding_in(&WrittenAt { file: 0, path: path.clone() }, severity, at, message, help)
    }

    pub(in crate::config) fn finding_in(
        &self,
        written: &WrittenAt,
        severity: Severity,
        at: Option<Position>,
        message: String,
        help: Option<String>,
    ) -> Finding {
        self.file(written.file).finding(severity, &written.path, at, message, help)
    }
}

impl SourceText {
    fn finding(
        &self,
        severity: Severity,
        path: &KeyPath,
        at: Option<Position>,
        message: String,
        help: Option<String>,
    ) -> Finding {
        // The parser may point past the last line (the end of the file), where there is nothing to show.
        let line = at.and_then(|(line, _)| lines(&self.text).nth(line - 1));
        let at = at.filter(|_| line.is_some());
        let (path, message) = (clip(path.to_string(), PATH_CHARS_MAX), clip(message, MESSAGE_CHARS_MAX));
        let help = help.map(|help| clip(help, MESSAGE_CHARS_MAX));
        let drawn = match at.filter(|(line, _)| continues_secret(&self.text, *line)) {
            // Several lines may be one secret: none of them is shown.
            Some(_) => self.draw(severity, &path, None, &message, help.as_deref()),
            None => self.draw(severity, &path, at.zip(line), &message, help.as_deref()),
        };
        let (line, col) = at.unzip();
        Finding { severity, file: self.name.clone(), path, line, col, message, help, drawn }
    }

    fn draw(
        &self,
        severity: Severity,
        path: &str,
        at: Option<((usize, usize), &str)>,
        message: &str,
        help: Option<&str>,
    ) -> String {
        let title = printable(&if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") });
        let help = help.map(printable);
        let masked = at.map(|(_, line)| mask_secrets(line));
        let at = at.zip(masked.as_deref()).map(|((place, _), text)| (place, text));
        let Some(((line, column), text)) = at else {
            let level = match severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let help = help.map(|help| format!("\n  = help: {help}")).unwrap_or_default();
            return format!("{level}: {title}\n --> {}{help}", self.name);
        };
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        if column > COLUMN_MAX {
            return self.draw_far(severity, &title, (line, column), text, help.as_deref());
        }
        let (shown, span) = show_line(text, column);
        let snippet = Snippet::source(&shown).path(&self.name).line_start(line);
        let group = level.primary_title(&title).element(snippet.annotation(AnnotationKind::Primary.span(span)));
        let group = group.elements(help.as_deref().map(|help| Level::HELP.message(help)));
        Renderer::plain().render(&[group])
    }

    /// Draws a mistake far to the right, in a line too long for the library that draws the others.
    fn draw_far(
        &self,
        severity: Severity,
        title: &str,
        (line, column): (usize, usize),
        text: &str,
        help: Option<&str>,
    ) -> String {
        let level = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let left = WORD_CHARS_MAX / 2;
        let around: String = text.chars().skip(column - 1 - left).take(left + 2 * WORD_CHARS_MAX).collect();
        let (shown, span) = show_line(&around, left + 1);
        let (indent, caret) = (shown[..span.start].chars().count() + "...".len(), shown[span].chars().count().max(1));
        let (pad, marks) = (" ".repeat(line.to_string().len()), format!("{:indent$}{}", "", "^".repeat(caret)));
        let help = help.map(|help| format!("\n{pad} |\n{pad} = help: {help}")).unwrap_or_default();
        let place = format!("{pad}--> {}:{line}:{column}", self.name);
        format!("{level}: {title}\n{place}\n{pad} |\n{line} | ...{shown}\n{pad} | {marks}{help}")
    }
}

impl ConfigErrors {
    /// Collects findings of other modules than `load`; there must be at least one.
    pub fn new(source: &Source, findings: Vec<Finding>) -> ConfigErrors {
        debug_assert!(!findings.is_empty(), "errors without an error");
        ConfigErrors { name: source.name().to_owned(), findings }
    }

    /// Returns `text` with a mask in place of each of these, except single characters, which nobody could find.
    pub fn without(mut self, secrets: &[String]) -> ConfigErrors {
        for finding in &mut self.findings {
            for text in [&mut finding.message, &mut finding.drawn].into_iter().chain(&mut finding.help) {
                *text = without(std::mem::take(text), secrets);
            }
        }
        self
    }

    /// Returns the name of the main file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the errors, in the order of the file.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl Finding {
    /// Returns it on one line, for the log: where it is and what is wrong.
    pub fn summary(&self) -> String {
        let line = self.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        format!("{}{line}: {}", self.path, self.message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.drawn)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for finding in &self.findings {
            write!(out, "{finding}\n\n")?;
        }
        let elsewhere =
            if self.findings.iter().all(|one| one.file == self.name) { "" } else { " and what it includes" };
        match self.findings.len() {
            1 => write!(out, "1 error in {}{elsewhere}", self.name),
            count => write!(out, "{count} errors in {}{elsewhere}", self.name),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns `text` with a mask in place of each of these, except single characters, which nobody could find.
pub fn without(text: String, secrets: &[String]) -> String {
    let secrets = secrets.iter().filter(|secret| secret.chars().nth(1).is_some());
    secrets.fold(text, |text, secret| text.replace(secret.as_str(), MASK))
}

/// Cuts a text that is too long.
pub(in crate::config) fn clip(mut text: String, chars_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Returns `line` without control characters and without what is far behind the word at `column`, and the range of
/// that word in it.
fn show_line(line: &str, column: usize) -> (String, Range<usize>) {
    let near = line.chars().take(column + 3 * WORD_CHARS_MAX);
    let chars: Vec<char> = near.map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    let start = (column - 1).min(chars.len());
    let end = (start + word(&chars[start..])).min(start + WORD_CHARS_MAX);
    let to = chars.len().min(end + WORD_CHARS_MAX);
    let bytes = |range: &[char]| range.iter().map(|c| c.len_utf8()).sum::<usize>();
    let span_start = bytes(&chars[..start]);
    let span = span_start..span_start + bytes(&chars[start..end]);
    (chars[..to].iter().collect(), span)
}

/// Returns the length, in characters, of the key or scalar that begins here.
fn word(chars: &[char]) -> usize {
    if let Some(quote @ ('"' | '\'')) = chars.first() {
        return chars[1..].iter().position(|c| c == quote).map_or(chars.len(), |end| end + 2);
    }
    if let Some('[' | '{' | '-') = chars.first() {
        return 1;
    }
    let mut variable = false;
    let mut ends = |at: usize| match chars[at] {
        '{' if at > 0 && chars[at - 1] == '$' => {
            variable = true;
            false
        }
        '}' if variable => {
            variable = false;
            false
        }
        ',' | ']' | '}' => !variable,
        ':' => chars.get(at + 1).is_none_or(|next| *next == ' '),
        '#' => at > 0 && chars[at - 1] == ' ',
        _ => false,
    };
    let end = (0..chars.len()).find(|at| ends(*at)).unwrap_or(chars.len());
    chars[..end].iter().rposition(|c| *c != ' ').map_or(usize::from(!chars.is_empty()), |last| last + 1)
}

/// Removes what could move a terminal's cursor or would be invisible.
fn printable(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// Returns one error about a file as a whole, at no line of it.
pub(in crate::config) fn whole_file(name: &str, message: String, help: Option<String>) -> ConfigErrors {
    let source = Source::new(name, "");
    let finding = source.finding_at(Severity::Error, &KeyPath::root(), None, message, help);
    ConfigErrors::new(&source, vec![finding])
}
