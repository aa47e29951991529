//! The affinity cookie, by which a client comes back to its endpoint.
//!
//! The cookie holds the endpoint's identity and its expiry, both authenticated together with the upstream's name by
//! HMAC-SHA256: nobody can forge one, and one of another upstream is invalid. The identity is a hash of an internal
//! address and could be guessed, since few addresses are in use; so it is masked by a key stream that the MAC selects
//! (as in SIV, RFC 5297: the MAC of the plain text is the nonce). No state is kept: every instance with the secret
//! reads the cookies of all others, also after a restart.
//!
//! Several secrets allow a change without loss: the first signs, and all are tried for reading.

use crate::base::labels::variant_labels;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

/// Bytes of the MAC that are kept: half of it, the minimum of RFC 2104 §5.
const MAC_BYTES: usize = 16;
const TOKEN_BYTES: usize = 8 + 8 + MAC_BYTES;
/// The length of a token as text.
const TOKEN_CHARS: usize = (TOKEN_BYTES * 4).div_ceil(3);
/// How many cookies of this name are read: a browser sends one for each path and domain they were set for.
const TRIED_MAX: usize = 4;

/// The attributes of the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its lifetime in seconds; `None` until the browser is closed.
    pub max_age: Option<u64>,
    /// When it gets the attribute `Secure`.
    pub secure: Secure,
    /// Whether it is hidden from the page's scripts.
    pub http_only: bool,
    /// Whether requests from other sites carry it.
    pub same_site: SameSite,
}

/// When a cookie gets `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the request came by TLS.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which requests from other sites carry a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// None, not even links.
    Strict,
    /// Links only.
    Lax,
    /// All.
    None,
}

/// Whether a client came back to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returned {
    /// It had no cookie.
    New,
    /// It came back.
    Hit,
    /// It went to another one, since its endpoint takes no sessions now or is gone.
    Moved,
    /// Its cookie was not ours, was altered, or had expired.
    Invalid,
}

variant_labels! {
    Returned {
        New => "new",
        Hit => "hit",
        Moved => "moved",
        Invalid => "invalid",
    }
}

/// The affinity of one upstream.
#[derive(Debug)]
pub struct Sticky {
    name: String,
    upstream: String,
    keys: Vec<Key>,
    path: String,
    attributes: Attributes,
}

/// How far apart the clocks of instances may be, in seconds, before they renew one another's cookies.
const SKEW: u64 = 60;

/// The content of a request's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// There is no cookie.
    None,
    /// The cookie is not ours, was altered, or has expired.
    Invalid,
    /// The cookie names this endpoint.
    Endpoint {
        /// See [`super::Candidates::identity`].
        identity: u64,
        /// Whether over half of its time is left and the first secret signed it, so that it needs no renewal.
        is_fresh: bool,
    },
}

impl Affinity {
    /// Returns the endpoint named.
    pub fn identity(self) -> Option<u64> {
        match self {
            Affinity::Endpoint { identity, .. } => Some(identity),
            Affinity::None | Affinity::Invalid => None,
        }
    }

    /// Returns whether the client came back, given the endpoint that answered.
    pub fn returned(self, answered: u64) -> Returned {
        match self {
            Affinity::None => Returned::New,
            Affinity::Invalid => Returned::Invalid,
            Affinity::Endpoint { identity, .. } if identity == answered => Returned::Hit,
            Affinity::Endpoint { .. } => Returned::Moved,
        }
    }
}

