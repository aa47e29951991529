//! Changes of headers: names to remove, and values to set, which are ready unless they have variables.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::header::template::{Placeholder, Template};
use crate::header::variable::Variable;

/// Whether a route has variables, so that nothing is looked up for those without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    /// Any.
    pub any: bool,
    /// The request's id.
    pub id: bool,
}

impl Variables {
    /// Those in these texts.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a Template>) -> Variables {
        texts.into_iter().fold(Variables::default(), Variables::with)
    }

    /// These, and those in `text`.
    pub fn with(self, text: &Template) -> Variables {
        Variables { any: self.any || text.plain().is_none(), id: self.id || text.has(Variable::RequestId) }
    }
}

/// Changes to headers: first removed, then set.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Taken out.
    pub remove: Vec<HeaderName>,
    /// Put in, in place of any of the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The same with variables; see [`HeaderEdits::filled`].
    pub templates: Vec<(HeaderName, Template)>,
}

impl HeaderEdits {
    /// The fields that are removed or set.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.set.iter().map(|(name, _)| name);
        self.remove.iter().chain(set).chain(self.templates.iter().map(|(name, _)| name))
    }

    /// Returns true if `is` holds for a field that is removed or set. Asked for each field of a request; most routes have no
    /// changes, and then it costs nothing.
    pub fn any(&self, is: impl FnMut(&HeaderName) -> bool) -> bool {
        let is_empty = self.remove.is_empty() && self.set.is_empty() && self.templates.is_empty();
        !is_empty && self.names().any(is)
    }

    /// Returns true if the field `name` is removed or set.
    pub fn concerns(&self, name: &HeaderName) -> bool {
        self.any(|ours| ours == name)
    }

    /// Returns true if the field `name` is set, whatever it is set to.
    pub fn sets(&self, name: &HeaderName) -> bool {
        self.set.iter().any(|(set, _)| set == name) || self.templates.iter().any(|(set, _)| set == name)
    }

    /// What the field `name` is set to.
    pub fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        self.set.iter().rfind(|(set, _)| set == name).map(|(_, value)| value.as_bytes())
    }

    /// The same with the variables filled in by `write`; `None` if there are none. A field whose value is empty then is
    /// removed, so that nobody else's takes its place.
    pub fn filled(&self, write: impl Fn(Placeholder<'_>, &mut String)) -> Option<HeaderEdits> {
        if self.templates.is_empty() {
            return None;
        }
        let mut filled = HeaderEdits { remove: self.remove.clone(), set: self.set.clone(), templates: vec![] };
        for (name, template) in &self.templates {
            let text = template.fill(&write);
            // What is filled in is visible ASCII, and the text around it was checked when it was read.
            match HeaderValue::from_str(text.trim_matches([' ', '\t'])) {
                Ok(value) if !value.is_empty() => filled.set.push((name.clone(), value)),
                _ => filled.remove.push(name.clone()),
            }
        }
        Some(filled)
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// The changes of a route whose values have variables, for one request.
#[derive(Debug)]
pub struct FilledEdits {
    /// To the request; `None` if they are the route's own.
    pub request: Option<HeaderEdits>,
    /// To the response; `None` if they are the route's own.
    pub response: Option<HeaderEdits>,
}
