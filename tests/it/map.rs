//! The map of src/lib.rs is true: each module uses only modules declared above it, and begins with a head.
//!
//! Tests within a module may use anything; code after `#[cfg(test)]` is not checked.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns every Rust file below `dir`, without files that hold only tests.
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

/// Returns the top-level module of a file; none for lib.rs and main.rs.
fn module(file: &Path) -> Option<String> {
    let first = file.strip_prefix(src()).unwrap().components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

/// Returns the code before a file's tests, without comments.
fn code(text: &str) -> String {
    let before = text.split("#[cfg(test)]").next().unwrap();
    before.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Returns the paths in the code: each leaf of a `use`, then those in expressions.
fn paths(code: &str) -> Vec<String> {
    let (mut found, mut rest) = (vec![], String::new());
    for (at, piece) in code.split("use ").enumerate() {
        match piece.split_once(';').filter(|_| at > 0) {
            Some((tree, after)) => {
                leaves(tree, "", &mut found);
                rest.push_str(after);
            }
            None => rest.push_str(piece),
        }
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    found.extend(rest.split(|c| !is_path(c)).map(str::to_owned));
    found
}

/// Returns the top-level modules in `crate::` paths, those in `use crate::{a, b::c}` too.
fn used(code: &str) -> Vec<String> {
    let name = |path: String| path.strip_prefix("crate::")?.split([':', ' ']).next().map(str::to_owned);
    let mut found: Vec<String> = paths(code).into_iter().filter_map(name).collect();
    found.dedup();
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
            // Not a module, but a macro or an item of lib.rs.
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

/// Returns a file's module by its path: `["proxy", "outcome"]` for `proxy/outcome.rs`, `["proxy"]` for `proxy/mod.rs`.
fn path_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(src()).unwrap().with_extension("");
    let mut path: Vec<String> = inside.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    path.pop_if(|last| last == "mod");
    path
}

/// Splits a `use` tree into paths: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str, before: &str, found: &mut Vec<String>) {
    let Some((stem, inside)) = tree.split_once('{') else {
        return found.push(format!("{before}{}", tree.trim()));
    };
    let (before, mut depth, mut start) = (format!("{before}{}", stem.trim()), 0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                if !inside[start..at].trim().is_empty() {
                    leaves(&inside[start..at], &before, found);
                }
                start = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Returns the modules that a module uses, by paths from `crate`, `self` or `super`; without its own parents and
/// children, since a `mod.rs` is the face of its contents.
fn uses(module: &[String], code: &str, all: &HashMap<Vec<String>, PathBuf>) -> Vec<Vec<String>> {
    let mut found = vec![];
    for path in paths(code) {
        let mut steps = path.split("::").map(|step| step.split_whitespace().next().unwrap_or_default()).peekable();
        let mut at = match steps.next() {
            Some("crate") => vec![],
            Some("self") => module.to_vec(),
            Some("super") => module[..module.len() - 1].to_vec(),
            _ => continue,
        };
        while steps.next_if_eq(&"super").is_some() {
            at.pop();
        }
        for step in steps {
            at.push(step.to_owned());
            if !all.contains_key(&at) {
                at.pop();
                break;
            }
        }
        if !at.is_empty() && !module.starts_with(&at) && !at.starts_with(module) {
            found.push(at);
        }
    }
    found
}

/// Returns each module that depends on itself through others, with those others.
fn circles(uses: &HashMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let reach = |from: &Vec<String>| {
        let mut found = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = uses[from].iter().collect();
        while let Some(module) = next.pop() {
            if found.insert(module) {
                next.extend(uses.get(module).into_iter().flatten());
            }
        }
        found
    };
    let reached: HashMap<&Vec<String>, BTreeSet<&Vec<String>>> = uses.keys().map(|from| (from, reach(from))).collect();
    let mut circles: Vec<String> = uses
        .iter()
        .filter_map(|(module, used)| {
            let back = used.iter().filter(|other| reached.get(other).is_some_and(|reached| reached.contains(module)));
            let back: Vec<String> = back.map(|other| other.join("::")).collect();
            (!back.is_empty()).then(|| format!("{} uses {}", module.join("::"), back.join(", ")))
        })
        .collect();
    circles.sort();
    circles
}

#[test]
fn no_two_files_need_each_other() {
    let all: HashMap<Vec<String>, PathBuf> = files(&src()).into_iter().map(|file| (path_of(&file), file)).collect();
    let uses: HashMap<Vec<String>, BTreeSet<Vec<String>>> = all
        .iter()
        .filter(|(module, _)| !matches!(&*module[0], "lib" | "main"))
        .map(|(module, file)| {
            let used = uses(module, &code(&fs::read_to_string(file).unwrap()), &all);
            (module.clone(), used.into_iter().collect())
        })
        .collect();
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 500, "is the reading right?");
    let circles = circles(&uses);
    assert!(circles.is_empty(), "in circles:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_seen_in_every_form() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let all: HashMap<_, _> = ["a", "a::b", "a::c", "a::c::d", "e"].map(|path| (module(path), PathBuf::new())).into();
    let code = "use super::b::{X, y::Z};\nuse crate::{e, a::b as f};\nfn g() { super::super::e::h(); self::d::i() }";
    let found: Vec<String> = uses(&module("a::c"), code, &all).iter().map(|path| path.join("::")).collect();
    assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["a::b", "e"]));
    let uses = |name: &str, used: &[&str]| (module(name), used.iter().map(|it| module(it)).collect());
    let all = HashMap::from([uses("a", &["b", "c"]), uses("b", &["c"]), uses("c", &["b", "d"]), uses("d", &[])]);
    assert_eq!(circles(&all), ["b uses c", "c uses b"]);
}
