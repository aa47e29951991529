//! Whole files, in tables; any bytes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Files, import};
use crate::config::load_str;

/// Files in memory.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn new(files: &[(&str, &str)]) -> Memory {
        Memory(files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &str, _: usize) -> Result<Vec<u8>, String> {
        self.0.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }

    fn list(&self, folder: &str) -> Vec<String> {
        let inside = format!("{}/", folder.trim_end_matches('/'));
        let names = self.0.keys().filter_map(|path| path.strip_prefix(&inside)).filter(|name| !name.contains('/'));
        names.map(str::to_owned).collect()
    }
}

fn yaml(text: &str) -> String {
    import("/c/nginx.conf", &Memory::new(&[("/c/nginx.conf", text)])).unwrap().yaml
}

/// The whole text, which the loader must take.
fn loaded(text: &str) -> String {
    let yaml = yaml(text);
    if let Err(errors) = load_str("imported", &yaml, &|_| None) {
        panic!("{errors}\n{yaml}");
    }
    yaml
}

/// A server with these lines, on port 8080.
fn server(lines: &str) -> String {
    format!(
        "events {{}} http {{ map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
        server {{ listen 127.0.0.1:8080; {lines} }} }}"
    )
}

/// A location `/` with these lines.
fn location(lines: &str) -> String {
    server(&format!(
        "location / {{ proxy_pass http://127.0.0.1:9000; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade; {lines} }}"
    ))
}

#[test]
fn what_a_location_says_is_in_its_route() {
    for (lines, right) in [
        ("proxy_set_header Host $http_host;", "  - name: default\n    upstream: \"127.0.0.1-9000\"\n\n"),
        ("", "    headers: { request: { set: { Host: \"127.0.0.1:9000\" } } }"),
        ("proxy_set_header Host $host;", "    headers: { request: { set: { Host: \"{request.host}\" } } }"),
        ("proxy_set_header Host $host:$server_port;", "set: { Host: \"{request.host}:{listener.port}\" }"),
        ("proxy_set_header Host chat.internal;", "set: { Host: chat.internal }"),
        ("proxy_set_header X-Real-IP $remote_addr;", "headers: { send: [X-Real-IP], request:"),
        ("proxy_set_header X-Forwarded-Port $server_port;", "headers: { send: [X-Forwarded-Port], request:"),
        ("proxy_set_header X-Scheme $scheme;", "X-Scheme: \"{request.scheme}\""),
        ("proxy_set_header Accept-Encoding '';", "remove: [Accept-Encoding]"),
        ("proxy_set_header X-A $cookie_a;", "there is no variable for $cookie_a: the header is left out"),
        (
            "proxy_read_timeout 86400; proxy_connect_timeout 4s;",
            "timeouts: { connect: \"4s\", response: \"24h\", body: \"24h\" }",
        ),
        ("client_max_body_size 50m;", "limits: { body: \"50MiB\" }"),
        ("client_max_body_size 0;", "upstream: \"127.0.0.1-9000\""),
        ("add_header X-Frame-Options DENY always;", "response: { set: { X-Frame-Options: DENY } }"),
        ("proxy_hide_header X-Powered-By;", "response: { remove: [X-Powered-By] }"),
        ("allow 10.0.0.0/8; deny all;", "addresses: { allow: [\"10.0.0.0/8\"] }"),
        ("deny 192.0.2.7;", "addresses: { deny: [\"192.0.2.7\"] }"),
        ("deny all;", "  - name: default\n    respond: { status: 403 }"),
        ("auth_basic Staff; auth_basic_user_file /etc/users;", "auth: { basic: { file: /etc/users, realm: Staff } }"),
        ("auth_basic Staff;", "respond: { status: 403 }"),
        ("auth_jwt x; auth_jwt_key_file y;", "respond: { status: 403 }"),
        ("gzip on; gzip_types text/css;", "http_compression: { encodings: [gzip], types: [text/html, text/css] }"),
        ("proxy_cache a;", "  # /c/nginx.conf:3: proxy_cache a: wsluice caches nothing"),
        ("internal;", "respond: { status: 404 }"),
        ("return 204;", "respond: { status: 204 }"),
        ("rewrite ^/a/(.*)$ /b/$1 break;", "rewrite: { regex: \"/a/(.*)\", with: \"/b/$1\" }"),
        (
            "if ($http_x_a) { return 403; }",
            "Who may come in, look at these first:\n#   /c/nginx.conf:3: if ($http_x_a)",
        ),
    ] {
        let text = loaded(&location(lines));
        assert!(text.contains(right), "{lines}: no\n{right}\nin\n{text}");
    }
}

