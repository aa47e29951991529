//! The documents stay true: the table of keys in `config/REFERENCE.md` is the schema's own words, the README's figures are
//! those of the last published run, examples load, and links lead somewhere.
//!
//! The table between the markers is generated from the field docs, where each key is documented once. After a change
//! there, or after a run: `UPDATE_README=1 cargo test --test readme` writes both files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What `cargo bench --bench load -- --publish` writes.
const FIGURES: &str = include_str!("../benches/results/load.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document: the Markdown files of these folders, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut all = vec![];
    for folder in ["", "config", "config/apps", "grafana", "benches"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "md") {
                let text = fs::read_to_string(&path).unwrap();
                all.push((path, text));
            }
        }
    }
    all
}

/// What each `$ref` (plain, or inside `allOf`/`anyOf`, where a word or a text may stand beside a map) refers to, by name.
fn referred(schema: &Value) -> impl Iterator<Item = &str> {
    let inside = ["allOf", "anyOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    std::iter::once(schema).chain(inside).filter_map(|schema| schema["$ref"].as_str()?.strip_prefix("#/definitions/"))
}

fn first_line(text: &Value) -> String {
    text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One line a key, in the order of the schema, walking into maps, lists and alternatives.
fn describe(root: &Value, object: &Value, path: &str, out: &mut String) {
    referred(object).for_each(|name| describe(root, &root["definitions"][name], path, out));
    object["oneOf"].as_array().into_iter().flatten().for_each(|object| describe(root, object, path, out));
    let Some(properties) = object["properties"].as_object() else { return };
    for (key, schema) in properties {
        let is_list = schema["type"] == "array";
        let is_map = schema["additionalProperties"].is_object() && schema["properties"].is_null();
        let inner = if is_list {
            &schema["items"]
        } else if is_map {
            &schema["additionalProperties"]
        } else {
            schema
        };
        let here = match (is_list, is_map) {
            (true, _) => format!("{path}{key}[]"),
            (_, true) => format!("{path}{key}.NAME"),
            _ => format!("{path}{key}"),
        };
        // What one of several alternatives means stands beside its only key.
        let described = if schema["description"].is_null() { &object["description"] } else { &schema["description"] };
        if !described.is_null() {
            writeln!(out, "| `{here}` | {} |", first_line(described).replace('|', "\\|")).unwrap();
        }
        for name in referred(inner) {
            describe(root, &root["definitions"][name], &format!("{here}."), out);
        }
    }
}

/// Compares what stands between two markers of `file` with what should; writes it there if it is asked to.
fn check_section(file: &str, name: &str, right: &str, how: &str) {
    let path = root().join(file);
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{file} has no marker {begin}"));
    let (written, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no marker {end}"));
    if written == right {
        return;
    }
    assert!(std::env::var_os("UPDATE_README").is_some(), "{how}: run `UPDATE_README=1 cargo test --test readme`");
    fs::write(path, format!("{before}{begin}{right}{end}{after}")).unwrap();
}

#[test]
fn the_reference_is_what_the_fields_say() {
    let schema = wsluice::config::schema();
    let mut reference = String::from("\n| key | meaning |\n| --- | --- |\n");
    describe(&schema, &schema, "", &mut reference);
    reference.push('\n');
    check_section(
        "config/REFERENCE.md",
        "reference",
        &reference,
        "the table of keys in config/REFERENCE.md differs from the field docs",
    );
}

#[test]
fn the_figures_are_those_of_the_last_published_run() {
    let (table, _) = FIGURES.split_once("\n## Every figure\n").expect("the report begins with what compares");
    let right = format!("\n{table}\n");
    check_section("README.md", "performance", &right, "README's figures differ from benches/results/load.md");
}

#[test]
fn every_yaml_block_is_a_configuration() {
    let mut blocks = 0;
    for (path, text) in documents() {
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let loaded = wsluice::config::load_str(path.to_str().unwrap(), block, &|_| None);
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
            blocks += 1;
        }
    }
    assert!(blocks > 1, "the README shows configurations");
}

/// The anchors of a text's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>())
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for (path, text) in documents() {
        // Code may look like a link.
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if let Some(anchor) = anchor {
                let found = anchors(&fs::read_to_string(&target).unwrap()).iter().any(|heading| heading == anchor);
                assert!(found, "{}: {link} is no heading", path.display());
            }
        }
    }
    assert!(links > 50, "only {links} were found: is the reading right?");
}

#[test]
fn the_documents_of_config_are_found_from_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for entry in fs::read_dir(root().join("config")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("](config/{name})")), "README.md does not link to config/{name}");
    }
}

/// The text of all Rust files below `folder`.
fn sources(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            out.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_promise_of_the_security_policy_names_tests_that_there_are() {
    let mut all = String::new();
    for folder in ["src", "tests"] {
        sources(&root().join(folder), &mut all);
    }
    let policy = include_str!("../SECURITY.md");
    let (_, promises) = policy.split_once("## What is promised").unwrap();
    let (promises, _) = promises.split_once("## What is not promised").unwrap();
    let is_name = |word: &&str| {
        word.matches('_').count() > 2 && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    let mut named = 0;
    for name in promises.split('`').skip(1).step_by(2).filter(is_name) {
        named += 1;
        // One that is made for both kinds of TLS stream has a parameter.
        let is_there = ["(", "<"].iter().any(|next| all.contains(&format!("fn {name}{next}")));
        assert!(is_there, "there is no test {name}");
    }
    assert!(named > 40, "{named}");
    for promise in promises.split("\n\n**").skip(1) {
        assert!(promise.split('`').any(|word| is_name(&word)), "no test is named: {promise}");
    }
}
