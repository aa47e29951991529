//! Access rules of the admin server.
//!
//! If a token is configured, the API requires it. If none is, only this machine can connect (a loopback address or a Unix
//! socket), and the remaining threat is a web page in a browser on this machine: it can send requests to loopback addresses,
//! although it may read only responses of its own host. So a `Host` that is not this machine's is refused (DNS rebinding
//! makes such a host the page's own), and so is every change that comes from a page, as its browser says in `Origin` or
//! `Sec-Fetch-Site`.
//!
//! Metrics need no token but reveal names, so their `Host` is checked too. On an address that other machines reach, any name
//! is accepted unless `admin.hosts` lists the allowed ones: scrapers use whatever name their configuration has.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use http::header::{AUTHORIZATION, HeaderName, ORIGIN};
use http::request::Parts;

use crate::config::AdminToken;
use crate::header::Host;
use crate::net::stream::{PeerAddr, Stream};
use crate::route::pattern::HostPattern;

/// The header with which browsers say where a request comes from (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client on a network address.
    Inet(PeerAddr),
    /// A process on this machine, as the system reports it for a Unix socket.
    Unix {
        /// Its user id.
        uid: Option<u32>,
        /// Its process id.
        pid: Option<i32>,
    },
}

impl Caller {
    /// Returns the client of `stream`, which was accepted from `peer`.
    pub fn of(stream: &Stream, peer: PeerAddr) -> Caller {
        match stream {
            Stream::Tcp(_) => Caller::Inet(peer),
            Stream::Unix(stream) => {
                let peer = stream.peer_cred().ok();
                Caller::Unix { uid: peer.map(|peer| peer.uid()), pid: peer.and_then(|peer| peer.pid()) }
            }
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Inet(peer) => peer.fmt(f),
            Caller::Unix { uid, pid } => {
                f.write_str("unix")?;
                uid.map_or(Ok(()), |uid| write!(f, " uid={uid}"))?;
                pid.map_or(Ok(()), |pid| write!(f, " pid={pid}"))
            }
        }
    }
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token is missing or wrong.
    #[error("this needs the token of `admin`: send `Authorization: Bearer …`")]
    Token,
    /// `Host` is not a name of this machine.
    #[error(
        "ask for an IP address or `localhost`, or add the name to `admin.hosts`: any other host may be a web page's"
    )]
    Host,
    /// A web page has sent a request that changes something.
    #[error("web pages may not change anything here")]
    Page,
}

/// The tokens, if any, and the accepted host names.
#[derive(Default)]
pub struct Access {
    /// Digests have a fixed length, so that a comparison does not reveal a token's length either.
    digests: Vec<Digest>,
    names: AdminHosts,
}

/// The names accepted in `Host`, besides addresses and `localhost`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminHosts {
    /// Any name.
    Any,
    /// Names that match one of these.
    Only(Vec<HostPattern>),
}

impl Default for AdminHosts {
    fn default() -> AdminHosts {
        AdminHosts::Only(Vec::new())
    }
}

impl AdminHosts {
    /// Uses the configured names. If there are none, accepts no name if only this machine can connect, any name otherwise.
    pub fn new(written: &[HostPattern], is_local: bool) -> AdminHosts {
        if written.is_empty() && !is_local { AdminHosts::Any } else { AdminHosts::Only(written.to_vec()) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            AdminHosts::Any => true,
            AdminHosts::Only(names) => names.iter().any(|pattern| pattern.matches(name)),
        }
    }
}

/// Shows not even the digests.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} tokens)", self.digests.len())
    }
}

impl Access {
    /// Creates rules that accept each of these tokens, or, if there is none, each client that uses one of these names.
    pub fn new(tokens: &[AdminToken], names: AdminHosts) -> Access {
        let sha256 = |token: &AdminToken| digest(&SHA256, token.as_bytes());
        Access { digests: tokens.iter().map(sha256).collect(), names }
    }

    /// Returns true if `Host` is ours, and not a host that a web page has pointed here (DNS rebinding).
    pub fn knows(&self, caller: Caller, request: &Parts) -> bool {
        // Browsers do not connect to Unix sockets.
        if matches!(caller, Caller::Unix { .. }) {
            return true;
        }
        let Ok(host) = Host::from_request(request) else { return self.names == AdminHosts::Any };
        // A page whose host is our address must have come from our server.
        host.name.parse::<IpAddr>().is_ok()
            || host.name == "localhost"
            || host.name.ends_with(".localhost")
            || self.names.has(&host.name)
    }

    /// Checks a request; `changes` is true if it may change something. Returns the index of the token used, from 1.
    ///
    /// # Errors
    /// If it is denied.
    pub fn judge(&self, caller: Caller, request: &Parts, changes: bool) -> Result<Option<usize>, Denied> {
        let token = if self.digests.is_empty() { None } else { Some(self.token(request).ok_or(Denied::Token)?) };
        if token.is_none() && !self.knows(caller, request) {
            return Err(Denied::Host);
        }
        if changes && comes_from_a_page(request) {
            return Err(Denied::Page);
        }
        Ok(token)
    }