impl Sticky {
    /// Creates the cookie `name` for `path` of `upstream`. The first of the `secrets` signs.
    pub fn new<'a>(
        name: String,
        upstream: String,
        secrets: impl IntoIterator<Item = &'a [u8]>,
        path: String,
        attributes: Attributes,
    ) -> Sticky {
        let keys = secrets.into_iter().map(|secret| Key::new(HMAC_SHA256, secret)).collect();
        Sticky { name, upstream, keys, path, attributes }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the lines of a request's `Cookie`; `now` is in seconds of the Unix epoch.
    pub fn read<'a>(&self, cookies: impl IntoIterator<Item = &'a [u8]>, now: u64) -> Affinity {
        let tokens = cookies.into_iter().flat_map(pairs).filter_map(|pair| value(pair, &self.name));
        let mut affinity = Affinity::None;
        for token in tokens.take(TRIED_MAX) {
            affinity = self.verify(token, now);
            if let Affinity::Endpoint { .. } = affinity {
                break;
            }
        }
        affinity
    }

    fn verify(&self, token: &[u8], now: u64) -> Affinity {
        let mut bytes = [0; TOKEN_BYTES];
        // The length is checked first: otherwise the decoder reports a buffer that is too small.
        if token.len() != TOKEN_CHARS || BASE64.decode_slice(token, &mut bytes) != Ok(TOKEN_BYTES) {
            return Affinity::Invalid;
        }
        let (masked, rest) = bytes.split_at(8);
        let (expiry, mac) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let expires = number(expiry);
        for (index, key) in self.keys.iter().enumerate() {
            let identity = number(masked) ^ mask(key, mac);
            if verify_slices_are_equal(&self.mac(key, identity, expires), mac).is_err() {
                continue;
            }
            let left = match expires {
                0 => u64::MAX,
                at if at <= now => return Affinity::Invalid,
                at => at - now,
            };
            // A cookie with more time left than any gets comes from a clock that was ahead, and would last too long.
            let is_due = |age: u64| left > age / 2 && left <= age.saturating_add(SKEW);
            let is_fresh = index == 0 && self.attributes.max_age.is_none_or(is_due);
            return Affinity::Endpoint { identity, is_fresh };
        }
        Affinity::Invalid
    }

    /// Returns the value of `Set-Cookie` that names the endpoint `identity` from `now` on, for a client that came by
    /// TLS or not.
    pub fn set(&self, identity: u64, now: u64, tls: bool) -> String {
        let Attributes { max_age, secure, http_only, same_site } = self.attributes;
        let mut line = format!("{}={}; Path={}", self.name, self.token(identity, now), self.path);
        if let Some(age) = max_age {
            line.push_str(&format!("; Max-Age={age}"));
        }
        if secure == Secure::Always || secure == Secure::Auto && tls {
            line.push_str("; Secure");
        }
        if http_only {
            line.push_str("; HttpOnly");
        }
        line.push_str(match same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        line
    }

    fn token(&self, identity: u64, now: u64) -> String {
        // `new` gets at least one secret; without any, no cookie could be read, so none is sent.
        let Some(key) = self.keys.first() else { return String::new() };
        let expires = self.attributes.max_age.map_or(0, |age| now.saturating_add(age));
        let mac = self.mac(key, identity, expires);
        let mut bytes = [0; TOKEN_BYTES];
        bytes[..8].copy_from_slice(&(identity ^ mask(key, &mac)).to_be_bytes());
        bytes[8..16].copy_from_slice(&expires.to_be_bytes());
        bytes[16..].copy_from_slice(&mac);
        BASE64.encode(bytes)
    }

    fn mac(&self, key: &Key, identity: u64, expires: u64) -> [u8; MAC_BYTES] {
        // All parts but the name have a fixed length, so no two messages are equal.
        let parts = [b"mac1", &identity.to_be_bytes()[..], &expires.to_be_bytes(), self.upstream.as_bytes()];
        first(&signed(key, &parts))
    }
}

/// Returns the mask of the identity.
fn mask(key: &Key, mac: &[u8]) -> u64 {
    u64::from_be_bytes(first(&signed(key, &[b"mask", mac])))
}

fn signed(key: &Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

fn first<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&tag.as_ref()[..N]);
    bytes
}

/// Splits a line of `Cookie` at each semicolon, as browsers and servers do (RFC 6265 §5.4).
fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

/// Returns the value, if this is the cookie `name`.
fn value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    Some(pair.trim_ascii().strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start())
}