#[test]
fn the_path_behind_the_server_takes_the_place_of_the_locations() {
    for (path, pass, right) in [
        ("/", "", None),
        ("/", "/", None),
        ("/", "/b/", Some("rewrite: { add_prefix: /b }")),
        ("/a/", "/", Some("rewrite: { strip_prefix: /a }")),
        ("/a/", "/b/", Some("rewrite: { strip_prefix: /a, add_prefix: /b }")),
        ("/a/", "/b", Some("rewrite: { regex: \"/a/(.*)\", with: \"/b$1\" }")),
        ("/a", "/", Some("rewrite: { regex: \"/a(.*)\", with: \"/$1\" }")),
        ("= /a", "/b", Some("rewrite: { path: /b }")),
        ("~ ^/a/(.*)$", "/b/$1", Some("rewrite: { regex: \"/a/(.*)\", with: \"/b/$1\" }")),
        ("/a/", "$request_uri", None),
    ] {
        let text = loaded(&server(&format!("location {path} {{ proxy_pass http://127.0.0.1:9000{pass}; }}")));
        match right {
            Some(right) => assert!(text.contains(right), "{path} {pass}: no\n{right}\nin\n{text}"),
            None => assert!(!text.contains("rewrite: { s") && !text.contains("rewrite: { a"), "{path} {pass}\n{text}"),
        }
    }
}

/// The names of the routes, in their order.
fn names(yaml: &str) -> Vec<&str> {
    yaml.split("routes:\n").nth(1).unwrap().lines().filter_map(|line| line.strip_prefix("  - name: ")).collect()
}

#[test]
fn routes_stand_in_the_order_in_which_nginx_looks_at_locations() {
    let pass = "{ proxy_pass http://127.0.0.1:9000; }";
    let all = ["/", "/a", "~ ^/r1", "/a/long", "^~ /final", "~* ^/r2", "= /exact"];
    let text: String = all.iter().map(|path| format!("location {path} {pass}\n")).collect();
    assert_eq!(
        names(&loaded(&server(&text))),
        [
            "default-exact",
            "default-final",
            "default-regex-r1",
            "default-regex-r2",
            "default-a-long",
            "default-a",
            "default"
        ]
    );
}

#[test]
fn what_a_prefix_of_letters_closes_stays_closed() {
    let text = loaded(&server("location / { proxy_pass http://127.0.0.1:9000; } location /.ht { deny all; }"));
    assert!(text.contains("path: { regex: \"/\\\\.ht.*\" } }\n    respond: { status: 403 }"), "{text}");
}

#[test]
fn what_keeps_people_out_is_never_lost_without_a_word() {
    let pass = "location / { proxy_pass http://127.0.0.1:9000; }";
    for (lines, right) in [
        ("location ~ ^/(?!open) { deny all; }", "#   /c/nginx.conf:2: location ~ ^/(?!open): wsluice has no such path"),
        ("location /a { allow 10.0.0.1; deny all; try_files $uri @app; }", "addresses: { allow: [\"10.0.0.1\"] }"),
        (
            "location /a { deny 10.0.0.1; try_files $uri @own; }",
            "path: { regex: \"/a.*\" } }\n    respond: { status: 403 }",
        ),
        (
            "listen 80; listen 127.0.0.1:80;",
            "look at these first:\n#   /c/nginx.conf:2: listen 127.0.0.1:80: `0.0.0.0:80` takes",
        ),
    ] {
        let named =
            "location @app { proxy_pass http://127.0.0.1:9000; } location @own { deny 10.0.0.2; proxy_pass http://a; }";
        let text = loaded(&server(&format!("{lines} {pass} {named}")));
        assert!(text.contains(right), "{lines}: no\n{right}\nin\n{text}");
    }
}

