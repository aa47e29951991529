//! The map of src/lib.rs is true: each module uses only what is declared above it, and says first what it is.
//!
//! Tests within a module may reach anywhere; what stands behind `#[cfg(test)]` is not asked.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `dir`, without those that are tests as a whole.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            found.extend(files(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}

/// The top-level module that a file belongs to; none for lib.rs and main.rs.
fn module(file: &Path) -> Option<String> {
    let first = file.strip_prefix(src()).unwrap().components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

/// Code before the tests of a file, without comments.
fn code(text: &str) -> String {
    let before = text.split("#[cfg(test)]").next().unwrap();
    before.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Top-level modules named by `crate::` paths, those in `use crate::{a, b::c}` too.
fn used(code: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = vec![];
    for (_, rest) in code.match_indices("crate::").map(|(at, word)| (at, &code[at + word.len()..])) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut item_begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item_begins = true,
                c if item_begins && !c.is_whitespace() => {
                    found.push(name(&group[at..]));
                    item_begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn arrows_point_only_at_what_is_declared_above() {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let order: HashMap<&str, usize> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(place, name)| (name, place))
        .collect();
    assert!(order.len() > 15, "{order:?}");
    let (mut wrong, mut arrows) = (vec![], 0);
    for file in files(&src()) {
        let Some(from) = module(&file) else { continue };
        let place = *order.get(&*from).unwrap_or_else(|| panic!("{from} is not in lib.rs"));
        for to in used(&code(&fs::read_to_string(&file).unwrap())) {
            // Not a module: a macro, or an item of lib.rs.
            let Some(&target) = order.get(&*to) else { continue };
            arrows += 1;
            if target > place {
                wrong.push(format!("{}: {from} uses {to}", file.strip_prefix(src()).unwrap().display()));
            }
        }
    }
    assert!(arrows > 100, "only {arrows} were found: is the reading right?");
    assert!(wrong.is_empty(), "arrows that point up:\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_read_out_of_every_form() {
    let code = "use crate::a::b;\nuse crate::{c, d::{self, e}, f as g};\nlet x = crate::h::i();";
    assert_eq!(used(code), ["a", "c", "d", "f", "h"]);
}

#[test]
fn every_file_says_first_what_it_is() {
    let all = files(&src());
    assert!(all.len() > 50);
    let silent: Vec<_> = all
        .iter()
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//! "))
        .map(|file| file.strip_prefix(src()).unwrap().display().to_string())
        .collect();
    assert!(silent.is_empty(), "without a head: {silent:?}");
}
