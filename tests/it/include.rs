//! A configuration in several files: each is watched, and a mistake in one changes nothing.

use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Conn, Echo, Handshake};
use crate::process::{Process, put, run, text};

/// The main file, with a route to `echo` and what it includes.
fn main_file(echo: &Echo, include: &str) -> String {
    format!(
        "include: {include}\nworkers: 1\nlog: {{ format: json, access: false }}\nlisteners: [{{ name: plain, bind: \"127.0.0.1:0\" }}]\n\
         routes: [{{ name: main, upstream: main, match: {{ path: {{ exact: /main }} }} }}]\nupstreams: {{ main: {{ endpoints: [\"{}\"] }} }}\n",
        echo.url()
    )
}

/// An application on its own path.
fn application(name: &str, path: &str) -> String {
    format!("routes: [{{ name: {name}, upstream: main, match: {{ path: {{ exact: {path} }} }} }}]\n")
}

async fn status(process_address: &wsluice::net::listener::Address, path: &str) -> u16 {
    let mut client = Conn::connect(process_address).await;
    client.ask(&Handshake::to(path)).await.status()
}

#[tokio::test]
async fn included_files_are_watched_as_they_come_change_and_go() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    let (a, b) = (dir.path().join("conf.d/a.yaml"), dir.path().join("conf.d/b.yaml"));
    put(&a, &application("a", "/a"));
    let mut process = Process::start(dir.path(), &main_file(&echo, "[conf.d/*.yaml]"));
    let address = process.listening().await;
    assert_eq!((status(&address, "/a").await, status(&address, "/b").await), (101, 404));
    put(&b, &application("b", "/b"));
    process.message("configuration reloaded").await;
    assert_eq!(status(&address, "/b").await, 101);
    put(&a, &application("a", "/other"));
    process.message("configuration reloaded").await;
    assert_eq!((status(&address, "/a").await, status(&address, "/other").await), (404, 101));
    put(&b, "routes: [{ name: b }]\n");
    let refused = process.message("the new configuration is refused").await.to_string();
    assert!(refused.contains("conf.d/b.yaml:1:10") && refused.contains("the route does nothing"), "{refused}");
    assert_eq!(status(&address, "/b").await, 101);
    std::fs::remove_file(&b).unwrap();
    process.message("configuration reloaded").await;
    assert_eq!(status(&address, "/b").await, 404);
    // A file that is named only now, and wrong, is watched before it is in force.
    let later = dir.path().join("later.yaml");
    put(&later, "routes: 7\n");
    put(&dir.path().join("wsluice.yaml"), &main_file(&echo, "[later.yaml]"));
    process.message("the new configuration is refused").await;
    put(&later, &application("later", "/later"));
    process.message("configuration reloaded").await;
    assert_eq!((status(&address, "/later").await, status(&address, "/other").await), (101, 404));
}

/// Makes the folder a mounted ConfigMap with these files, or puts others in their place, as kubelet does.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    std::fs::create_dir_all(folder.join(version)).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(version).join(name), text).unwrap();
    }
    symlink(version, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("..") && !files.iter().any(|(file, _)| *file == name) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, _) in files {
        let _ = symlink(Path::new("..data").join(name), folder.join(name));
    }
}

#[tokio::test]
async fn a_config_map_whose_links_are_swapped_is_read_again() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let folder = dir.path().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    mount(&folder, "..1", &[("a.yaml", &application("a", "/a"))]);
    let mut process = Process::start(dir.path(), &main_file(&echo, "[conf.d/*.yaml]"));
    let address = process.listening().await;
    assert_eq!(status(&address, "/a").await, 101);
    mount(&folder, "..2", &[("a.yaml", &application("a", "/a2")), ("b.yaml", &application("b", "/b"))]);
    // It may have been seen half-way.
    while status(&address, "/b").await != 101 {
        process.message("configuration reloaded").await;
    }
    assert_eq!((status(&address, "/a").await, status(&address, "/a2").await), (404, 101));
}

#[tokio::test]
async fn hang_up_reads_included_files_again_where_nothing_is_watched() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let app = dir.path().join("app.yaml");
    put(&app, &application("a", "/a"));
    let mut process = Process::start(dir.path(), &(main_file(&echo, "[app.yaml]") + "watch: false\n"));
    let address = process.listening().await;
    put(&app, &application("a", "/b"));
    process.signal(Signal::HUP);
    process.message("configuration reloaded").await;
    assert_eq!((status(&address, "/a").await, status(&address, "/b").await), (404, 101));
}

#[tokio::test]
async fn a_check_reads_and_counts_all_files() {
    let (echo, dir) = (Echo::start().await, tempfile::tempdir().unwrap());
    let main = dir.path().join("wsluice.yaml");
    put(&main, &main_file(&echo, "[app.yaml]"));
    put(&dir.path().join("app.yaml"), &application("a", "/a"));
    let checked = || run(&["check", "--config", main.to_str().unwrap()]);
    let output = checked();
    assert!(text(&output).0.ends_with(": ok: 1 listener, 2 routes, 1 upstream, 1 included file\n"), "{output:?}");
    put(&dir.path().join("app.yaml"), &application("main", "/a"));
    let output = checked();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output).1;
    assert!(said.contains("app.yaml:1:18") && said.contains("is already the name of routes[0] of"), "{said}");
}