#[test]
fn servers_are_chosen_by_address_and_name() {
    let text = loaded(
        "http { server { listen 127.0.0.1:80; server_name a.example.com; location /ws { proxy_pass http://127.0.0.1:1; } }
         server { listen 127.0.0.1:80; server_name .example.com; location / { proxy_pass http://127.0.0.1:2; } }
         server { listen 127.0.0.1:80 default_server; server_name _; return 444; }
         server { listen 127.0.0.1:81; location / { proxy_pass http://127.0.0.1:3; } } }",
    );
    for right in [
        "match: { listeners: [http], hosts: [a.example.com], path: { prefix: /ws } }",
        "match: { listeners: [http], hosts: [example.com, \"*.example.com\"] }",
        "  - name: default-all\n    match: { listeners: [http] }\n    respond: { status: 403 }",
        "match: { listeners: [port-81] }",
    ] {
        assert!(text.contains(right), "no\n{right}\nin\n{text}");
    }
    // Paths that only another server has are not found here.
    assert_eq!(names(&text)[..2], ["a.example.com-ws", "a.example.com-rest"]);
}

#[test]
fn upstreams_keep_servers_and_balance() {
    for (lines, right) in [
        (
            "server 10.0.0.1:1; server 10.0.0.2:1;",
            "endpoints: [\"ws://10.0.0.1:1\", \"ws://10.0.0.2:1\"]\n    balance: round_robin",
        ),
        (
            "least_conn; server a:1 weight=3 max_conns=9;",
            "endpoints: [{ url: \"ws://a:1\", weight: 3, max_connections: 9 }]\n    balance: least_connections",
        ),
        (
            "ip_hash; server a; server b backup; server c down;",
            "[\"ws://a:80\", { url: \"ws://b:80\", priority: 1 }, { url: \"ws://c:80\", weight: 0 }]\n    balance: { hash: { on: client_address } }",
        ),
        (
            "hash $arg_room consistent; server unix:/run/a.sock;",
            "[\"unix:/run/a.sock\"]\n    balance: { hash: { on: \"query:room\" } }",
        ),
        ("random two least_conn; server a; keepalive 8;", "balance: random_two"),
        ("server a max_fails=3 fail_timeout=20s;", "ejection: { failures: 3, time: \"20s\" }"),
        ("server a max_fails=0;", "ejection: off"),
    ] {
        let text = loaded(&format!(
            "http {{ upstream chat {{ {lines} }} server {{ listen 8080; location / {{ proxy_pass http://chat; }} }} }}"
        ));
        assert!(text.contains(right), "{lines}: no\n{right}\nin\n{text}");
        assert!(text.contains("Host: chat"), "{text}");
    }
}

#[test]
fn certificates_of_clients_are_asked_for_where_nginx_does() {
    let tls = "listen 443 ssl; ssl_certificate /c.crt; ssl_certificate_key /c.key;";
    let pass = "location / { proxy_pass http://127.0.0.1:9000; }";
    let asks = "ssl_client_certificate /ca.crt; ssl_verify_client on;";
    let text = loaded(&format!("http {{ server {{ {tls} {asks} {pass} }} }}"));
    assert!(text.contains("client_auth: { ca: /ca.crt, mode: require }"), "{text}");
    let text = loaded(&format!(
        "http {{ server {{ {tls} server_name a.com; {pass} }} server {{ {tls} server_name b.com; {asks} {pass} }} }}"
    ));
    assert!(text.contains("client_auth: { ca: /ca.crt, mode: optional }"), "{text}");
    assert!(text.contains("match: { hosts: [b.com], client_cert: {} }\n    upstream"), "{text}");
    assert!(
        text.contains("b.com-no-certificate\n    match: { hosts: [b.com] }\n    respond: { status: 403 }"),
        "{text}"
    );
}

#[test]
fn a_service_that_is_asked_is_asked_here() {
    let text = loaded(&server(
        "location / { auth_request /check; auth_request_set $user $upstream_http_x_user; proxy_set_header X-User $user;
            proxy_pass http://127.0.0.1:9000; }
         location = /check { internal; proxy_pass http://127.0.0.1:4180/auth; }",
    ));
    assert!(text.contains("auth: { forward: { url: \"http://127.0.0.1:4180/auth\", headers: [x-user] } }"), "{text}");
    let text = loaded(&server("location / { auth_request /nowhere; proxy_pass http://127.0.0.1:9000; }"));
    assert!(text.contains("respond: { status: 403 }"), "{text}");
}

#[test]
fn the_redirects_that_certbot_writes_are_redirects() {
    let text = loaded(
        "server { if ($host = a.example.com) { return 301 https://$host$request_uri; } listen 80; server_name a.example.com; return 404; }",
    );
    let right = "match: { hosts: [a.example.com] }\n    redirect: { to: \"https://{request.host}{request.target}\", status: 301 }";
    assert!(text.contains(right) && text.contains("respond: { status: 404 }"), "{text}");
}

#[test]
fn proxies_in_front_are_believed_if_they_tell_by_a_header_that_is_read() {
    let nets = "set_real_ip_from 10.0.0.0/8;";
    let text = loaded(&location(&format!("}} {nets} real_ip_header X-Forwarded-For; location /x {{")));
    assert!(text.contains("trusted_proxies: [\"10.0.0.0/8\"]"), "{text}");
    let text = loaded(&location(&format!("}} {nets} real_ip_header CF-Connecting-IP; location /x {{")));
    assert!(!text.contains("trusted_proxies"), "{text}");
}

#[test]
fn included_files_are_read_in_their_order_and_errors_name_them() {
    let files = |more: &[(&str, &str)]| {
        let mut all = vec![("/c/nginx.conf", "http { include sites/*.conf; }")];
        all.extend(more);
        import("/c/nginx.conf", &Memory::new(&all))
    };
    let site = |port: u16| format!("server {{ listen {port}; location / {{ proxy_pass http://a:{port}; }} }}");
    let (one, two) = (site(81), site(82));
    let text = files(&[("/c/sites/b.conf", &two), ("/c/sites/a.conf", &one), ("/c/sites/.c.conf", "}")]).unwrap().yaml;
    assert!(text.find("port-81").unwrap() < text.find("port-82").unwrap(), "{text}");
    for (more, right) in [
        (("/c/sites/a.conf", "server {\n  listen 80\n}"), "/c/sites/a.conf:3:1: `listen` is not ended: `;` is missing"),
        (("/c/sites/a.conf", "server {"), "/c/sites/a.conf:1:8: the block is never closed: `}` is missing"),
        (("/c/sites/a.conf", "}"), "/c/sites/a.conf:1:1: `}` closes nothing"),
        (("/c/sites/a.conf", " ;"), "/c/sites/a.conf:1:2: `;` ends nothing"),
        (("/c/sites/a.conf", "include sites/a.conf;"), "/c/sites/a.conf:1:1: `/c/sites/a.conf` includes itself"),
        (("/c/sites/a.conf", "include no.conf;"), "/c/sites/a.conf:1:1: cannot read `/c/no.conf`: no such file"),
    ] {
        assert_eq!(files(&[more]).unwrap_err().to_string(), right);
    }
    assert_eq!(files(&[]).unwrap_err().to_string(), "/c/nginx.conf: there is no `server` in it");
    let deep = "a {".repeat(40);
    assert!(files(&[("/c/sites/a.conf", &deep)]).unwrap_err().to_string().contains("more than 32 deep"));
    let large = " ".repeat((1 << 20) + 1);
    assert!(files(&[("/c/sites/a.conf", &large)]).unwrap_err().to_string().contains("more than 1048576 bytes"));
}

/// Words that mean something, in any order.
fn soup() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "http",
        "server",
        "location",
        "listen",
        "80",
        "[::]:443",
        "unix:/a",
        "ssl",
        "default_server",
        "server_name",
        "*.a.com",
        ".a.com",
        "~^x$",
        "/",
        "/a",
        "/a/",
        "=",
        "^~",
        "~",
        "~*",
        "^/r(.*)$",
        "(",
        "proxy_pass",
        "http://u",
        "http://a:1/b/",
        "https://a",
        "http://unix:/s:/x",
        "upstream",
        "u",
        "weight=2",
        "backup",
        "down",
        "ip_hash",
        "hash",
        "$arg_a",
        "return",
        "301",
        "200",
        "https://$host$request_uri",
        "rewrite",
        "/b/$1",
        "break",
        "permanent",
        "proxy_set_header",
        "Host",
        "$host",
        "X-A",
        "add_header",
        "allow",
        "deny",
        "all",
        "10.0.0.0/8",
        "auth_basic",
        "auth_basic_user_file",
        "auth_request",
        "if",
        "($host",
        "a.com)",
        "map",
        "set",
        "$x",
        "error_page",
        "502",
        "root",
        "/srv",
        "try_files",
        "@x",
        "limit_conn",
        "gzip",
        "on",
        "internal",
        "ssl_certificate",
        "ssl_certificate_key",
        "/c",
        "ssl_verify_client",
        "ssl_client_certificate",
        "{",
        "}",
        ";",
        "{",
        "}",
        ";",
        ";",
        "'",
        "\"",
        "\\",
        "#",
        "\n",
        "${",
        "é",
        "\u{2028}",
        "include",
        "*",
        "x_by_lua_block",
    ];
    prop::collection::vec(prop::sample::select(WORDS), 0..80).prop_map(|words| words.join(" "))
}

/// Lines that parse, of words that mean something.
fn lines() -> impl Strategy<Value = String> {
    let line = soup().prop_map(|text| {
        let text = text.replace(['{', '}', ';', '\'', '"', '\\', '#', '\n'], " ").replace("include", "");
        text.split_whitespace().take(5).collect::<Vec<_>>().join(" ")
    });
    prop::collection::vec(line, 0..12).prop_map(|lines| {
        let good = lines.iter().filter(|line| !line.is_empty() && !line.contains("by_lua"));
        good.map(|line| format!("{line};\n")).collect::<String>()
    })
}

/// A tree that parses, of directives that mean something.
fn tree() -> impl Strategy<Value = String> {
    let locations =
        prop::collection::vec((prop::sample::select(&["/", "/a", "= /a", "~ ^/r(.*)$", "^~ /a/"][..]), lines()), 0..4);
    (lines(), locations).prop_map(|(lines, locations)| {
        let inside: String = locations.iter().map(|(path, lines)| format!("location {path} {{ {lines} }}\n")).collect();
        format!("upstream u {{ server a:1; }} server {{ {lines} {inside} }}")
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = import("/f", &Memory([("/f".to_owned(), bytes)].into()));
    }

    #[test]
    fn no_words_make_it_panic(text in soup()) {
        let _ = import("/f", &Memory::new(&[("/f", &text)]));
    }

    #[test]
    fn whatever_it_writes_is_yaml_of_routes_that_can_be_read(text in tree()) {
        let read = import("/f", &Memory::new(&[("/f", &text)]));
        if let Ok(imported) = read {
            let value: serde_yaml::Value = serde_yaml::from_str(&imported.yaml).map_err(|error| TestCaseError::fail(format!("{error}\n{}", imported.yaml)))?;
            for route in value["routes"].as_sequence().into_iter().flatten() {
                let route: Result<crate::config::RouteConfig, _> = serde_yaml::from_value(route.clone());
                prop_assert!(route.is_ok(), "{:?}\n{}", route.err(), imported.yaml);
            }
        }
    }
}
