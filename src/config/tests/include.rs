//! Several files are read as one, and each mistake is told with the file that it is in.

use std::path::Path;

use tempfile::TempDir;

use crate::config::*;

/// A folder with these files; the first is the main one.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn load(dir: &Path) -> Result<Loaded, ConfigErrors> {
    load_file(&dir.join("main.yaml"), &|_| None)
}

/// Returns `file:line:column path: message | help` of each error, or else of each warning.
fn said(files: &[(&str, &str)]) -> Vec<String> {
    let dir = folder(files);
    let root = format!("{}/", dir.path().display());
    let findings = load(dir.path()).map_or_else(|errors| errors.findings().to_vec(), |loaded| loaded.warnings);
    let say = |finding: &Finding| {
        let at = finding.line.zip(finding.col).map(|(line, col)| format!(":{line}:{col}")).unwrap_or_default();
        let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
        let help = finding.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{}{at} {path}{}{help}", finding.file, finding.message).replace(&root, "")
    };
    findings.iter().map(say).collect()
}

const MAIN: &str = "\
include: [conf.d/*.yaml, last.yaml]
defaults: { route: { keepalive: { ping: 25s } } }
listeners: [{ name: public, bind: '127.0.0.1:1' }]
routes: [{ name: first, upstream: first, match: { path: { exact: /first } } }]
upstreams: { first: { endpoints: ['ws://a:1'] } }
";

const A: &str = "\
version: 1
x-match: &match { path: { exact: /a } }
routes: [{ name: a, upstream: a, match: *match }]
upstreams: { a: { endpoints: ['ws://a:2'] } }
";

const B: &str = "\
listeners: [{ name: inside, bind: '127.0.0.1:2' }]
routes:
  - { name: b, upstream: a, match: { path: { exact: /b }, listeners: [inside] } }
";

const LAST: &str = "routes: [{ name: last, match: { path: { prefix: /last } }, upstream: first }]\n";

#[test]
fn files_are_appended_in_their_order() {
    let files = [
        ("main.yaml", MAIN),
        ("conf.d/b.yaml", B),
        ("conf.d/a.yaml", A),
        ("conf.d/empty.yaml", "# all of it is commented out\n"),
        ("conf.d/.hidden.yaml", "nothing: here\n"),
        ("conf.d/other.yml", "nothing: here\n"),
        ("conf.d/folder.yaml/x", ""),
        ("last.yaml", LAST),
    ];
    let dir = folder(&files);
    let loaded = load(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
    let names: Vec<&str> = loaded.file.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["first", "a", "b", "last"]);
    assert!(loaded.file.routes.iter().all(|route| route.keepalive.ping.to_string() == "25s"));
    assert_eq!((loaded.file.listeners.len(), loaded.file.upstreams.len()), (2, 2));
    let included: Vec<&str> = loaded.source.included().map(|name| name.rsplit_once('/').unwrap().1).collect();
    assert_eq!(included, ["a.yaml", "b.yaml", "empty.yaml", "last.yaml"]);
    // As one file, it is the same.
    let one = "\
defaults: { route: { keepalive: { ping: 25s } } }
listeners: [{ name: public, bind: '127.0.0.1:1' }, { name: inside, bind: '127.0.0.1:2' }]
routes:
  - { name: first, upstream: first, match: { path: { exact: /first } } }
  - { name: a, upstream: a, match: { path: { exact: /a } } }
  - { name: b, upstream: a, match: { path: { exact: /b }, listeners: [inside] } }
  - { name: last, match: { path: { prefix: /last } }, upstream: first }
upstreams: { first: { endpoints: ['ws://a:1'] }, a: { endpoints: ['ws://a:2'] } }
";
    let one = load_str("one.yaml", one, &|_| None).unwrap();
    assert!(one.file == loaded.file);
    assert_eq!((one.hash(), one.shown()), (loaded.hash(), loaded.shown()));
    let mut files = IncludedFiles::of_file(&dir.path().join("main.yaml")).unwrap().list();
    assert_eq!(files.pop(), Some(dir.path().join("last.yaml")));
    assert_eq!(files.len(), 3);
}

