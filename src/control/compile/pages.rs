//! Reads the files that routes send as answers.
//!
//! A file that has become bad while a configuration is in force keeps what was read of it: a page that is missing for a
//! moment must hold up neither a reload nor the renewal of certificates. It is a mistake only where nothing was read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Compiler;
use crate::base::file_state;
use crate::config::KeyPath;
use crate::proxy::page::{PAGE_BYTES_MAX, Page};

/// The most that all pages may have together: they are kept in memory.
const BYTES_MAX: usize = 64 << 20;

/// Files that were read, by their name.
pub type Pages = HashMap<PathBuf, Arc<Page>>;

impl Compiler<'_> {
    /// Returns the page in this file, which `path` names; the one of the configuration before, if it is the same. Reports
    /// what keeps it from being read.
    pub(super) fn page(&mut self, path: &KeyPath, file: &Path) -> Option<Arc<Page>> {
        if let Some(page) = self.pages.get(file) {
            return Some(Arc::clone(page));
        }
        let before = self.previous.and_then(|previous| previous.pages.get(file)).map(Arc::clone);
        let page = match (file_state::read(file, PAGE_BYTES_MAX), before) {
            (Ok(bytes), Some(before)) if before.bytes == bytes => before,
            (Ok(bytes), _) => Arc::new(Page::new(file, bytes)),
            (Err(error), Some(before)) => {
                let name = file.display();
                self.warnings.push(format!("{path}: `{name}` cannot be read ({error}): what was read before is sent"));
                before
            }
            (Err(error), None) => {
                self.report(path, format!("`{}` cannot be read: {error}", file.display()));
                return None;
            }
        };
        let sum: usize = self.pages.values().map(|page| page.bytes.len()).sum();
        if sum + page.bytes.len() > BYTES_MAX {
            self.report(path, format!("the pages up to this one have more than {} MiB", BYTES_MAX >> 20));
            return None;
        }
        self.pages.insert(file.to_owned(), Arc::clone(&page));
        Some(page)
    }
}
