//! The README stays true: its configuration reference is the schema's own words, its figures are those of the last
//! published run, and its examples load.
//!
//! The reference between the markers is generated from the field docs, where each option is documented once. After a
//! change there, or after a run: `UPDATE_README=1 cargo test --test readme`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::sync::Mutex;

use serde_json::Value;

const README: &str = include_str!("../README.md");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
/// What `cargo bench --bench load -- --publish` writes.
const FIGURES: &str = include_str!("../benches/results/load.md");

/// Two tests may write the README.
static WRITING: Mutex<()> = Mutex::new(());

/// What a `$ref` (plain, or the first inside `allOf`/`anyOf`, where `off` may stand before it) refers to, by name.
fn referred(schema: &Value) -> Option<&str> {
    let direct = schema["$ref"].as_str();
    let mut inside = ["allOf", "anyOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    direct.or_else(|| inside.find_map(|schema| schema["$ref"].as_str()))?.strip_prefix("#/definitions/")
}

fn first_line(text: &Value) -> String {
    text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One line a key, in the order of the schema, walking into maps, lists and alternatives.
fn describe(root: &Value, object: &Value, path: &str, out: &mut String) {
    if let Some(name) = referred(object) {
        describe(root, &root["definitions"][name], path, out);
    }
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
        if let Some(name) = referred(inner) {
            let mut definition = &root["definitions"][name];
            // One server: a URL, or a map.
            if name == "Endpoint" {
                definition = &root["definitions"]["EndpointMap"];
            }
            describe(root, definition, &format!("{here}."), out);
        }
    }
}

/// Compares what stands between two markers with what should; writes it there if it is asked to.
fn check_section(begin: &str, end: &str, right: &str, how: &str) {
    let readme = std::fs::read_to_string(PATH).unwrap();
    let (before, rest) = readme.split_once(begin).unwrap_or_else(|| panic!("the README has the marker {begin}"));
    let (written, after) = rest.split_once(end).unwrap_or_else(|| panic!("the README has the marker {end}"));
    if written == right {
        return;
    }
    assert!(std::env::var_os("UPDATE_README").is_some(), "{how}: run `UPDATE_README=1 cargo test --test readme`");
    std::fs::write(PATH, format!("{before}{begin}{right}{end}{after}")).unwrap();
}

#[test]
fn the_reference_is_what_the_fields_say() {
    let schema = wsluice::config::schema();
    let mut reference = String::from("\n| key | meaning |\n| --- | --- |\n");
    describe(&schema, &schema, "", &mut reference);
    reference.push('\n');
    let _one_at_a_time = WRITING.lock().unwrap();
    check_section(
        "<!-- reference: begin -->\n",
        "<!-- reference: end -->",
        &reference,
        "README's reference differs from the field docs",
    );
}

#[test]
fn the_figures_are_those_of_the_last_published_run() {
    let (table, _) = FIGURES.split_once("\n## Every figure\n").expect("the report begins with what compares");
    let _one_at_a_time = WRITING.lock().unwrap();
    check_section(
        "<!-- performance: begin -->\n",
        "<!-- performance: end -->",
        &format!("\n{table}\n"),
        "README's figures differ from benches/results/load.md",
    );
}

#[test]
fn every_yaml_block_is_a_configuration() {
    let mut blocks = 0;
    for block in README.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        let loaded = wsluice::config::load_str("README", text, &|_| None);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
        blocks += 1;
    }
    assert!(blocks > 0, "the README shows a configuration");
}

/// The text of all Rust files below `folder`.
fn sources(folder: &std::path::Path, out: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            out.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_promise_of_the_security_policy_names_tests_that_there_are() {
    let mut all = String::new();
    for folder in ["src", "tests"] {
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut all);
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
        assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    assert!(named > 40, "{named}");
    for promise in promises.split("\n\n**").skip(1) {
        assert!(promise.split('`').any(|word| is_name(&word)), "no test is named: {promise}");
    }
}
