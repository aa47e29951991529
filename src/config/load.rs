//! Loads a file or a text: returns a [`Config`], or everything that is wrong with it.

use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use crate::base::file_state::{self, BYTE_ORDER_MARK};
use crate::config::Config;
use crate::config::check::{self, Issue, WrittenText};
use crate::config::defaults::{self, DefaultsFault};
use crate::config::guesses::{self, Advice};
use crate::config::include::{self, Assembly};
use crate::config::read::decode::{Fault, Mending, MistakeKind};
use crate::config::read::environment;
use crate::config::read::explain::explain;
use crate::config::read::key::{KeyPath, KeyStep};
use crate::config::read::locate::Aim;
use crate::config::read::report::{ConfigErrors, Finding, Note, Severity, Source, whole_file};
use crate::config::read::survey::{Aliases, Used};
use crate::config::read::tree::{self, YamlNode};
use crate::config::read::{FILE_BYTES_MAX, FINDINGS_MAX};
use crate::config::shown;
use crate::config::single_server;
use crate::config::{ListenerConfig, RouteConfig, UpstreamConfig};

/// The most routes: each has its counters, and a megabyte of the shortest is twice as many.
const ROUTES_MAX: usize = 20_000;

/// The most upstreams: each takes some kilobytes.
const UPSTREAMS_MAX: usize = 10_000;

/// The most listeners: each has a socket for each worker.
const LISTENERS_MAX: usize = 1000;

/// The most pairs of route and listener: each pair has its counters.
const PAIRS_MAX: usize = 100_000;

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub file: Config,
    /// What it probably does not mean.
    pub warnings: Vec<Finding>,
    /// Its text, for later findings.
    pub source: Source,
    /// When it was read.
    pub read_at: SystemTime,
    /// The values from the environment, by their position.
    written: Option<YamlNode>,
    hash: String,
}

impl Loaded {
    /// Returns the file with all defaults filled in, fit to be shown: secrets, passwords, tokens, and values of
    /// headers and parameters that may be credentials are `***`, and a value from the environment is the `${NAME}`
    /// that was written. Keys without a value are left out.
    pub fn shown(&self) -> serde_json::Value {
        shown::shown(&self.file, self.written.as_ref())
    }

    /// Returns the SHA-256, in lower-case hex, of what [`shown`](Self::shown) returns: equal for files that say the
    /// same, on every machine that runs the same version. Masked values, values of the environment and the content of
    /// named files are not in it: two files that differ only in a secret have the same hash, and nobody can test
    /// guesses of a secret against it.
    pub fn hash(&self) -> String {
        self.hash.clone()
    }
}

/// Reads the file at `path` once more, as [`load_file`] does. Refuses what can be read only once, such as a pipe.
///
/// # Errors
///
/// Everything that is wrong, or why the file cannot be read.
pub fn load_again(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let help = "reload works with a regular file".to_owned();
            Err(whole_file(&path.display().to_string(), "the file can be read only once".to_owned(), Some(help)))
        }
        _ => load_file(path, env),
    }
}

/// Reads the file at `path`; `env` looks up the value of `${NAME}`.
///
/// # Errors
///
/// Everything that is wrong, or why the file cannot be read.
pub fn load_file(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    let read_at = SystemTime::now();
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(whole_file(&name, format!("the file cannot be read: {error}"), None));
    }
    match file_state::text(bytes) {
        Ok(text) => load_as(path, &text, env).map(|loaded| Loaded { read_at, ..loaded }),
        Err(error) => Err(whole_file(&name, format!("the file {error}"), None)),
    }
}

/// Reads `text` as that of the file at `path`, which need not be there; the files that it includes are.
///
/// # Errors
///
/// Everything that is wrong.
pub fn load_as(path: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    load_text(&path.display().to_string(), text, env, TextOrigin::File(path))
}

/// Reads `text`, which messages call `name`. It can include nothing.
///
/// # Errors
///
/// Everything that is wrong.
pub fn load_str(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    load_text(name, text, env, TextOrigin::Text)
}

