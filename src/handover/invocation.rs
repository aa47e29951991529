//! The command line of this process, to start the next one with it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The absolute path. The file that is there at the next start is run: a package has put the new version there, or a
    /// symbolic link leads to it. (/proc/self/exe would be the old one, or "wsluice (deleted)".)
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invocation {
    /// Returns the command line of this process. Call it at the start: a later change of directory or PATH would change it.
    ///
    /// # Errors
    /// If neither the arguments nor the system have the path of the program.
    pub fn of_this_process() -> io::Result<Invocation> {
        let mut arguments = std::env::args_os();
        let called = arguments.next().unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directory = std::env::current_dir().unwrap_or_default();
        let program = match program(&called, &directory, &path) {
            Some(program) => program,
            None => std::env::current_exe()?,
        };
        Ok(Invocation { program, arguments: arguments.collect() })
    }

    /// Creates the command line of a program with an absolute path.
    pub fn of(program: PathBuf, arguments: Vec<OsString>) -> Invocation {
        Invocation { program, arguments }
    }

    /// Returns the command. It inherits environment, standard output and standard error.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// Returns the file that a shell would run for this word.
fn program(called: &OsStr, directory: &Path, path: &OsStr) -> Option<PathBuf> {
    let called = Path::new(called);
    let is_bare = called.components().count() == 1 && called.file_name() == Some(called.as_os_str());
    let candidates: Vec<PathBuf> = if is_bare {
        std::env::split_paths(path).map(|entry| directory.join(entry).join(called)).collect()
    } else {
        vec![directory.join(called)]
    };
    candidates.into_iter().find(|file| file.is_absolute() && is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};

    use super::*;

    #[test]
    fn the_program_is_found_as_a_shell_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (name, mode) in [("one", 0o755), ("two", 0o644)] {
            create_dir(root.join(name)).unwrap();
            let file = root.join(name).join("wsluice");
            write(&file, "").unwrap();
            set_permissions(file, Permissions::from_mode(mode)).unwrap();
        }
        let link = root.join("current");
        std::os::unix::fs::symlink(root.join("one"), &link).unwrap();
        let path = std::env::join_paths([root.join("none"), root.join("two"), link.clone()]).unwrap();
        let found = |called: &str| program(OsStr::new(called), root, &path);
        // Links are kept: they may lead to another version later.
        assert_eq!(found("wsluice"), Some(link.join("wsluice")));
        assert_eq!(found("current/wsluice"), Some(link.join("wsluice")));
        assert_eq!(found("./one/wsluice"), Some(root.join("./one/wsluice")));
        assert_eq!(found(link.join("wsluice").to_str().unwrap()), Some(link.join("wsluice")));
        assert_eq!((found("two/wsluice"), found("wslu"), found("")), (None, None, None));
    }

    #[test]
    fn this_process_can_be_called_again() {
        let invocation = Invocation::of_this_process().unwrap();
        assert!(invocation.program.is_absolute() && invocation.program.exists());
        let command = invocation.command();
        assert_eq!(command.get_program(), invocation.program);
        assert!(command.get_args().eq(std::env::args_os().skip(1)));
    }
}
