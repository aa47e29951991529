//! The files in `grafana/` ask only for what there is: each metric named there is registered, with the labels that are
//! asked for. What the queries answer is seen by `tests/prometheus/run.sh`, with a real Prometheus.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Registry;
use prometheus::proto::MetricType;
use regex::Regex;
use wsluice::admin::health::Readiness;
use wsluice::session::metrics::{EndLabels, Initiator};
use wsluice::session::registry::SessionRegistry;
use wsluice::telemetry::sink::LogSink;
use wsluice::tls::certificates::{CertificateFiles, Certificates, ClientFiles, ClientTlsScope, ServerFiles};
use wsluice::tls::server::MinVersion;
use wsluice::{auth, control, discovery, handover, probe, proxy, server, session, shared, telemetry, tls, upstream};

/// Labels that Prometheus adds.
const SCRAPED: [&str; 3] = ["job", "instance", "le"];

/// Every metric of the process, with one of each thing they are about: name as in queries, and its labels.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let registry = Registry::new();
    telemetry::process::register(&registry, &LogSink::new(std::io::sink()).unwrap()).unwrap();
    Readiness::new().register(&registry).unwrap();
    wsluice::admin::api::Metrics::register(&registry).unwrap();
    // A drain of one thing, as long as this is held.
    let drain = control::DrainProgress {
        target: control::DrainTarget::Endpoint { upstream: "chat".into(), endpoint: "ws://127.0.0.1:9000".into() },
        span: Duration::ZERO,
        since: UNIX_EPOCH,
    };
    let (_drains, seen) = tokio::sync::watch::channel(vec![drain]);
    control::evict::metrics::register(&registry, SessionRegistry::new(1), seen).unwrap();
    control::metrics::Metrics::register(&registry).unwrap().in_force("1f2e3d", UNIX_EPOCH);
    let predecessors = HashMap::from([(("chat".into(), "ws://127.0.0.1:9000".into()), 1)]);
    handover::Metrics::register(&registry).unwrap().predecessors(1, &predecessors, &HashMap::new());
    let listeners = server::metrics::Metrics::register(&registry).unwrap();
    let _listener = listeners.listener("public", server::metrics::Security::Tls);
    let certificates = Certificates::new(tls::metrics::Metrics::register(&registry).unwrap());
    serve_tls(&certificates);
    let requests = proxy::metrics::Metrics::register(&registry).unwrap().route("public", "chat", &["origin"]);
    requests.request(http::Version::HTTP_11, &http::Method::GET, http::StatusCode::OK, Duration::ZERO);
    let upstreams = upstream::metrics::Metrics::register(&registry).unwrap();
    let _upstream = (upstreams.upstream("chat"), upstreams.endpoint("chat", "ws://127.0.0.1:9000", &["refused"]));
    let _http2 = upstreams.http2("chat");
    let probed = probe::metrics::Metrics::register(&registry).unwrap().endpoint("chat", "ws://127.0.0.1:9000", "tcp");
    probed.probed(Duration::ZERO, Some("connect"));
    probed.set_up(false);
    probed.changed("connect");
    let _discovery = discovery::metrics::Metrics::register(&registry).unwrap().upstream("chat", "dns");
    let url = "https://id.example.com/jwks.json".parse().unwrap();
    let target = wsluice::upstream::connect::ConnectTarget::Address(([127, 0, 0, 1], 1).into());
    let connector = wsluice::upstream::connect::Connector::new(target, None);
    let _keys =
        auth::KeySources::new(auth::metrics::Metrics::register(&registry).unwrap()).of(&url, None, connector.clone());
    let _asked = auth::service::metrics::Metrics::register(&registry).unwrap().route("chat");
    let shared = shared::SharedState::new(shared::metrics::Metrics::register(&registry).unwrap());
    let redis = "routes: [{ name: a, respond: { body: a } }]\nshared: { redis: { url: 'redis://127.0.0.1' } }";
    let redis = wsluice::config::load_str("a.yaml", redis, &|_| None).unwrap().file.shared.unwrap().redis.unwrap();
    let _store = shared.store(&redis, connector.clone(), None);
    let ending = EndLabels::new(Initiator::Client, Some(1000), "closed");
    let _session =
        session::metrics::Metrics::register(&registry, 1).unwrap().route("public", "chat", "chat", &[ending]);

    let mut found = BTreeMap::new();
    for family in registry.gather() {
        let labels: BTreeSet<String> =
            family.get_metric().iter().flat_map(|metric| metric.get_label()).map(|pair| pair.name().into()).collect();
        let endings: &[&str] = match family.get_field_type() {
            MetricType::HISTOGRAM => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for ending in endings {
            found.insert(format!("{}{ending}", family.name()), labels.clone());
        }
    }
    found
}