    fn token(&self, request: &Parts) -> Option<usize> {
        let mut fields = request.headers.get_all(AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (scheme, given) = field.as_bytes().split_at_checked("bearer ".len())?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let given = digest(&SHA256, given.trim_ascii());
        // Compare with all tokens, so that the time does not depend on which one matches.
        let fits = |of: &Digest| verify_slices_are_equal(of.as_ref(), given.as_ref()).is_ok();
        let found = self.digests.iter().enumerate().map(|(at, of)| if fits(of) { at + 1 } else { 0 });
        found.max().filter(|at| *at > 0)
    }
}

/// Looks at all header lines: a repeated one must not change the result.
fn comes_from_a_page(request: &Parts) -> bool {
    let mut sites = request.headers.get_all(SEC_FETCH_SITE).iter();
    request.headers.contains_key(ORIGIN) || sites.any(|site| site != "none")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    const TCP: fn() -> Caller = || Caller::Inet(PeerAddr::Inet(([127, 0, 0, 1], 5000).into()));
    const UNIX: Caller = Caller::Unix { uid: Some(1000), pid: Some(7) };

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn access(tokens: &[&str]) -> Access {
        let tokens: Vec<AdminToken> = tokens.iter().map(|token| token.parse().unwrap()).collect();
        Access::new(&tokens, AdminHosts::default())
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let access = access(&["0123456789abcdef", "fedcba9876543210"]);
        let judge = |authorization: &str| {
            access.judge(TCP(), &request(&[("host", "any.example.com"), ("authorization", authorization)]), true)
        };
        assert_eq!(judge("Bearer 0123456789abcdef"), Ok(Some(1)));
        assert_eq!(judge("bearer  fedcba9876543210"), Ok(Some(2)));
        for wrong in [
            "Bearer 0123456789abcdeg",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeff",
            "Bearer ",
            "Bearer",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "",
        ] {
            assert_eq!(judge(wrong), Err(Denied::Token), "{wrong}");
        }
        assert_eq!(access.judge(UNIX, &request(&[]), false), Err(Denied::Token), "no token at all");
        let twice =
            request(&[("authorization", "Bearer 0123456789abcdef"), ("authorization", "Bearer 0123456789abcdef")]);
        assert_eq!(access.judge(TCP(), &twice, false), Err(Denied::Token));
        assert_eq!(format!("{access:?}"), "Access(2 tokens)");
    }

    #[test]
    fn without_a_token_a_name_that_may_be_a_pages_is_refused() {
        let access = access(&[]);
        for host in
            ["127.0.0.1:9902", "localhost", "localhost:9902", "LOCALHOST.", "[::1]:9902", "10.0.0.1", "a.localhost"]
        {
            assert_eq!(access.judge(TCP(), &request(&[("host", host)]), true), Ok(None), "{host}");
        }
        for host in ["evil.example.com", "localhost.example.com", "127.0.0.1.nip.io", "notlocalhost", "", "a b"] {
            assert_eq!(access.judge(TCP(), &request(&[("host", host)]), false), Err(Denied::Host), "{host}");
        }
        assert_eq!(access.judge(TCP(), &request(&[]), false), Err(Denied::Host), "no Host");
        assert_eq!(access.judge(UNIX, &request(&[("host", "wsluice")]), true), Ok(None));
    }

    #[test]
    fn names_that_are_written_are_ours_and_elsewhere_any_is() {
        let knows = |written: &[&str], is_local: bool, host: &str| {
            let written: Vec<HostPattern> = written.iter().map(|name| name.parse().unwrap()).collect();
            let asked = http::Request::builder().uri("/metrics").header("host", host).body(()).unwrap();
            Access::new(&[], AdminHosts::new(&written, is_local)).knows(TCP(), &asked.into_parts().0)
        };
        let service = "wsluice.default.svc:9902";
        for host in ["10.1.2.3:9902", "[fd00::1]:9902", "localhost:9902"] {
            assert!(knows(&[], true, host) && knows(&[], false, host) && knows(&["a.b"], false, host), "{host}");
        }
        assert!(!knows(&[], true, service), "on loopback");
        assert!(knows(&[], false, service), "scrapers ask by the name that they know");
        assert!(knows(&["*.svc"], false, service) && knows(&["*.svc"], true, service));
        assert!(!knows(&["*.svc"], false, "evil.example.com"));
        assert!(knows(&[], false, ""), "none at all is no page's");
    }

    #[test]
    fn a_page_may_not_change_anything() {
        let access = access(&[]);
        let from = |name, value| request(&[("host", "127.0.0.1"), (name, value)]);
        for (name, value) in [
            ("origin", "https://evil.example.com"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-origin"),
        ] {
            let page = from(name, value);
            assert_eq!(access.judge(TCP(), &page, true), Err(Denied::Page), "{name}: {value}");
            assert_eq!(access.judge(TCP(), &page, false), Ok(None), "it can not read the answer");
        }
        assert_eq!(access.judge(TCP(), &from("sec-fetch-site", "none"), true), Ok(None), "typed into the address bar");
        for lines in [["none", "cross-site"], ["cross-site", "none"], ["none", ""], ["none", "none, cross-site"]] {
            let page = request(&[("host", "127.0.0.1"), ("sec-fetch-site", lines[0]), ("sec-fetch-site", lines[1])]);
            assert_eq!(access.judge(TCP(), &page, true), Err(Denied::Page), "{lines:?}");
        }
        let twice = request(&[("host", "127.0.0.1"), ("origin", ""), ("origin", "http://127.0.0.1")]);
        assert_eq!(access.judge(TCP(), &twice, true), Err(Denied::Page));
    }

    #[test]
    fn who_it_was_is_told_as_far_as_it_is_known() {
        assert_eq!(TCP().to_string(), "127.0.0.1:5000");
        assert_eq!(UNIX.to_string(), "unix uid=1000 pid=7");
        assert_eq!(Caller::Unix { uid: None, pid: None }.to_string(), "unix");
    }
}