#[test]
fn a_main_file_may_have_includes_only_and_is_not_one_of_them() {
    let files = [("main.yaml", "include: ['*.yaml']\n"), ("a.yaml", A)];
    let dir = folder(&files);
    assert_eq!(load(dir.path()).unwrap().file.routes.len(), 1);
    // From the folder itself.
    assert!(load_as(Path::new("main.yaml"), "include: ['*.nowhere']\n", &|_| None).is_err());
}

#[test]
fn each_mistake_is_told_with_its_file() {
    let with =
        |text: &str| said(&[("main.yaml", MAIN), ("conf.d/a.yaml", A), ("conf.d/b.yaml", text), ("last.yaml", LAST)]);
    for (text, expected) in [
        (
            "routes:\n  - { name: x, upstream: frist, match: { path: { exact: /x } } }\n  - { name: a, upstream: first, timeouts: { idle: 5min } }\n",
            &[
                "conf.d/b.yaml:2:26 routes[0].upstream: there is no upstream `frist` | did you mean `first`?",
                "conf.d/b.yaml:3:13 routes[1].name: `a` is already the name of routes[0] of conf.d/a.yaml | give each its own name",
                "conf.d/b.yaml:3:51 routes[1].timeouts.idle: `5min` has an unknown unit `min` | write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`, or `off`",
            ][..],
        ),
        (
            "upstreams: { a: { endpoints: ['ws://b'] }, first: { endpoints: ['ws://b'] }, c: { endpoints: [b] } }\n",
            &[
                "conf.d/b.yaml:1:14 upstreams.a: `a` is already the name of an upstream in conf.d/a.yaml | give each its own name",
                "conf.d/b.yaml:1:44 upstreams.first: `first` is already the name of an upstream in main.yaml | give each its own name",
                "conf.d/b.yaml:1:95 upstreams.c.endpoints[0]: `b` has no scheme | write `ws://b`",
            ],
        ),
        (
            "listeners: [{ name: public, bind: '127.0.0.1:1' }]\n",
            &[
                "conf.d/b.yaml:1:21 listeners[0].name: `public` is already the name of listeners[0] of main.yaml | give each its own name",
                "conf.d/b.yaml:1:35 listeners[0].bind: `127.0.0.1:1` cannot be bound: listeners[0].bind of main.yaml takes it already | use another port or address",
            ],
        ),
        (
            "include: [a.yaml]\nadmin: { bind: '127.0.0.1:3' }\ndefaults: {}\nversion: 2\nroute: []\nfoo: 1\nroutes: { a: {} }\nupstreams:\n",
            &[
                "conf.d/b.yaml:1:1 include: an included file includes no others | name the files in main.yaml",
                "conf.d/b.yaml:2:1 admin: this holds for the whole process, not for one file | write it in main.yaml",
                "conf.d/b.yaml:3:1 defaults: this holds for the whole process, not for one file | write it in main.yaml",
                "conf.d/b.yaml:4:10 version: this version of wsluice reads configurations of version 1 only | write `version: 1`",
                "conf.d/b.yaml:5:1 route: unknown key | did you mean `routes`?",
                "conf.d/b.yaml:6:1 foo: unknown key | known here: `listeners`, `routes`, `upstreams`",
                "conf.d/b.yaml:7:9 routes: expected a list, found a map",
                "conf.d/b.yaml:8:1 upstreams: there is no value | write one, or remove the key",
            ],
        ),
        (
            "routes: []\nroutes: []\n",
            &["conf.d/b.yaml:2:1 routes: the key is here for the second time | keep one of the two"],
        ),
        (
            "routes: [1, 2\nfoo: 3\n",
            &[
                "conf.d/b.yaml:2:4 this is not YAML: did not find expected ',' or ']', while parsing a flow sequence at line 1 column 9",
            ],
        ),
        (
            "- a\n",
            &[
                "conf.d/b.yaml:1:1 the file is a list, not a map of keys | it may have `listeners`, `routes` and `upstreams`",
            ],
        ),
        (
            "routes:\n  - { name: x, upstream: first, match: { path: { prefix: /first } } }\n  - { name: y, upstream: a, match: { path: { exact: /first/y } } }\n",
            &[
                "conf.d/b.yaml:3:5 routes[1]: no request ever comes to this route, since routes[0] takes all that it matches | put the narrower route first, or remove this one",
            ],
        ),
        (
            "routes:\n  - { name: x, upstream: first, match: { path: { exact: /a } } }\n",
            &[
                "conf.d/b.yaml:2:5 routes[0]: no request ever comes to this route, since routes[0] of conf.d/a.yaml takes all that it matches | put the narrower route first, or remove this one",
            ],
        ),
    ] {
        assert_eq!(with(text), expected, "\n{text}");
    }
    let report = load(folder(&[("main.yaml", MAIN), ("last.yaml", "foo: 1\n"), ("conf.d/a.yaml", A)]).path());
    let report = report.unwrap_err().to_string();
    assert!(report.contains("last.yaml:1:1\n") && report.contains("1 | foo: 1\n"), "{report}");
    assert!(report.ends_with("main.yaml and what it includes"), "{report}");
}

