//! Endpoint lists outside the configuration: a file that discovery reads, a value in etcd.
//!
//! They are read with the same care as the configuration, and mistakes are reported the same way, but aliases
//! (`*name`) are refused: programs write these lists, and their writer must not be able to make a list larger than it
//! is. There are two forms: our own, a list as under `endpoints:`; and Prometheus's `file_sd`, a list of groups with
//! `targets` and `labels`, which many deployment tools write already. `${NAME}` is not filled in: the writer of such
//! a list knows its values.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::base::file_state::BYTE_ORDER_MARK;
use crate::config::read::decode::Mending;
use crate::config::read::explain::explain;
use crate::config::read::key::KeyPath;
use crate::config::read::locate::Aim;
use crate::config::read::report::{ConfigErrors, Note, Severity, Source, whole_file};
use crate::config::read::suggest::did_you_mean;
use crate::config::read::survey::Aliases;
use crate::config::read::tree::{self, YamlNode};
use crate::config::read::{FILE_BYTES_MAX, FINDINGS_MAX};
use crate::config::schema::endpoint::{EndpointConfig, Scheme};
use crate::config::value::address::EndpointUrl;

/// The most endpoints of an upstream; a longer list is of another kind.
pub const ENDPOINTS_MAX: usize = 10_000;

/// The longest text of one endpoint.
pub const ENDPOINT_BYTES_MAX: usize = 16 << 10;

/// One group of Prometheus's `file_sd`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetGroup {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The labels of a group that are read; all others are for Prometheus.
const LABELS: &[&str] =
    &["__wsluice_weight__", "__wsluice_max_connections__", "__wsluice_priority__", "__wsluice_zone__"];

/// Reads a list of endpoints, in YAML or JSON, which messages call `name`. `scheme` applies to targets of `file_sd`.
///
/// # Errors
/// Everything that is wrong. A list with a mistake is not used at all.
pub fn load_endpoints(name: &str, text: &str, scheme: Scheme) -> Result<Vec<EndpointConfig>, ConfigErrors> {
    let (source, mut tree) = parse(name, text)?;
    let written = count(&tree.0);
    if written > ENDPOINTS_MAX {
        let message = format!("the list has {written} endpoints, more than {ENDPOINTS_MAX}");
        return Err(whole_file(name, message, None));
    }
    let mut findings = Findings { source: &source, found: tree.1 };
    let endpoints: Vec<(KeyPath, EndpointConfig)> = match &mut tree.0 {
        YamlNode::List(nodes) if nodes.is_empty() => vec![],
        YamlNode::List(nodes) if nodes.iter().any(is_group) => {
            let groups: Vec<TargetGroup> = findings.decode_list(&mut tree.0);
            groups.iter().enumerate().flat_map(|(index, group)| findings.group(index, group, scheme)).collect()
        }
        YamlNode::List(_) => {
            let endpoints: Vec<EndpointConfig> = findings.decode_list(&mut tree.0);
            let at = |index| KeyPath::root().index(index);
            endpoints.into_iter().enumerate().map(|(index, endpoint)| (at(index), endpoint)).collect()
        }
        YamlNode::Null => {
            return Err(whole_file(name, "the file is empty".into(), Some("write `[]` for none".into())));
        }
        other => {
            let message = format!("expected a list of endpoints, found {}", other.kind());
            let help = "write each as `- ws://10.0.0.11:9000`, or as Prometheus's file_sd does".to_owned();
            return Err(whole_file(name, message, Some(help)));
        }
    };
    // An element taken out of a list moves the rest: positions are right only while nothing is wrong.
    if findings.found.is_empty() {
        findings.judge(&endpoints);
    }
    findings.end()?;
    Ok(endpoints.into_iter().map(|(_, endpoint)| endpoint).collect())
}

/// Reads one endpoint, in YAML or JSON: a URL, or a map with `url`.
///
/// # Errors
/// Everything that is wrong.
pub fn load_endpoint(name: &str, text: &str) -> Result<EndpointConfig, ConfigErrors> {
    if text.len() > ENDPOINT_BYTES_MAX {
        return Err(whole_file(name, format!("one endpoint has at most {ENDPOINT_BYTES_MAX} bytes"), None));
    }
    let (source, mut tree) = parse(name, text)?;
    let mut findings = Findings { source: &source, found: tree.1 };
    let endpoint = findings.decode::<EndpointConfig>(&mut tree.0);
    if let (Some(endpoint), []) = (&endpoint, &*findings.found) {
        findings.judge_one(&KeyPath::root(), endpoint);
    }
    findings.end()?;
    endpoint.ok_or_else(|| whole_file(name, "there is no endpoint".into(), None))
}

/// Counts the endpoints that a list names, whatever they are.
fn count(list: &YamlNode) -> usize {
    let YamlNode::List(nodes) = list else { return 0 };
    let targets = KeyPath::root().key("targets");
    let each = nodes.iter().map(|node| match node.at(&targets) {
        Some(YamlNode::List(targets)) => targets.len(),
        _ => 1,
    });
    // Groups without targets count as well.
    each.sum::<usize>().max(nodes.len())
}

