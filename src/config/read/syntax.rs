//! Text that is not YAML, explained: libyaml says what it met, seldom what the author did wrong.

use crate::base::file_state::BYTE_ORDER_MARK;

/// The most brackets open at once. libyaml's time grows with the square of it (minutes for a megabyte of `{a: {a: `),
/// before anything checks the depth. Brackets in strings count too, hence far more than a configuration nests.
const BRACKETS_MAX: usize = 500;

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(in crate::config) struct Unparsed {
    pub(in crate::config) problem: String,
    pub(in crate::config) help: Option<String>,
    /// Line and column, from 1.
    pub(in crate::config) at: Option<(usize, usize)>,
}

/// Refuses a text that the parser would spend minutes on.
pub(in crate::config) fn refuse_brackets(text: &str) -> Result<(), Unparsed> {
    if deepest(text) <= BRACKETS_MAX {
        return Ok(());
    }
    let help = Some("nothing here is nested that deep".to_owned());
    Err(Unparsed { problem: "too many brackets are open at once".to_owned(), help, at: None })
}

/// Turns the parser's message into ours: without the position, which is shown anyway, and with a hint at the usual
/// cause.
pub(in crate::config) fn explain(message: &str, at: Option<(usize, usize)>, text: &str) -> Unparsed {
    let without_position = match (message.find(" at line "), message.find(" column ")) {
        (Some(start), Some(column)) if start < column => {
            let digits = column + " column ".len();
            let end = message[digits..].find(|c: char| !c.is_ascii_digit()).map_or(message.len(), |end| digits + end);
            format!("{}{}", &message[..start], &message[end..])
        }
        _ => message.to_owned(),
    };
    let line = at.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or("");
    let after = at.map(|(_, column)| line.chars().skip(column - 1).collect::<String>()).unwrap_or_default();
    let says = |words: &str| without_position.contains(words);
    // To the parser a mark begins another document.
    let (line, at) = match text.lines().position(|line| line.contains(BYTE_ORDER_MARK)) {
        Some(marked) if says("more than one document") => {
            let line = text.lines().nth(marked).unwrap_or("");
            let column = line.chars().take_while(|c| !BYTE_ORDER_MARK.contains(*c)).count();
            (line, Some((marked + 1, column + 1)))
        }
        _ => (line, at),
    };
    let quote = "put a value that begins with a special character in quotes";
    if line.contains(BYTE_ORDER_MARK) {
        let help = Some("remove it: it belongs before a text only, and two were put together here".to_owned());
        return Unparsed { problem: "there is a byte order mark (U+FEFF) in this line".to_owned(), help, at };
    }
    // The parser's own limits, and valid YAML that means nothing here, in our words.
    let ours = [
        ("more than one document", "the file has more than one YAML document", "remove the lines `---`"),
        ("recursion limit", "the file is nested too deep", "does an alias (`*name`) stand inside its own anchor?"),
        ("repetition limit", "the file unfolds to too many values", "write out what its aliases (`*name`) repeat"),
        ("a key that is a word", "a key must be a word", "put a value that begins with `{` or `[` in quotes"),
    ];
    if let Some((_, problem, help)) = ours.into_iter().find(|(words, _, _)| says(words)) {
        return Unparsed { problem: problem.to_owned(), help: Some(help.to_owned()), at };
    }
    let help = if line.trim_start_matches(' ').starts_with('\t') {
        Some("YAML is indented with spaces, not tabs")
    } else if line.contains("${") {
        Some("put a value with `${NAME}` in quotes: inside `[ ]` and `{ }` a brace has a meaning in YAML")
    } else if after.starts_with('*') || says("alias") || says("unknown anchor") {
        Some("put a value that begins with `*` in quotes: \"*.example.com\"")
    } else if after.starts_with(['@', '`', '%', '&', '!', '|', '>']) || says("anchor") {
        Some(quote)
    } else if says("mapping values are not allowed") {
        Some("is the line indented as the one above, and a value that contains `: ` in quotes?")
    } else {
        None
    };
    Unparsed { problem: format!("this is not YAML: {without_position}"), help: help.map(str::to_owned), at }
}

/// Returns how many more brackets are opened than closed, at the worst place.
fn deepest(text: &str) -> usize {
    let mut open = 0_usize;
    let mut most = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => continue,
        }
        most = most.max(open);
    }
    most
}
