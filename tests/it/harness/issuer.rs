//! An issuer of tokens, and the server of its keys.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Signs tokens with ES256.
#[derive(Debug)]
pub struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
}

/// Returns the seconds since 1970, and `more`.
pub fn unix(more: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + more
}

impl Issuer {
    pub fn new(kid: &str) -> Issuer {
        Issuer { kid: kid.to_owned(), key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    /// Returns its public key as a JWK.
    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": x, "y": y })
    }

    /// Returns its set of keys.
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// Returns a token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.kid });
        let [header, claims] = [header.to_string(), claims.to_string()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Returns a token of `subject` for a minute.
    pub fn token(&self, subject: &str) -> String {
        self.sign(&json!({ "sub": subject, "exp": unix(60) }))
    }
}

/// How a server of keys answers.
#[derive(Clone, Debug)]
pub enum KeysAnswer {
    /// With this body.
    Body(String),
    /// With a body that has no end.
    Endless,
    /// With this status.
    Status(u16),
    /// Not at all, until it is told to: then with this body.
    Slow(String),
    /// It breaks the connection off.
    Gone,
}

/// Serves keys, and counts how often it is asked.
#[derive(Debug)]
pub struct KeyServer {
    pub url: String,
    answer: Arc<Mutex<KeysAnswer>>,
    asked: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
    task: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start(answer: KeysAnswer) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(answer));
        let (asked, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let task = {
            let (answer, asked, go_on) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&go_on));
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let (answer, asked, go_on) =
                        (answer.lock().unwrap().clone(), Arc::clone(&asked), Arc::clone(&go_on));
                    tokio::spawn(async move {
                        let mut head = vec![];
                        while !head.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                                return;
                            }
                            head.push(byte[0]);
                        }
                        assert!(head.starts_with(b"GET /jwks.json HTTP/1.1\r\n"));
                        asked.fetch_add(1, Ordering::SeqCst);
                        let body = match answer {
                            KeysAnswer::Gone => return,
                            KeysAnswer::Status(status) => {
                                let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
                                return drop(stream.write_all(head.as_bytes()).await);
                            }
                            KeysAnswer::Endless => {
                                let head = "HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{\"keys\":[";
                                let mut written = stream.write_all(head.as_bytes()).await;
                                while written.is_ok() {
                                    written = stream.write_all(&[b' '; 16384]).await;
                                }
                                return;
                            }
                            KeysAnswer::Slow(body) => {
                                go_on.notified().await;
                                body
                            }
                            KeysAnswer::Body(body) => body,
                        };
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        let _ = stream.write_all((head + &body).as_bytes()).await;
                    });
                }
            })
        };
        KeyServer { url, answer, asked, go_on, task }
    }

    /// Answers otherwise from now on.
    pub fn set(&self, answer: KeysAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Lets one slow answer go on.
    pub fn go_on(&self) {
        self.go_on.notify_one();
    }

    /// Returns how often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it was asked so often.
    pub async fn asked_for(&self, count: usize) {
        super::eventually("a request for keys", || (self.asked() >= count).then_some(())).await;
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
