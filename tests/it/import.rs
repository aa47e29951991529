//! `wsluice import nginx`: configurations as people have them before their applications are read by the loader, and where there is an
//! nginx, both proxies are asked the same and their servers compare what they get.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wsluice::config::load_str;
use wsluice::control::compile::compile;
use wsluice::control::context::CompileContext;
use wsluice::net::listener::Address;

use crate::harness::{Authority, Conn, Handshake, Head, Proxy, RawServer, eventually, switching};
use crate::plain::ok;
use crate::process::{run, text};

/// What a location for WebSockets has almost everywhere.
const UPGRADE: &str =
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;";

/// What is asked: host, target, and whether it is a WebSocket.
type Asked = (&'static str, &'static str, bool);

/// Applications: the servers of the `http` block, in which `@A@` and `@B@` are servers, `@PORT@` is ours, `@UP@` is [`UPGRADE`] and
/// `@TLS@` a certificate; and what is asked.
const APPS: [(&str, &str, &[Asked]); 10] = [
    (
        "socketio",
        "upstream nodes { server @A@; keepalive 8; }
         server { listen 127.0.0.1:@PORT@; server_name chat.example.com;
            location /socket.io/ { proxy_pass http://nodes; @UP@ proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_buffering off; proxy_read_timeout 7d; }
            location / { proxy_pass http://@B@; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; }
            location ~* \\.(map|bak)$ { return 404; } }",
        &[
            ("chat.example.com", "/socket.io/?EIO=4&transport=polling", false),
            ("chat.example.com", "/socket.io/?EIO=4&transport=websocket", true),
            ("chat.example.com", "/socket.io", false),
            ("chat.example.com", "/", false),
            ("chat.example.com", "/app/main.js.MAP", false),
            ("chat.example.com", "/rooms/7?x=1", false),
        ],
    ),
    (
        "jupyter",
        "server { listen 127.0.0.1:@PORT@; client_max_body_size 100M;
            location ~ /api/kernels/[^/]+/(channels|iopub)/? { proxy_pass http://@A@; @UP@ proxy_set_header Host $host; }
            location ~ ^/terminals/ { proxy_pass http://@A@; @UP@ proxy_set_header Host $host; }
            location / { proxy_pass http://@B@; proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; } }",
        &[
            ("lab.example.com", "/api/kernels/1a-2b/channels?session_id=9", true),
            ("lab.example.com", "/terminals/websocket/1", true),
            ("lab.example.com", "/lab/tree/a.ipynb", false),
            ("lab.example.com:8888", "/api/kernels", false),
        ],
    ),
    (
        "home-assistant",
        "server { listen 127.0.0.1:@PORT@ default_server; server_name home.example.com; proxy_buffering off;
            location / { proxy_pass http://@A@; proxy_set_header Host $host; proxy_redirect http:// https://; @UP@
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }
            location /api/websocket { proxy_pass http://@A@/api/websocket; proxy_set_header Host $host; @UP@ } }",
        &[
            ("home.example.com", "/api/websocket", true),
            ("home.example.com", "/lovelace/0", false),
            ("other.example.com", "/", false),
        ],
    ),
    (
        "grafana-live",
        "server { listen 127.0.0.1:@PORT@;
            location /grafana/ { proxy_pass http://@A@/; proxy_set_header Host $http_host; }
            location /grafana/api/live/ { proxy_pass http://@A@/api/live/; @UP@ proxy_set_header Host $http_host; }
            location /old/ { rewrite ^/old/(.*)$ /new/$1 break; proxy_pass http://@B@; proxy_set_header Host $http_host; } }",
        &[
            ("g.example.com", "/grafana/d/abc?orgId=1", false),
            ("g.example.com", "/grafana", false),
            ("g.example.com", "/grafana/api/live/ws", true),
            ("g.example.com", "/old/a/b", false),
            ("g.example.com", "/nothing", false),
        ],
    ),
    (
        "novnc",
        "server { listen 127.0.0.1:@PORT@;
            location = /websockify { proxy_pass http://@A@/; @UP@ proxy_read_timeout 61s; }
            location /vnc { proxy_pass http://@B@; }
            location ^~ /vnc/private/ { deny all; proxy_pass http://@B@; } }",
        &[
            ("vnc.example.com", "/websockify", true),
            ("vnc.example.com", "/websockify?token=1", true),
            ("vnc.example.com", "/vnc/vnc.html", false),
            ("vnc.example.com", "/vnc/private/x", false),
        ],
    ),
    (
        "mattermost",
        "upstream teams { server @A@ max_fails=2; }
         server { listen 127.0.0.1:@PORT@; server_name team.example.com *.team.example.com;
            location ~ /api/v[0-9]+/(users/)?websocket$ { @UP@ client_max_body_size 50M; proxy_pass http://teams;
                proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; }
            location / { proxy_pass http://teams; proxy_set_header Connection ''; proxy_set_header Host $http_host;
                proxy_set_header X-Frame-Options SAMEORIGIN; } }
         server { listen 127.0.0.1:@PORT@; server_name old.example.com; return 301 https://team.example.com$request_uri; }",
        &[
            ("team.example.com", "/api/v4/websocket", true),
            ("a.team.example.com", "/api/v4/users/websocket", true),
            ("team.example.com", "/login", false),
            ("old.example.com", "/login?x=1", false),
        ],
    ),
    (
        "gotify",
        "server { listen 127.0.0.1:@PORT@; location /push/ { rewrite ^/push(/.*) $1 break; proxy_pass http://@A@; @UP@
            proxy_set_header Host $http_host; proxy_connect_timeout 1m; proxy_send_timeout 1m; proxy_read_timeout 1m; } }",
        &[("push.example.com", "/push/stream?token=x", true), ("push.example.com", "/push/message", false)],
    ),
    (
        "code-server",
        "server { listen 127.0.0.1:@PORT@; location / { proxy_pass http://@A@/; proxy_set_header Host $http_host; @UP@
            proxy_set_header Accept-Encoding gzip; } location = /robots.txt { return 200 'none'; }
            location /api { allow 10.0.0.0/8; deny all; proxy_pass http://@A@; } }",
        &[
            ("code.example.com", "/stable-1/?reconnectionToken=a", true),
            ("code.example.com", "/robots.txt", false),
            ("code.example.com", "/api", false),
            ("code.example.com", "/apis", false),
        ],
    ),
    (
        "chat-tls",
        "upstream rooms { ip_hash; server @A@ weight=2; server @B@; }
         server { listen 127.0.0.1:@PORT@ ssl; server_name chat.example.com; @TLS@ ssl_protocols TLSv1.2 TLSv1.3;
            location /ws { proxy_pass http://rooms; @UP@ proxy_set_header Host $host; } }",
        &[],
    ),
    (
        "notify-push",
        "server { listen 127.0.0.1:@PORT@; location ^~ /push/ { proxy_pass http://@A@/; @UP@ proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }
            location / { proxy_pass http://@B@; proxy_set_header Host $host; } }",
        &[("cloud.example.com", "/push/ws", true), ("cloud.example.com", "/push/test/cookie", false), ("cloud.example.com", "/", false)],
    ),
];

/// What a server got, and which one.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    server: &'static str,
    target: String,
    host: Option<String>,
    forwarded: [Option<String>; 3],
}

/// Answers whatever comes, and tells of it.
async fn serve(mut server: RawServer, name: &'static str, told: UnboundedSender<Seen>) {
    while let Some(mut conn) = server.next().await {
        let told = told.clone();
        tokio::spawn(async move {
            while let Some(head) = conn.try_head().await {
                let get = |name: &str| head.get(name).map(str::to_owned);
                let forwarded = ["x-forwarded-for", "x-forwarded-proto", "x-real-ip"].map(get);
                let seen = Seen { server: name, target: head.target().to_owned(), host: get("host"), forwarded };
                let _ = told.send(seen);
                if head.get("sec-websocket-key").is_some() {
                    conn.send(switching(&head, &[])).await;
                    // Open until the client goes.
                    let _ = conn.read_to_end().await;
                    return;
                }
                conn.send(ok("page")).await;
            }
        });
    }
}

/// Servers, and what they tell.
struct Servers {
    a: SocketAddr,
    b: SocketAddr,
    told: UnboundedReceiver<Seen>,
}

impl Servers {
    async fn start() -> Servers {
        let (a, b) = (RawServer::start().await, RawServer::start().await);
        let (sender, told) = unbounded_channel();
        let servers = Servers { a: a.address(), b: b.address(), told };
        tokio::spawn(serve(a, "a", sender.clone()));
        tokio::spawn(serve(b, "b", sender));
        servers
    }

    /// Asks, and returns status, `Location`, and what a server saw of it.
    async fn ask(
        &mut self,
        proxy: &Address,
        (host, target, is_websocket): Asked,
    ) -> (u16, Option<String>, Option<Seen>) {
        let mut client = Conn::connect(proxy).await;
        let head: Head = if is_websocket {
            client.ask(&Handshake::to(target).set("Host", host)).await
        } else {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
            client.head().await
        };
        // What a server saw, it told before it answered.
        let location = head.get("location").map(|url| url.split_once("://").map_or(url, |(_, rest)| rest).to_owned());
        (head.status(), location, self.told.try_recv().ok())
    }
}

/// Returns the whole nginx file of an application.
fn nginx_conf(dir: &Path, servers: &str, tls: &str, port: u16, a: SocketAddr, b: SocketAddr) -> String {
    let dir = dir.display();
    let text = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1;
         events {{ worker_connections 64; }}
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi; root {dir}/none;
            map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
            include sites/*.conf; }}"
    );
    let site = servers.replace("@UP@", UPGRADE).replace("@TLS@", tls).replace("@PORT@", &port.to_string());
    let site = site.replace("@A@", &a.to_string()).replace("@B@", &b.to_string());
    let sites = Path::new(&dir.to_string()).join("sites");
    std::fs::create_dir_all(&sites).unwrap();
    std::fs::write(sites.join("app.conf"), site).unwrap();
    text
}

/// Runs `wsluice import nginx` on a file and returns what it writes.
fn imported(file: &Path) -> (String, String) {
    let output = run(&["import", "nginx", file.to_str().unwrap()]);
    let (yaml, told) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    (yaml, told)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running nginx; dropping it ends it.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nginx {
    /// Starts it and waits until it listens; none where there is no nginx.
    async fn start(dir: &Path, port: u16) -> Option<Nginx> {
        let program = "/usr/sbin/nginx";
        if !Path::new(program).exists() {
            eprintln!("SKIPPED: there is no {program} to compare with");
            return None;
        }
        let mut command = Command::new(program);
        command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("error.log"));
        let mut child =
            Nginx(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        for _ in 0..3000 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(child);
            }
            if let Some(status) = child.0.try_wait().unwrap() {
                let log = std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
                panic!("nginx has ended: {status}: {log}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("nginx does not listen");
    }
}

#[test]
fn what_people_have_before_their_applications_is_read_without_an_error() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("server", &["chat.example.com"]);
    let tls = format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display());
    for (name, servers, _) in APPS {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = ("127.0.0.1:9001".parse().unwrap(), "127.0.0.1:9002".parse().unwrap());
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, nginx_conf(dir.path(), servers, &tls, 8080, a, b)).unwrap();
        let (yaml, told) = imported(&file);
        let loaded = load_str(name, &yaml, &|_| None).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        compile(&loaded, &CompileContext::for_check(), None).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        assert!(told.contains("directives understood") && !told.contains("needs your hand"), "{told}");
        std::fs::write(dir.path().join("wsluice.yaml"), &yaml).unwrap();
        let checked = run(&["check", "--config", dir.path().join("wsluice.yaml").to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(0), "{name}: {}\n{yaml}", text(&checked).1);
    }
}

#[tokio::test]
async fn servers_get_the_same_from_nginx_and_from_what_was_imported() {
    for (name, servers, asked) in APPS {
        if asked.is_empty() {
            continue;
        }
        let (dir, port, mut peers) = (tempfile::tempdir().unwrap(), free_port(), Servers::start().await);
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, nginx_conf(dir.path(), servers, "", port, peers.a, peers.b)).unwrap();
        let Some(_nginx) = Nginx::start(dir.path(), port).await else { return };
        let nginx = Address::Tcp(([127, 0, 0, 1], port).into());
        let (yaml, _) = imported(&file);
        let proxy = Proxy::start(&yaml.replace(&format!("127.0.0.1:{port}\""), "127.0.0.1:0\""));
        for one in asked {
            let theirs = peers.ask(&nginx, *one).await;
            let mut ours = peers.ask(proxy.address(), *one).await;
            if let ((_, _, Some(theirs)), (_, _, Some(ours))) = (&theirs, &mut ours) {
                // wsluice always says who the client is; nginx does where it is told to.
                for (theirs, ours) in theirs.forwarded.iter().zip(&mut ours.forwarded) {
                    if theirs.is_none() {
                        *ours = None;
                    }
                }
            }
            // nginx makes a relative redirect whole.
            if let (Some(theirs), Some(ours)) = (&theirs.1, &mut ours.1)
                && ours.starts_with('/')
                && theirs.ends_with(&**ours)
            {
                ours.clone_from(theirs);
            }
            assert_eq!(ours, theirs, "{name}: {one:?}\n{yaml}");
        }
    }
}

#[test]
fn what_is_no_file_of_nginx_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nginx.conf");
    for (written, right) in [
        ("http {\n  server { listen 80 }\n}", ":2:22: `listen` is not ended: `;` is missing"),
        ("events {}", ": there is no `server` in it"),
    ] {
        std::fs::write(&file, written).unwrap();
        let output = run(&["import", "nginx", file.to_str().unwrap()]);
        let (out, err) = text(&output);
        assert_eq!((output.status.code(), &*out), (Some(1), ""));
        assert!(err.contains(&format!("{}{right}", file.display())), "{err}");
    }
    let output = run(&["import", "nginx", "/nowhere/nginx.conf"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.contains("cannot read /nowhere/nginx.conf"), "{}", text(&output).1);
    assert_eq!(run(&["import"]).status.code(), Some(2));
}

#[tokio::test]
async fn over_tls_the_certificate_of_the_file_is_shown() {
    let (authority, mut peers, dir) = (Authority::new(), Servers::start().await, tempfile::tempdir().unwrap());
    let (cert, key) = authority.issue("server", &["chat.example.com"]);
    let tls = format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display());
    let (_, servers, _) = APPS.iter().find(|(name, ..)| *name == "chat-tls").unwrap();
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, nginx_conf(dir.path(), servers, &tls, 8443, peers.a, peers.b)).unwrap();
    let (yaml, _) = imported(&file);
    let proxy = Proxy::start(&yaml.replace("127.0.0.1:8443\"", "127.0.0.1:0\""));
    let mut client = Conn::connect_tls(proxy.address(), "chat.example.com", authority.client()).await.unwrap();
    let answer = client.ask(&Handshake::to("/ws").set("Host", "chat.example.com")).await;
    assert_eq!(answer.status(), 101);
    let seen = eventually("the server", || peers.told.try_recv().ok()).await;
    assert_eq!((&*seen.target, seen.host.as_deref()), ("/ws", Some("chat.example.com")));
    assert_eq!(seen.forwarded[1].as_deref(), Some("https"));
}