fn parse(name: &str, text: &str) -> Result<(Source, (YamlNode, Vec<Note>)), ConfigErrors> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(whole_file(name, "it is larger than 1MiB".to_owned(), None));
    }
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let source = Source::new(name, text);
    let parsed = tree::parse(text, Aliases::Refused).map_err(|unparsed| {
        let root = KeyPath::root();
        let finding = source.finding_at(Severity::Error, &root, unparsed.at, unparsed.problem, unparsed.help);
        ConfigErrors::new(&source, vec![finding])
    })?;
    let twice = |path: &KeyPath| Note {
        file: None,
        severity: Severity::Error,
        path: path.clone(),
        aim: Some(Aim::SecondKey),
        message: "the key is here for the second time".to_owned(),
        help: Some("keep one of the two".to_owned()),
    };
    let found = parsed.duplicates.iter().take(FINDINGS_MAX).map(twice).collect();
    Ok((source, (parsed.tree, found)))
}

fn is_group(node: &YamlNode) -> bool {
    matches!(node, YamlNode::Map(entries) if entries.iter().any(|(key, _)| key == "targets"))
}

struct Findings<'a> {
    source: &'a Source,
    found: Vec<Note>,
}

impl Findings<'_> {
    fn error(&mut self, path: &KeyPath, aim: Aim, message: impl Into<String>, help: Option<String>) {
        if self.found.len() < FINDINGS_MAX {
            let (path, message) = (path.clone(), message.into());
            self.found.push(Note { file: None, severity: Severity::Error, path, aim: Some(aim), message, help });
        }
    }

    fn decode<T: DeserializeOwned>(&mut self, tree: &mut YamlNode) -> Option<T> {
        self.finish(Mending::new(FINDINGS_MAX, vec![]), tree)
    }

    fn decode_list<T: DeserializeOwned>(&mut self, tree: &mut YamlNode) -> Vec<T> {
        let mut mending = Mending::new(FINDINGS_MAX, vec![]);
        mending.each::<T>(tree, &KeyPath::root());
        self.finish(mending, tree).unwrap_or_default()
    }

    fn finish<T: DeserializeOwned>(&mut self, mending: Mending, tree: &mut YamlNode) -> Option<T> {
        let decoded = mending.decode::<T>(tree, |_| None);
        for fault in decoded.faults {
            let (path, aim, message, help) = explain(tree, fault);
            self.error(&path, aim, message, help);
        }
        decoded.value
    }

    /// Returns the endpoints of one group, each with its path.
    fn group(&mut self, index: usize, group: &TargetGroup, scheme: Scheme) -> Vec<(KeyPath, EndpointConfig)> {
        let path = KeyPath::root().index(index);
        let labels = path.key("labels");
        for label in group.labels.keys() {
            if label.starts_with("__wsluice_") && !LABELS.contains(&label.as_str()) {
                self.error(&labels.key(label), Aim::Key, "unknown label", did_you_mean(label, LABELS));
            }
        }
        let weight = self.number::<u16>(&labels, group, LABELS[0]);
        let max_connections = self.number::<u32>(&labels, group, LABELS[1]);
        let priority = self.number::<u8>(&labels, group, LABELS[2]).unwrap_or(0);
        let zone = group.labels.get(LABELS[3]);
        let mut endpoints = vec![];
        for (index, target) in group.targets.iter().enumerate() {
            let path = path.key("targets").index(index);
            let url = match target.contains("://") {
                true => {
                    let help = "write `host:port`; `scheme` in the configuration says whether it is ws or wss";
                    self.error(&path, Aim::Value, format!("`{target}` is a URL"), Some(help.to_owned()));
                    continue;
                }
                false => format!("{}://{target}", scheme.as_str()).parse::<EndpointUrl>(),
            };
            match url {
                Ok(url) => {
                    let endpoint = EndpointConfig::at(url);
                    let weight = weight.unwrap_or(endpoint.weight);
                    endpoints.push((
                        path,
                        EndpointConfig { weight, max_connections, priority, zone: zone.cloned(), ..endpoint },
                    ));
                }
                Err(bad) => self.error(&path, Aim::Value, bad.problem, Some(bad.help)),
            }
        }
        endpoints
    }

    /// Reads a number from a label; labels are strings.
    fn number<T: std::str::FromStr>(&mut self, labels: &KeyPath, group: &TargetGroup, label: &str) -> Option<T> {
        let text = group.labels.get(label)?;
        let number = text.parse().ok();
        if number.is_none() {
            let help = "write digits, in quotes as labels are".to_owned();
            self.error(&labels.key(label), Aim::Value, format!("`{text}` is not a number that fits"), Some(help));
        }
        number
    }

    fn judge(&mut self, endpoints: &[(KeyPath, EndpointConfig)]) {
        let mut first: HashMap<&EndpointUrl, &KeyPath> = HashMap::new();
        for (path, endpoint) in endpoints {
            if let Some(before) = first.get(&endpoint.url) {
                let message = format!("`{}` is the same endpoint as {before}", endpoint.url);
                self.error(path, Aim::Value, message, Some("name each endpoint once".to_owned()));
            }
            first.entry(&endpoint.url).or_insert(path);
            self.judge_one(path, endpoint);
        }
    }

    fn judge_one(&mut self, path: &KeyPath, endpoint: &EndpointConfig) {
        if endpoint.max_connections == Some(0) {
            let help = "leave it out for no limit, or write `weight: 0` for no new sessions".to_owned();
            self.error(path, Aim::Value, "no session would ever fit", Some(help));
        }
    }

    fn end(self) -> Result<(), ConfigErrors> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut found = self.source.findings(self.found);
        found.sort_by_key(|finding| (finding.line.unwrap_or(usize::MAX), finding.col));
        Err(ConfigErrors::new(self.source, found))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(text: &str) -> Vec<String> {
        let show = |endpoint: &EndpointConfig| format!("{} {}", endpoint.url, endpoint.weight);
        load_endpoints("list.yaml", text, Scheme::Ws).unwrap().iter().map(show).collect()
    }

    fn refused(text: &str) -> String {
        load_endpoints("list.yaml", text, Scheme::Ws).unwrap_err().to_string()
    }

    #[test]
    fn our_own_form_is_a_list_as_in_the_configuration() {
        assert_eq!(load("- ws://a:1\n- { url: wss://b, weight: 5 }\n"), ["ws://a:1 1", "wss://b:443 5"]);
        assert_eq!(load(r#"["ws://a:1", {"url": "unix:/run/b", "weight": 0}]"#), ["ws://a:1 1", "unix:/run/b 0"]);
        assert_eq!(load("[]"), Vec::<String>::new());
    }

    #[test]
    fn the_form_of_prometheus_is_read_with_its_labels() {
        let text = r#"[
            {"targets": ["10.0.0.1:9000", "b:9001"], "labels": {"job": "chat", "__wsluice_weight__": "3"}},
            {"targets": ["[::1]:9000"]}
        ]"#;
        assert_eq!(load(text), ["ws://10.0.0.1:9000 3", "ws://b:9001 3", "ws://[::1]:9000 1"]);
        let wss = load_endpoints("list.json", r#"[{"targets": ["b"]}]"#, Scheme::Wss).unwrap();
        assert_eq!(wss[0].url.to_string(), "wss://b:443");
    }

    #[test]
    fn mistakes_are_told_at_their_place_and_all_at_once() {
        let text = "- ws://a:1\n- { url: b:2 }\n- { url: ws://c, wieght: 3 }\n";
        let told = refused(text);
        assert!(told.contains("list.yaml:2:10") && told.contains("`b:2` has no scheme"), "{told}");
        assert!(told.contains("list.yaml:3:18") && told.contains("did you mean `weight`"), "{told}");
        let told = refused("- targets: ['ws://a:1', 'a b']\n  labels: { __wsluice_weigth__: '1' }\n");
        assert!(told.contains("write `host:port`") && told.contains("`a b` is not a host"), "{told}");
        assert!(told.contains("list.yaml:2:13") && told.contains("__wsluice_weight__"), "{told}");
        let told = refused("- ws://a:1\n- ws://b:1\n- { url: http://a:1 }\n");
        assert!(told.contains("list.yaml:3") && told.contains("the same endpoint as [0]"), "{told}");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, problem) in [
            ("", "the file is empty"),
            ("endpoints: [ws://a:1]", "expected a list of endpoints, found a map"),
            ("- ws://a:1\n- }", "list.yaml:2"),
            ("- ws://a:1\n- ", "there is no value"),
            ("- { url: ws://a, max_connections: 0 }", "no session would ever fit"),
            ("- &a ws://a:1\n- *a", "aliases (`*name`) are not followed here"),
        ] {
            assert!(refused(text).contains(problem), "{text:?}: {}", refused(text));
        }
        let many: String = (0..=ENDPOINTS_MAX).map(|port| format!("- ws://h{port}\n")).collect();
        assert!(refused(&many).contains("10001 endpoints"));
    }

    #[test]
    fn a_value_is_one_endpoint() {
        let load = |text| load_endpoint("chat/1", text);
        assert_eq!(load("ws://a:1").unwrap(), load(r#"{"url": "ws://a:1"}"#).unwrap());
        assert_eq!(load("{ url: ws://a, weight: 9 }").unwrap().weight, 9);
        let long = format!("{{ url: ws://a, zone: {} }}", "x".repeat(ENDPOINT_BYTES_MAX));
        for text in [&*long, "", "a", "[ws://a]", "{ url: ws://a, url: ws://b }", "{"] {
            load(text).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|[-\\[\\]{}:, \\n'\"a-z0-9_]{0,60}") {
            let _ = load_endpoints("list", &text, Scheme::Ws);
            let _ = load_endpoint("value", &text);
        }
    }
}
