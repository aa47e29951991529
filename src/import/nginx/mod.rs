//! nginx: the file is cut into words (`lexer`), read as a tree with all it includes (`parser`), and turned into a model of listeners,
//! routes and upstreams (`convert`), which is written as YAML.
//!
//! What holds: nothing that nginx closes comes out open without being named. Where a rule that keeps people out has no counterpart,
//! the route answers 403 until somebody has looked at it.

mod convert;
mod glob;
mod lexer;
mod location;
mod names;
mod notes;
mod parser;
mod server;
mod upstream;
mod values;
mod words;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use parser::Files;

use super::report::Imported;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: String,
    line: usize,
    column: usize,
}

impl Place {
    fn error(&self, message: impl Into<String>) -> NginxError {
        NginxError::Syntax { file: self.file.clone(), line: self.line, column: self.column, message: message.into() }
    }
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NginxError {
    /// It is not what nginx reads, or too much of it.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1, in characters.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The file that was named cannot be read.
    #[error("cannot read {file}: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// Nothing in it is for a proxy.
    #[error("{0}: there is no `server` in it")]
    NoServer(String),
}

/// Reads an nginx configuration, and writes what does the same.
///
/// # Errors
/// If nginx could not read it either, or it is too large.
pub fn import(path: &str, files: &dyn Files) -> Result<Imported, NginxError> {
    let tree = parser::parse(path, files)?;
    convert::convert(path, &tree).ok_or_else(|| NginxError::NoServer(path.to_owned()))
}
