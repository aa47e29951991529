//! `wsluice import`: the configuration of another proxy becomes YAML on standard output; what was not understood is told on
//! standard error.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;

use super::{complain, print};
use crate::config::load_as;
use crate::import::nginx::{self, Files};

/// The most names of a folder that are looked at.
const NAMES_MAX: usize = 10_000;

/// Whose configuration it is.
#[derive(Debug, Subcommand)]
pub(super) enum ImportFrom {
    /// A configuration of nginx, with all that it includes.
    Nginx {
        /// The main file, such as /etc/nginx/nginx.conf; included names start at its folder.
        file: PathBuf,
    },
}

/// Runs it.
///
/// # Errors
/// If the file cannot be read, or is none that nginx would read.
pub(super) fn run(from: &ImportFrom) -> anyhow::Result<()> {
    let ImportFrom::Nginx { file } = from;
    let imported = nginx::import(&file.to_string_lossy(), &Disk)?;
    print(&imported.yaml)?;
    let mut told = format!("{}: {}\n", file.display(), imported.summary);
    // Its certificates may be on another machine; everything else is known here.
    if let Err(errors) = load_as(file, &imported.yaml, &|_| None) {
        told.push_str(&format!("this needs your hand before `wsluice check` is content:\n{errors}\n"));
    }
    complain(&told);
    Ok(())
}

/// The files of this machine.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![];
        let file = File::open(path).map_err(|error| error.to_string())?;
        if !file.metadata().is_ok_and(|about| about.is_file()) {
            return Err("this is no file".to_owned());
        }
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(NAMES_MAX);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}
