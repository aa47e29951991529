//! A foreign implementation on the other side of a connection that moves.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::moving::moved;
use super::*;

/// The program with pipes to it; it ends with the test.
struct Openssl {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Openssl {
    /// `None` if it is not installed.
    fn start(arguments: &[&str]) -> Option<Openssl> {
        let piped = || Stdio::piped();
        let child = Command::new("openssl").args(arguments).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: openssl is not installed");
            return None;
        };
        let (to, lines) = mpsc::unbounded_channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let to = to.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.all(|line| to.send(line).is_ok())
            });
        }
        Some(Openssl { child, lines })
    }

    /// Types a line, in one write: a command stands alone in what openssl reads. A line that is none must not begin with
    /// the letter of one.
    fn type_line(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits for a line with `words`.
    async fn says(&mut self, words: &str) -> String {
        let mut all = vec![];
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(words) {
                    return Some(line);
                }
                all.push(line);
            }
            None
        };
        let found = timeout(Duration::from_secs(20), found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no {words:?} in {all:#?}"))
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until the other side uses a new key; there are no data.
async fn until_keys_change<C>(mut ours: TlsStream<C, TcpStream>) -> TlsStream<C, TcpStream>
where
    C: TlsConnection + Unpin,
{
    let mut first = None;
    loop {
        let (state, io) = ours.into_state().unwrap();
        let key = state.reading.key.clone();
        ours = TlsStream::restore(state, io).unwrap();
        if *first.get_or_insert(key.clone()) != key {
            return ours;
        }
        let mut byte = [0];
        let read = Pin::new(&mut ours).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte));
        assert!(read.is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Both speak, change their keys in both ways that there are, and our side moves in between.
async fn speaks_over_moves<C>(mut ours: TlsStream<C, TcpStream>, theirs: &mut Openssl, is_tls13: bool)
where
    C: TlsConnection + Unpin,
{
    let changes: &[&str] = if is_tls13 { &["k", "K", "K", "k"] } else { &["", ""] };
    for (round, change) in changes.iter().enumerate() {
        theirs.type_line(&format!("hello {round}"));
        let mut hello = [0; 8];
        ours.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, format!("hello {round}\n").as_bytes());
        ours = moved(ours);
        ours.write_all(format!("answer {round}\n").as_bytes()).await.unwrap();
        theirs.says(&format!("answer {round}")).await;
        if is_tls13 {
            theirs.type_line(change);
            ours = timeout(Duration::from_secs(20), until_keys_change(ours)).await.unwrap();
        }
        ours = moved(ours);
    }
    ours.write_all(b"last\n").await.unwrap();
    theirs.says("last").await;
    ours.shutdown().await.unwrap();
}

const SUITES: [(&str, &str, &str); 6] = [
    ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
    ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
    ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

#[tokio::test(flavor = "current_thread")]
async fn openssl_does_not_notice_a_move_of_its_server() {
    for (version, option, suite) in SUITES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ca = Ca::new();
        let options = ServerTlsOptions {
            identities: vec![ca.identity(&[NAME])],
            min_version: MinVersion::Tls12,
            client_auth: None,
            alpn: vec![b"http/1.1"],
            may_move: true,
        };
        let server = server_config(&options, &TicketKeys::new().unwrap()).unwrap();
        let arguments = ["s_client", "-connect", &address, "-servername", NAME, version, option, suite];
        let Some(mut theirs) = Openssl::start(&arguments) else { return };
        let ours = Own::accept(ServerConfig::clone(&server), listener.accept().await.unwrap().0).await.unwrap();
        speaks_over_moves(ours, &mut theirs, version == "-tls1_3").await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn openssl_does_not_notice_a_move_of_its_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ca = Ca::new();
    let (cert, key) = ca.sign(&[NAME], |_| {});
    std::fs::write(path("cert.pem"), cert).unwrap();
    std::fs::write(path("key.pem"), key).unwrap();
    let options = ClientTlsOptions { roots: Some(ca.authorities()), may_move: true, ..ClientTlsOptions::default() };
    let client = client_config(&options).unwrap();
    for (version, option, suite) in SUITES {
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        let arguments = ["s_server", "-accept", "127.0.0.1:0", "-cert", &cert, "-key", &key, version, option, suite];
        let Some(mut theirs) = Openssl::start(&arguments) else { return };
        let line = theirs.says("ACCEPT 127.0.0.1:").await;
        let stream = TcpStream::connect(line.trim_start_matches("ACCEPT ").trim()).await.unwrap();
        let ours = Own::connect(ClientConfig::clone(&client), name(), stream).await.unwrap();
        speaks_over_moves(ours, &mut theirs, version == "-tls1_3").await;
    }
}