/// Reads a text received from a client. Refuses aliases (`*name`) and `include`.
///
/// # Errors
///
/// Everything that is wrong.
pub fn load_sent(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, ConfigErrors> {
    load_text(name, text, env, TextOrigin::Sent)
}

/// Where a text comes from.
#[derive(Clone, Copy)]
enum TextOrigin<'a> {
    /// A file, which may include others.
    File(&'a Path),
    /// The program itself.
    Text,
    /// A client.
    Sent,
}

/// Adds what the file includes to its tree.
fn assemble(assembly: &mut Assembly<'_>, origin: TextOrigin<'_>) {
    match origin {
        TextOrigin::File(path) => assembly.include(path),
        TextOrigin::Text => assembly.refuse("a text that is no file includes none", "write its content here"),
        TextOrigin::Sent => {
            let message = "nothing can be included here: a text that is sent must not reveal which files there are";
            assembly
                .refuse(message, "send all of it as one text, or no text to check the file with all that it includes");
        }
    }
}

fn load_text(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    origin: TextOrigin<'_>,
) -> Result<Loaded, ConfigErrors> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(whole_file(
            name,
            "the file is larger than 1MiB".to_owned(),
            Some("is it a configuration?".to_owned()),
        ));
    }
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut source = Source::new(name, text);
    let mut used = Used::default();
    let aliases = if matches!(origin, TextOrigin::Sent) { Aliases::Refused } else { Aliases::Allowed };
    let mut tree = read_tree(&source, text, aliases, &mut used)?;
    include::remove_anchors(&mut tree.tree);
    let (notes, unread) = {
        let (tree, source, used) = (&mut tree.tree, &mut source, &mut used);
        let mut assembly = Assembly { tree, source, notes: vec![], unread: vec![], used };
        assemble(&mut assembly, origin);
        (assembly.notes, assembly.unread)
    };
    let is_complete = unread.is_empty() && notes.iter().all(|note| note.severity == Severity::Warning);
    let (mut errors, mut warnings): (Vec<Note>, Vec<Note>) = Default::default();
    for note in notes.into_iter().take(FINDINGS_MAX) {
        match note.severity {
            Severity::Error => errors.push(note),
            Severity::Warning => warnings.push(note),
        }
    }
    let mut say = |severity, path: &KeyPath, aim, message: String, help| {
        let findings = match severity {
            Severity::Error => &mut errors,
            Severity::Warning => &mut warnings,
        };
        if findings.len() < FINDINGS_MAX {
            // A key missing from the file as a whole has no position.
            let aim = (*path != KeyPath::root()).then_some(aim);
            findings.push(Note { severity, path: path.clone(), file: None, aim, message, help });
        }
    };
    too_many(&source, &tree.tree)?;

    for path in tree.duplicates.iter().take(FINDINGS_MAX) {
        let message = "the key is here for the second time".to_owned();
        let is_merge = path.steps().last().is_some_and(|step| *step == KeyStep::Key("<<".to_owned()));
        let help = if is_merge { "write one with a list: `<<: [*name, *other]`" } else { "keep one of the two" };
        say(Severity::Error, path, Aim::SecondKey, message, Some(help.to_owned()));
    }
    let mut removed = Vec::new();
    for unfilled in environment::fill(&mut tree.tree, env).into_iter().take(FINDINGS_MAX) {
        say(Severity::Error, &unfilled.path, Aim::Value, unfilled.problem, Some(unfilled.help));
        tree.tree.remove(&unfilled.path);
        removed.push(unfilled.path);
    }
    single_server::name_servers(&mut tree.tree, &mut source.parts, UPSTREAMS_MAX);
    let mut mending = Mending::new(FINDINGS_MAX, removed);
    let (inherited, faults) = defaults::fill_in(&mut tree.tree, &mut mending);
    for DefaultsFault { path, problem, help } in faults {
        say(Severity::Error, &path, Aim::Key, problem, Some(help));
    }
    // A section of another kind is reported as a whole.
    let (listeners, routes, upstreams) =
        (KeyPath::root().key("listeners"), KeyPath::root().key("routes"), KeyPath::root().key("upstreams"));
    if let Some(YamlNode::List(_)) = tree.tree.at(&listeners) {
        mending.each::<ListenerConfig>(&mut tree.tree, &listeners);
    }
    if let Some(YamlNode::List(_)) = tree.tree.at(&routes) {
        mending.each::<RouteConfig>(&mut tree.tree, &routes);
    }
    if let Some(YamlNode::Map(_)) = tree.tree.at(&upstreams) {
        mending.each::<UpstreamConfig>(&mut tree.tree, &upstreams);
    }
    let decoded = mending.decode::<Config>(&mut tree.tree, stand_in);
    for Explained { path, aim, message, help } in explained(decoded.faults, &tree.tree) {
        say(Severity::Error, &path, aim, message, help);
    }
    let mut file = decoded.value;
    if let Some(file) = &mut file {
        let written = WrittenText::new(&tree.tree, &source, &inherited);
        check::settle(file, &written);
        // What is in a file that could not be read may be missed everywhere.
        let issues = if is_complete { check::check(file, &written) } else { vec![] };
        for issue in issues.into_iter().filter(|issue| !issue.concerns(&decoded.removed)) {
            let Issue { severity, path, aim, message, help, .. } = issue;
            say(severity, &path, aim, message, help);
        }
    }

    match file {
        Some(file) if errors.is_empty() && unread.is_empty() => {
            let written = shown::keep(tree.tree);
            let hash = shown::hash(&file, written.as_ref());
            let warnings = source.findings(warnings);
            Ok(Loaded { file, warnings, source, read_at: SystemTime::now(), written, hash })
        }
        _ => {
            let mut errors = source.findings(errors);
            errors.extend(unread);
            source.sort(&mut errors);
            errors.truncate(FINDINGS_MAX);
            Err(ConfigErrors::new(&source, errors))
        }
    }
}