/// Returns the values of the cookie `name` in a line of `Cookie`.
pub fn values<'a>(line: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(line).filter_map(move |pair| value(pair, name)).map(<[u8]>::trim_ascii_end)
}

/// Returns a line of `Cookie` without the cookie `name`, and everything else in it byte for byte. `None` if the cookie
/// is not in it; empty if nothing else is.
pub fn without(line: &[u8], name: &str) -> Option<Vec<u8>> {
    if !pairs(line).any(|pair| value(pair, name).is_some()) {
        return None;
    }
    let rest: Vec<_> = pairs(line).filter(|pair| value(pair, name).is_none()).collect();
    Some(rest.join(&b';').trim_ascii_start().to_vec())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;

    fn sticky(upstream: &str, secrets: &[&str], max_age: Option<u64>) -> Sticky {
        let attributes = Attributes { max_age, secure: Secure::Auto, http_only: true, same_site: SameSite::Lax };
        let secrets = secrets.iter().map(|secret| secret.as_bytes());
        Sticky::new("srv".into(), upstream.into(), secrets, "/".into(), attributes)
    }

    /// What a request with this cookie is taken for.
    fn read(sticky: &Sticky, token: &str, now: u64) -> Affinity {
        sticky.read([format!("a=b; srv={token}; c=d").as_bytes()], now)
    }

    fn fresh(identity: u64) -> Affinity {
        Affinity::Endpoint { identity, is_fresh: true }
    }

    #[test]
    fn cookies_are_what_they_always_were() {
        // Instances of different versions must read one another's.
        let token = sticky("chat", &["secret"], Some(HOUR)).token(7, NOW);
        assert_eq!(token, "jkAulUylCeMAAAAAa0ngEB3cgMqvGXhy7wZn2R1I07E");
    }

    #[test]
    fn a_clock_that_jumps_costs_an_affinity_at_most_and_no_cookie_lasts_for_ever() {
        let sticky = sticky("chat", &["secret"], Some(HOUR));
        let token = sticky.token(7, NOW);
        // A clock behind: the cookie is valid, and renewed with its proper time. A clock ahead: it is as if too old.
        assert_eq!(read(&sticky, &token, NOW - SKEW), fresh(7));
        for now in [0, NOW - 365 * 24 * HOUR, NOW - SKEW - 1] {
            assert_eq!(read(&sticky, &token, now), Affinity::Endpoint { identity: 7, is_fresh: false });
            assert_eq!(read(&sticky, &sticky.token(7, now), now), fresh(7));
        }
        for now in [NOW + HOUR, u64::MAX] {
            assert_eq!(read(&sticky, &token, now), Affinity::Invalid);
        }
    }

    #[test]
    fn any_instance_with_the_secret_reads_it_and_no_other_upstream_takes_it() {
        let token = sticky("chat", &["one"], None).token(42, NOW);
        assert_eq!(read(&sticky("chat", &["one"], None), &token, NOW + 1_000_000), fresh(42));
        assert_eq!(read(&sticky("chat2", &["one"], None), &token, NOW), Affinity::Invalid);
        assert_eq!(read(&sticky("chat", &["two"], None), &token, NOW), Affinity::Invalid);
        assert_eq!(sticky("chat", &["one"], None).read([&b"a=b"[..], b"xsrv=1; sr=2"], NOW), Affinity::None);
    }

    #[test]
    fn secrets_change_without_anybody_being_moved() {
        let old = sticky("chat", &["old"], None).token(42, NOW);
        let both = sticky("chat", &["new", "old"], None);
        assert_eq!(read(&both, &old, NOW), Affinity::Endpoint { identity: 42, is_fresh: false });
        let new = both.token(42, NOW);
        assert_eq!(read(&sticky("chat", &["new"], None), &new, NOW), fresh(42));
    }

    #[test]
    fn it_expires_and_is_renewed_before() {
        let sticky = sticky("chat", &["one"], Some(HOUR));
        let token = sticky.token(42, NOW);
        for (later, affinity) in [
            (0, fresh(42)),
            (HOUR / 2 - 1, fresh(42)),
            (HOUR / 2, Affinity::Endpoint { identity: 42, is_fresh: false }),
            (HOUR - 1, Affinity::Endpoint { identity: 42, is_fresh: false }),
            (HOUR, Affinity::Invalid),
        ] {
            assert_eq!(read(&sticky, &token, NOW + later), affinity, "{later}");
        }
    }

    #[test]
    fn the_first_good_one_of_several_counts() {
        let sticky = sticky("chat", &["one"], None);
        let line = format!("srv=foreign; srv={}", sticky.token(42, NOW));
        assert_eq!(sticky.read([line.as_bytes()], NOW), fresh(42));
        assert_eq!(sticky.read([&b"a=1"[..], line.as_bytes()], NOW), fresh(42));
    }

    #[test]
    fn it_is_set_as_the_configuration_says() {
        let mut sticky = sticky("chat", &["one"], Some(HOUR));
        let token = sticky.token(42, NOW);
        let set = format!("srv={token}; Path=/; Max-Age=3600");
        assert_eq!(sticky.set(42, NOW, true), format!("{set}; Secure; HttpOnly; SameSite=Lax"));
        assert_eq!(sticky.set(42, NOW, false), format!("{set}; HttpOnly; SameSite=Lax"));
        sticky.path = "/ws".into();
        sticky.attributes =
            Attributes { max_age: None, secure: Secure::Always, http_only: false, same_site: SameSite::None };
        let token = sticky.token(42, NOW);
        assert_eq!(sticky.set(42, NOW, false), format!("srv={token}; Path=/ws; Secure; SameSite=None"));
    }

    #[test]
    fn one_cookie_is_taken_out_and_the_others_are_not_touched() {
        for (line, rest) in [
            ("srv=x", Some("")),
            ("srv=x; a=1", Some("a=1")),
            ("a=1; srv=x", Some("a=1")),
            ("a=1; srv=x; b=\"2\" ;c", Some("a=1; b=\"2\" ;c")),
            ("srv=x;srv=y; a=1", Some("a=1")),
            ("a=1;srv = x;b=2", Some("a=1;b=2")),
            ("xsrv=1; srv2=2; a=srv=3", None),
            ("SRV=x", None),
            ("srv", None),
            ("", None),
        ] {
            assert_eq!(without(line.as_bytes(), "srv").as_deref(), rest.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn identities_do_not_show() {
        let sticky = sticky("chat", &["one"], None);
        let bytes = |identity| BASE64.decode(sticky.token(identity, NOW)).unwrap();
        let (one, other) = (bytes(1), bytes(2));
        let same = one[..8].iter().zip(&other[..8]).filter(|(one, other)| one == other).count();
        assert!(same < 3, "they differ as random numbers do, and not in one bit");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(identity: u64, age in prop::option::of(2_u64..1_000_000), upstream in "[a-z]{1,9}") {
            let sticky = sticky(&upstream, &["a secret"], age);
            prop_assert_eq!(read(&sticky, &sticky.token(identity, NOW), NOW), fresh(identity));
        }

        #[test]
        fn any_change_makes_it_void(identity: u64, at in 0..TOKEN_CHARS, byte in "[ -~]", cut: bool) {
            let sticky = sticky("chat", &["a secret"], Some(HOUR));
            let token = sticky.token(identity, NOW);
            let mut changed = token.clone();
            changed.replace_range(at..at + 1, if cut { "" } else { &byte });
            // A semicolon or a space at an end is not part of the value.
            prop_assume!(changed != token);
            let read = read(&sticky, &changed, NOW);
            prop_assert!(read == Affinity::Invalid, "{:?}", read);
        }

        #[test]
        fn no_garbage_is_taken_for_one(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let sticky = sticky("chat", &["a secret"], None);
            prop_assert!(sticky.read([&line[..]], NOW).identity().is_none());
            if let Some(rest) = without(&line, "srv") {
                prop_assert!(rest.len() < line.len());
                prop_assert!(without(&rest, "srv").is_none());
            }
        }
    }
}
