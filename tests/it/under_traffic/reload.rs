//! Reloads by a signal and by a change of the file.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{NAME, Site, all_hear, configuration, finish};
use crate::harness::Authority;
use crate::harness::traffic::{Client, Peers, Talk, To};
use crate::process::{Process, put};

const ROUTES: &str = "upstream: app }\n";
const ONE_MORE: &str = "upstream: app }\n  - { name: two, match: { path: { prefix: /two } }, upstream: app }\n";

/// Writes a configuration with one more route, and triggers a reload; then the new route answers, no session has missed
/// a message, and the metrics name the trigger.
async fn one_more_route(mut site: Site, trigger: &str, tell: impl FnOnce(&Site, &str)) {
    let clients = site.sessions("/one").await;
    all_hear(&clients).await;
    let before = site.metrics().await;
    let text = site.changed(ROUTES, ONE_MORE);
    tell(&site, &text);
    let line = site.reloaded(trigger, "configuration reloaded").await;
    assert_eq!((line["routes"].as_str(), line["sessions_closing"].as_u64()), (Some("+two"), Some(0)), "{line}");
    let new = site.sessions("/two").await;
    all_hear(&clients).await;
    let text = site.metrics().await;
    let value = |name: &str, labels: &[(&str, &str)]| crate::harness::value(&text, name, labels);
    for (by, done) in [("signal", 0.0), ("watch", 0.0), ("api", 0.0)].map(|(by, _)| (by, f64::from(by == trigger))) {
        for (result, count) in [("done", done), ("refused", 0.0)] {
            let labels = [("trigger", by), ("result", result)];
            assert_eq!(value("wsluice_config_reloads_total", &labels), count, "{by} {result}");
        }
    }
    assert_eq!(value("wsluice_config_last_reload_successful", &[]), 1.0);
    let since = |text: &str| crate::harness::value(text, "wsluice_config_loaded_timestamp_seconds", &[]);
    assert!(since(&text) > since(&before));
    let hash = |text: &str| text.lines().find(|line| line.starts_with("wsluice_config_info{")).unwrap().to_owned();
    assert_ne!(hash(&text), hash(&before));
    finish(clients, &site.peers).await;
    finish(new, &site.peers).await;
    assert!(site.process.runs());
}

#[tokio::test]
async fn hup_reloads_and_nobody_notices() {
    let site = Site::start("watch: false").await;
    let tell = |site: &Site, text: &str| {
        put(&site.config(), text);
        site.process.signal(Signal::HUP);
    };
    one_more_route(site, "signal", tell).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_is_reloaded_and_nobody_notices() {
    let site = Site::start("").await;
    one_more_route(site, "watch", |site, text| put(&site.config(), text)).await;
}

/// As Kubernetes mounts a ConfigMap: the file is a symlink into `..data`, itself a symlink to a directory of this
/// version. An update creates another directory, and renames a new symlink over `..data`.
fn mounted(dir: &Path, version: &str, text: &str) -> PathBuf {
    let (real, data, new, file) =
        (dir.join(version), dir.join("..data"), dir.join("..data_tmp"), dir.join("wsluice.yaml"));
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("wsluice.yaml"), text).unwrap();
    symlink(version, &new).unwrap();
    std::fs::rename(&new, &data).unwrap();
    if !file.exists() {
        symlink("..data/wsluice.yaml", &file).unwrap();
    }
    file
}

#[tokio::test]
async fn a_mounted_directory_that_is_swapped_is_reloaded_and_nobody_notices() {
    let site = Site::start_as("", |dir, text| mounted(dir, "..2026_11_21_1", text)).await;
    let tell = |site: &Site, text: &str| {
        mounted(site.dir.path(), "..2026_11_21_2", text);
        std::fs::remove_dir_all(site.dir.path().join("..2026_11_21_1")).unwrap();
    };
    one_more_route(site, "watch", tell).await;
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing_and_is_told_until_it_is_mended() {
    let mut site = Site::start("").await;
    let clients = site.sessions("/one").await;
    let good = site.text.clone();
    let text = site.changed(ROUTES, &ONE_MORE.replace("upstream: app }\n  -", "upstream: none }\n  -"));
    put(&site.config(), &text);
    let line = site.reloaded("watch", "the new configuration is refused").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("wsluice.yaml:") && error.contains("none"), "{error}");
    assert_eq!(site.metric("wsluice_config_last_reload_successful", &[]).await, 0.0);
    let labels = [("trigger", "watch"), ("result", "refused")];
    assert_eq!(site.metric("wsluice_config_reloads_total", &labels).await, 1.0);
    all_hear(&clients).await;
    // As before: the reload only reports success.
    put(&site.config(), &good);
    site.reloaded("watch", "configuration read again").await;
    assert_eq!(site.metric("wsluice_config_last_reload_successful", &[]).await, 1.0);
    Client::open(&site.plain(), &Talk::to("/one")).await.finish().await;
    finish(clients, &site.peers).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_served_and_nobody_notices() {
    let mut site = Site::start("").await;
    let clients = site.sessions("/one").await;
    let file = site.certificate.0.to_str().unwrap().to_owned();
    let labels = [("listener", "secure"), ("certificate", file.as_str()), ("result", "replaced")];
    assert_eq!(site.metric("wsluice_tls_certificate_reloads_total", &labels).await, 0.0);
    let before = std::fs::read(&site.certificate.0).unwrap();
    // At the addresses of the old ones.
    site.authority.issue("own", &[NAME]);
    assert_ne!(std::fs::read(&site.certificate.0).unwrap(), before);
    let line = site.reloaded("watch", "configuration reloaded").await;
    assert_eq!(line["listeners"], "~secure", "{line}");
    assert_eq!(site.metric("wsluice_tls_certificate_reloads_total", &labels).await, 1.0);
    let new = site.sessions("/one").await;
    all_hear(&clients).await;
    finish(clients, &site.peers).await;
    finish(new, &site.peers).await;
}

#[tokio::test]
async fn what_is_written_while_the_process_starts_is_not_overlooked() {
    let (dir, peers) = (tempfile::tempdir().unwrap(), Peers::start().await);
    let authority = Authority::new();
    let certificate = authority.issue("own", &[NAME]);
    let text = configuration(peers.url(), &certificate, "");
    let missing = dir.path().join("missing.yaml");
    let waits = format!("upstreams:\n  late: {{ discover: {{ file: {{ path: {missing:?} }} }} }}\n");
    let route = "  - { name: late, match: { path: { exact: /late } }, upstream: late }\n";
    let mut process = Process::start(dir.path(), &text.replace("upstreams:\n", &format!("{route}{waits}")));
    // It was read, and waits for its first endpoints.
    process.line("the file that is not there", |line| line.contains("missing.yaml").then_some(())).await;
    put(&dir.path().join("wsluice.yaml"), &text.replace(ROUTES, ONE_MORE));
    let to = To::plain(&process.listening().await);
    let line = process.message("configuration reloaded").await;
    assert_eq!((line["trigger"].as_str(), line["routes"].as_str()), (Some("watch"), Some("+two -late")), "{line}");
    Client::open(&to, &Talk::to("/two")).await.finish().await;
}