/// Has a listener and an upstream use a certificate.
fn serve_tls(certificates: &Certificates) {
    let dir = tempfile::tempdir().unwrap();
    let files = CertificateFiles { cert: dir.path().join("chat.crt"), key: dir.path().join("chat.key") };
    let made = rcgen::generate_simple_self_signed(vec!["chat.example".to_owned()]).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut prepared = certificates.prepare(SystemTime::now());
    let towards_servers = ClientFiles { ca: Some(files.cert.clone()), ..ClientFiles::default() };
    let listener =
        ServerFiles { certificates: vec![files], min_version: MinVersion::Tls12, client_auth: None, alpn: vec![b"h2"] };
    prepared.server("public", &listener).unwrap();
    prepared.client("chat", ClientTlsScope::Endpoints, &towards_servers).unwrap();
    certificates.commit(prepared);
}

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

/// All files below `directory`, with their text.
fn files(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            all.push((path, text));
        }
    }
    all
}

/// The values of `key`, wherever it is in `value`.
fn strings_at<'a>(key: &str, value: &'a serde_json::Value, out: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(name, value)| match value {
            serde_json::Value::String(text) if name == key => out.push(text),
            value => strings_at(key, value, out),
        }),
        serde_json::Value::Array(values) => values.iter().for_each(|value| strings_at(key, value, out)),
        _ => {}
    }
}

#[test]
fn every_metric_that_grafana_asks_for_is_registered() {
    let known = metrics();
    let name = Regex::new(r"\b(?:wsluice|process)_[a-z0-9_]+").unwrap();
    let mut asked = 0;
    for (path, text) in files(&grafana()) {
        for found in name.find_iter(&text).map(|found| found.as_str()) {
            assert!(known.contains_key(found), "{}: {found} is not registered", path.display());
            asked += 1;
        }
    }
    assert!(asked > 50, "the files are read at all");
}

#[test]
fn every_label_that_grafana_asks_for_is_one_of_its_metric() {
    let known = metrics();
    let selector = Regex::new(r"\b((?:wsluice|process)_[a-z0-9_]+)\{([^}]*)\}").unwrap();
    let label = Regex::new(r"(\w+)\s*(?:=~|!~|!=|=)").unwrap();
    for (path, text) in files(&grafana()) {
        for selector in selector.captures_iter(&text.replace("\\\"", "\"")) {
            for label in label.captures_iter(&selector[2]).map(|label| label[1].to_owned()) {
                let has = SCRAPED.contains(&&*label) || known[&selector[1]].contains(&label);
                assert!(has, "{}: {} has no label {label}", path.display(), &selector[1]);
            }
        }
    }
}

#[test]
fn dashboards_parse_and_their_panels_have_titles_queries_and_places_of_their_own() {
    for (path, text) in files(&grafana().join("dashboards")) {
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            dashboard["id"].is_null() && dashboard["uid"].is_string(),
            "{}: provisioning needs it so",
            path.display()
        );
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id: {panel}");
            assert!(!panel["title"].as_str().unwrap().is_empty());
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for cell in (0..place("h")).flat_map(|y| (0..place("w")).map(move |x| (x, y))) {
                assert!(cell.0 + place("x") < 24, "{} is too wide", panel["title"]);
                assert!(taken.insert((cell.0 + place("x"), cell.1 + place("y"))), "{} lies on another", panel["title"]);
            }
            if panel["type"] != "row" {
                assert!(!panel["description"].as_str().unwrap().is_empty(), "{} is not explained", panel["title"]);
                let mut queries = Vec::new();
                strings_at("expr", panel, &mut queries);
                assert!(!queries.is_empty(), "{} asks nothing", panel["title"]);
            }
        }
        let mut sources = Vec::new();
        strings_at("uid", &dashboard["panels"], &mut sources);
        assert!(sources.iter().all(|&uid| uid == "${datasource}"), "{}: the reader chooses the source", path.display());
    }
}

#[test]
fn the_other_files_are_yaml_and_each_alert_says_what_to_do() {
    for (path, text) in files(&grafana()).iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "yaml")) {
        let value: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
        for group in value.get("groups").and_then(|groups| groups.as_sequence()).into_iter().flatten() {
            for rule in group["rules"].as_sequence().unwrap() {
                let has = |table: &str, key: &str| rule[table].get(key).is_some_and(|text| text.as_str().is_some());
                assert!(
                    has("labels", "severity")
                        && ["summary", "description", "action"].iter().all(|key| has("annotations", key)),
                    "{}: {rule:?}",
                    path.display()
                );
            }
        }
    }
}
