//! Texts with variables, and what to write where one is not understood.

use crate::config::read::suggest::nearest;
use crate::config::value::BadValue;
use crate::header::template::{Template, TemplateError};
use crate::header::variable::{Instead, Variable, instead_of};

/// Longer texts are not quoted in a help.
const QUOTED_CHARS_MAX: usize = 100;

/// Reads a text with variables.
pub(in crate::config) fn read(text: &str) -> Result<Template, BadValue> {
    text.parse().map_err(|error| explain(text, &error))
}

/// What is wrong with a text, and what to write.
pub(in crate::config) fn explain(text: &str, error: &TemplateError) -> BadValue {
    let escaped = Template::escaped(text);
    let brace = match escaped.chars().count() {
        0..=QUOTED_CHARS_MAX => format!("write a brace that is one twice: `{escaped}`"),
        _ => "write a brace that is one twice: `{{`".to_owned(),
    };
    let help = match error {
        TemplateError::Unknown(name) => unknown(name).unwrap_or_else(|| {
            let names: Vec<String> = Variable::ALL.iter().map(|(variable, ..)| format!("`{variable}`")).collect();
            format!("known are {}; {brace}", names.join(", "))
        }),
        TemplateError::Brace => brace,
        TemplateError::Many => "use fewer".to_owned(),
    };
    BadValue::new(error.to_string(), help)
}

/// What to write in place of a variable that is none here.
fn unknown(name: &str) -> Option<String> {
    match instead_of(name) {
        Some(instead) => Some(write_instead(instead)),
        None => {
            let names = Variable::ALL.map(|(_, known, _)| known);
            nearest(name, &names).map(|near| format!("did you mean `{{{near}}}`?"))
        }
    }
}

/// What to write in place of another proxy's word.
pub(in crate::config) fn write_instead(instead: Instead) -> String {
    match instead {
        Instead::Variable(variable) => format!("write `{variable}`"),
        Instead::Sent(why) => format!("remove it: {why}"),
    }
}