#[test]
fn what_cannot_be_included_says_why() {
    let main = |include: &str| format!("include: {include}\n{}", super::FRAME);
    for (include, expected) in [
        ("['conf.d/*.yaml']", "main.yaml:1:11 include[0]: the folder of `conf.d/*.yaml` cannot be read: "),
        ("['*.yml']", "main.yaml:1:11 include[0]: there is no file `*.yml` in the folder of this one"),
        ("[other.yaml]", "main.yaml:1:11 include[0]: other.yaml cannot be read: "),
        ("[main.yaml]", "main.yaml:1:11 include[0]: `main.yaml` is this file, or included already"),
        ("['*/a.yaml']", "main.yaml:1:11 include[0]: `*/a.yaml` has a wildcard in the name of a folder | write a file"),
        ("['${DIR}/a.yaml']", "main.yaml:1:11 include[0]: "),
        ("conf.d", "main.yaml:1:10 include: expected a list, found the string \"conf.d\""),
        (
            "[7]",
            "main.yaml:1:11 include[0]: expected a file or a pattern of names such as `conf.d/*.yaml`, found the number 7",
        ),
    ] {
        let text = main(include);
        let said = said(&[("main.yaml", &text)]);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{include}: {said:#?}");
    }
    let text = main("[a.yaml]");
    let refused = |loaded: Result<Loaded, ConfigErrors>| loaded.unwrap_err().findings()[0].message.clone();
    assert_eq!(refused(load_str("a", &text, &|_| None)), "a text that is no file includes none");
    assert_eq!(
        refused(load_sent("request", &text, &|_| None)),
        "nothing can be included here: a text that is sent must not reveal which files there are"
    );
}

#[test]
fn all_files_together_have_the_bounds_of_one() {
    let half = format!("#{}\n", "x".repeat(600_000));
    let files =
        [("main.yaml", MAIN), ("conf.d/a.yaml", &format!("{A}{half}")), ("last.yaml", &format!("{LAST}{half}"))];
    assert_eq!(said(&files), ["main.yaml:1:26 include[1]: last.yaml makes all files together larger than 1MiB"]);
    let values = format!("x-values: [{}]\n", "a,".repeat(150_000));
    let files =
        [("main.yaml", MAIN), ("conf.d/a.yaml", &format!("{A}{values}")), ("last.yaml", &format!("{values}{LAST}"))];
    let said = said(&files);
    assert!(said.len() == 1 && said[0].starts_with("last.yaml:1:"), "{said:#?}");
    assert!(said[0].contains("the file has too many values"), "{said:#?}");
}
