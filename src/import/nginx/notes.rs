//! What was not understood: each directive is named once, however many routes come of it.

use std::collections::HashSet;

use super::parser::{Directive, shown};
use crate::import::report::Lost;

/// The notes so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    seen: HashSet<(usize, String)>,
    pub lost: Vec<Lost>,
    counted: HashSet<usize>,
}

impl Notes {
    /// Notes a directive that is not understood, or only in part. Returns the comment, the first time.
    pub(super) fn lost(&mut self, directive: &Directive, why: &str) -> Option<String> {
        self.note(directive, why, false)
    }

    /// The same for one that keeps somebody out.
    pub(super) fn guard(&mut self, directive: &Directive, why: &str) -> Option<String> {
        self.note(directive, why, true)
    }

    fn note(&mut self, directive: &Directive, why: &str, is_guard: bool) -> Option<String> {
        if !self.seen.insert((directive.id, why.to_owned())) {
            return None;
        }
        let comment = remark(directive, why);
        if self.counted.insert(directive.id) {
            let (place, what, why) = (place(directive), what(directive), why.to_owned());
            self.lost.push(Lost { place, what, why, is_guard });
        }
        Some(comment)
    }

    /// Returns a comment about a directive that is understood, the first time.
    pub(super) fn remark(&mut self, directive: &Directive, why: &str) -> Option<String> {
        self.seen.insert((directive.id, why.to_owned())).then(|| remark(directive, why))
    }
}

fn place(directive: &Directive) -> String {
    format!("{}:{}", shown(&directive.place.file), directive.place.line)
}

/// Returns the directive as it is written, shortened.
fn what(directive: &Directive) -> String {
    let mut text = shown(&directive.name);
    for word in &directive.args {
        if text.chars().count() > 60 {
            text.push_str(" …");
            break;
        }
        text.push(' ');
        text.push_str(&shown(word));
    }
    text
}

fn remark(directive: &Directive, why: &str) -> String {
    format!("{}: {}: {why}", place(directive), what(directive))
}
