//! What is fuzzed: for each thing that strangers send, one function that takes any bytes and asserts what must hold.
//!
//! The same functions run in an ordinary test (`main.rs`), by a mutator of our own, and under libFuzzer (`bin/`). What is
//! asserted is not only that nothing panics: the result must not depend on how bytes are cut, what passes must be what a
//! second and simpler reading (`model`, or one beside the target) takes for legal, and what is written must read back.

pub mod certificate;
pub mod close;
pub mod config;
pub mod cookie;
pub mod dns;
pub mod endpoints;
pub mod etcd;
pub mod forwarded;
pub mod framing;
pub mod handshake;
pub mod heads;
pub mod host;
pub mod model;
pub mod mutate;
pub mod path;
pub mod proxy_protocol;
pub mod scanner;
pub mod stream;
pub mod switching;
pub mod tls_moved;
pub mod tunnel;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, on the command line too.
    pub name: &'static str,
    /// Takes any bytes; panics where what must hold does not.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: &'static [&'static [u8]],
    /// What inputs are made of.
    pub tokens: &'static [&'static [u8]],
}

/// All of them.
pub const ALL: &[Target] = &[
    certificate::TARGET,
    close::TARGET,
    config::TARGET,
    cookie::TARGET,
    dns::TARGET,
    endpoints::TARGET,
    etcd::TARGET,
    forwarded::TARGET,
    framing::TARGET,
    handshake::TARGET,
    heads::TARGET,
    host::TARGET,
    path::TARGET,
    proxy_protocol::TARGET,
    scanner::TARGET,
    switching::TARGET,
    tls_moved::TARGET,
    tunnel::TARGET,
];

/// The target of this name.
pub fn named(name: &str) -> Target {
    *ALL.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target `{name}`"))
}

/// The first bytes of an input, which say how the rest is cut or what is to be done with it.
fn choices<const N: usize>(data: &[u8]) -> Option<([u8; N], &[u8])> {
    data.split_first_chunk::<N>().map(|(choices, rest)| (*choices, rest))
}

/// `bytes` in pieces, as `seed` says: 0 leaves them whole, 1 takes them one by one.
fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let (mut pieces, mut rest) = (vec![], bytes);
    while !rest.is_empty() {
        let most = match seed {
            0 => rest.len(),
            1 => 1,
            _ => 1 << random.u8(0..8),
        };
        let (piece, tail) = rest.split_at(random.usize(1..=most).min(rest.len()));
        pieces.push(if seed == 0 { rest } else { piece });
        rest = if seed == 0 { &[] } else { tail };
    }
    pieces
}

/// Fields as lines of text: `name: value` each, cut at line feeds. What `http` does not take for a name or a value is
/// left out, as hyper would have refused it.
fn fields(text: &[u8]) -> http::HeaderMap {
    let mut fields = http::HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = http::HeaderName::from_bytes(&line[..colon]);
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            // A map of fields has a bound of its own, far above what any connection may bring.
            let _ = fields.try_append(name, value);
        }
    }
    fields
}