/// A mistake in words.
struct Explained {
    path: KeyPath,
    aim: Aim,
    message: String,
    help: Option<String>,
}

/// Puts faults into words. Several keys of a map that are wrong guesses of one thing are told once, and what they were
/// meant to be is not told to be missing.
fn explained(faults: Vec<Fault>, tree: &YamlNode) -> Vec<Explained> {
    let mut advised: Vec<(Option<KeyPath>, Advice)> = vec![];
    let mut all = vec![];
    for fault in faults {
        let advice = guesses::advice(&fault);
        let path = fault.path();
        let has_said = |map: Option<KeyPath>, what: &dyn Fn(&Advice) -> bool| {
            advised.iter().any(|(at, advice)| *at == map && what(advice))
        };
        let is_told = match (&fault.kind, &advice) {
            (MistakeKind::Missing(field), _) => {
                let field = format!("`{field}: ");
                has_said(Some(path.clone()), &|advice| advice.text.contains(&field))
            }
            (_, Some(advice)) if fault.at_key => has_said(path.parent(), &|said| said.known == advice.known),
            _ => false,
        };
        if is_told {
            continue;
        }
        let is_key = fault.at_key;
        let (path, aim, message, help) = explain(tree, fault);
        let help = advice.as_ref().map(|advice| advice.text.clone()).or(help);
        if let (true, Some(advice)) = (is_key, advice) {
            advised.push((path.parent(), advice));
        }
        all.push(Explained { path, aim, message, help });
    }
    all
}

/// Refuses a file that would build more routes, listeners or upstreams than anybody needs.
fn too_many(source: &Source, tree: &YamlNode) -> Result<(), ConfigErrors> {
    let count = |key: &str| match tree.at(&KeyPath::root().key(key)) {
        Some(YamlNode::List(nodes)) => nodes.len(),
        Some(YamlNode::Map(entries)) => entries.len(),
        _ => 0,
    };
    let (routes, listeners, upstreams) = (count("routes"), count("listeners"), count("upstreams"));
    let (key, message) = if routes > ROUTES_MAX {
        ("routes", format!("there are {routes} routes, more than {ROUTES_MAX}"))
    } else if listeners > LISTENERS_MAX {
        ("listeners", format!("there are {listeners} listeners, more than {LISTENERS_MAX}"))
    } else if upstreams > UPSTREAMS_MAX {
        ("upstreams", format!("there are {upstreams} upstreams, more than {UPSTREAMS_MAX}"))
    } else if routes * listeners > PAIRS_MAX {
        let pairs = routes * listeners;
        ("listeners", format!("{routes} routes for each of {listeners} listeners are {pairs}, more than {PAIRS_MAX}"))
    } else {
        return Ok(());
    };
    let help = "combine some, or split them between processes";
    let path = KeyPath::root().key(key);
    let finding = source.finding(Severity::Error, &path, Some(Aim::Key), message, Some(help.to_owned()));
    Err(ConfigErrors::new(source, vec![finding]))
}

fn read_tree(source: &Source, text: &str, aliases: Aliases, used: &mut Used) -> Result<tree::Parsed, ConfigErrors> {
    let fail = |at, message: &str, help: Option<String>| {
        let finding = source.finding_at(Severity::Error, &KeyPath::root(), at, message.to_owned(), help);
        Err(ConfigErrors::new(source, vec![finding]))
    };
    let parsed = match tree::parse_within(text, aliases, used) {
        Ok(parsed) => parsed,
        Err(unparsed) => return fail(unparsed.at, &unparsed.problem, unparsed.help),
    };
    let start = "it needs at least `routes`; see config/minimal.yaml".to_owned();
    match &parsed.tree {
        YamlNode::Map(_) => Ok(parsed),
        YamlNode::Null => fail(None, "the file is empty", Some(start)),
        other => fail(Some((1, 1)), &format!("the file is {}, not a map of keys", other.kind()), Some(start)),
    }
}

/// Returns a replacement for a missing section, so that the rest can still be checked.
fn stand_in(key: &str) -> Option<YamlNode> {
    match key {
        "routes" => Some(YamlNode::List(Vec::new())),
        "upstreams" => Some(YamlNode::Map(Vec::new())),
        _ => None,
    }
}
