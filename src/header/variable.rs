//! The variables that values of the configuration may have: `{client.ip}`, and what other proxies call them.

use std::fmt;

use super::client_certificate::CertificatePart;

/// What a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variable {
    /// The client's address.
    ClientIp,
    /// Its port.
    ClientPort,
    /// The request's id.
    RequestId,
    /// Its method.
    RequestMethod,
    /// Whether the client came by TLS.
    RequestScheme,
    /// The host that it asked for, without a port.
    RequestHost,
    /// The port that it spoke to.
    RequestPort,
    /// The host with its port, if that was written.
    RequestAuthority,
    /// The path that it asked for.
    RequestPath,
    /// The query, without the question mark.
    RequestQuery,
    /// The path and the query.
    RequestTarget,
    /// The path after `rewrite`.
    RewritePath,
    /// The same with the query.
    RewriteTarget,
    /// What `rewrite.strip_prefix` took off the path.
    RewritePrefix,
    /// The listener's name.
    ListenerName,
    /// The port that it listens on.
    ListenerPort,
    /// The route's name.
    RouteName,
    /// The upstream's name.
    UpstreamName,
    /// The version of TLS.
    TlsVersion,
    /// A part of the client's certificate.
    TlsClient(CertificatePart),
}

impl Variable {
    /// All of them, with their names and what they say.
    pub const ALL: [(Variable, &'static str, &'static str); 27] = [
        (Variable::ClientIp, "client.ip", "the client's address, as trusted proxies and the PROXY protocol tell it"),
        (Variable::ClientPort, "client.port", "the client's port; empty behind a proxy that forwards requests"),
        (Variable::RequestId, "request.id", "the id that a trusted proxy gave the request, or else a new UUID"),
        (Variable::RequestMethod, "request.method", "`GET`"),
        (Variable::RequestScheme, "request.scheme", "`https` or `http`, as the client came"),
        (Variable::RequestHost, "request.host", "the host that the client asked for, without the port"),
        (Variable::RequestPort, "request.port", "the port that the client spoke to"),
        (Variable::RequestAuthority, "request.authority", "the host, with its port if the client wrote one"),
        (Variable::RequestPath, "request.path", "the path that the client asked for, in normal form"),
        (Variable::RequestQuery, "request.query", "the query, without `?`"),
        (Variable::RequestTarget, "request.target", "the path, and `?` with the query if there is one"),
        (Variable::RewritePath, "rewrite.path", "the path as `rewrite` leaves it"),
        (Variable::RewriteTarget, "rewrite.target", "that path, and `?` with the query if there is one"),
        (
            Variable::RewritePrefix,
            "rewrite.prefix",
            "what `rewrite.strip_prefix` took off, behind a trusted proxy's X-Forwarded-Prefix",
        ),
        (Variable::ListenerName, "listener.name", "the listener's name"),
        (Variable::ListenerPort, "listener.port", "the port that it listens on"),
        (Variable::RouteName, "route.name", "the route's name"),
        (Variable::UpstreamName, "upstream.name", "the upstream's name"),
        (Variable::TlsVersion, "tls.version", "`1.3` or `1.2`; empty without TLS"),
        (
            Variable::TlsClient(CertificatePart::Subject),
            "tls.client.subject",
            "the subject of the client's certificate: `CN=device-1,O=Example`",
        ),
        (
            Variable::TlsClient(CertificatePart::CommonName),
            "tls.client.common_name",
            "the common name in it: `device-1`; empty if there are several",
        ),
        (Variable::TlsClient(CertificatePart::Issuer), "tls.client.issuer", "who has signed it, in the same form"),
        (Variable::TlsClient(CertificatePart::Serial), "tls.client.serial", "its serial number in hex: `01AB`"),
        (Variable::TlsClient(CertificatePart::Fingerprint), "tls.client.fingerprint", "its SHA-256 in hex: `9f86…`"),
        (
            Variable::TlsClient(CertificatePart::Names),
            "tls.client.san",
            "the names in its subjectAltName: `DNS:a.example.com,URI:spiffe://example.com/a`",
        ),
        (Variable::TlsClient(CertificatePart::Dns), "tls.client.dns", "the DNS names among them: `a.example.com`"),
        (Variable::TlsClient(CertificatePart::Uri), "tls.client.uri", "the URIs among them: `spiffe://example.com/a`"),
    ];

    /// The variable of this name.
    pub fn named(name: &str) -> Option<Variable> {
        Variable::ALL.iter().find(|(_, known, _)| *known == name).map(|(variable, ..)| *variable)
    }

    /// Its name, without braces.
    pub fn name(self) -> &'static str {
        Variable::ALL.iter().find(|(variable, ..)| *variable == self).map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.name())
    }
}

/// What to write in place of a word of nginx, Apache, HAProxy, Envoy, Caddy or Traefik.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// This variable.
    Variable(Variable),
    /// Nothing: servers get it anyway.
    Sent(&'static str),
}

/// The words of others, in lower case and without their marks.
const FOREIGN: [(&str, Instead); 94] = {
    use CertificatePart::{CommonName, Dns, Fingerprint, Issuer, Names, Serial, Subject, Uri};
    use Instead::{Sent, Variable as Var};
    use Variable::*;
    const FORWARDED: Instead = Sent("servers get X-Forwarded-For anyway");
    const UPGRADE: Instead = Sent("servers get it anyway with a WebSocket handshake");
    [
        ("remote_addr", Var(ClientIp)),
        ("binary_remote_addr", Var(ClientIp)),
        ("realip_remote_addr", Var(ClientIp)),
        ("remote_host", Var(ClientIp)),
        ("http.request.remote.host", Var(ClientIp)),
        ("http.vars.client_ip", Var(ClientIp)),
        ("client_ip", Var(ClientIp)),
        ("client.addr", Var(ClientIp)),
        ("client.address", Var(ClientIp)),
        ("request.client_ip", Var(ClientIp)),
        ("src", Var(ClientIp)),
        ("ci", Var(ClientIp)),
        ("downstream_remote_address_without_port", Var(ClientIp)),
        ("remote_port", Var(ClientPort)),
        ("http.request.remote.port", Var(ClientPort)),
        ("src_port", Var(ClientPort)),
        ("cp", Var(ClientPort)),
        ("host", Var(RequestHost)),
        ("http.request.host", Var(RequestHost)),
        ("server_name", Var(RequestHost)),
        ("http_host", Var(RequestAuthority)),
        ("hostport", Var(RequestAuthority)),
        ("http.request.hostport", Var(RequestAuthority)),
        ("req.hdr(host)", Var(RequestAuthority)),
        ("hdr(host)", Var(RequestAuthority)),
        ("req(:authority)", Var(RequestAuthority)),
        ("scheme", Var(RequestScheme)),
        ("request_scheme", Var(RequestScheme)),
        ("http.request.scheme", Var(RequestScheme)),
        ("request_id", Var(RequestId)),
        ("unique_id", Var(RequestId)),
        ("unique-id", Var(RequestId)),
        ("http.request.uuid", Var(RequestId)),
        ("req(x-request-id)", Var(RequestId)),
        ("id", Var(RequestId)),
        ("request_method", Var(RequestMethod)),
        ("method", Var(RequestMethod)),
        ("http.request.method", Var(RequestMethod)),
        ("request_uri", Var(RequestTarget)),
        ("uri", Var(RequestTarget)),
        ("request.uri", Var(RequestTarget)),
        ("request.url", Var(RequestTarget)),
        ("http.request.uri", Var(RequestTarget)),
        ("http.request.orig_uri", Var(RequestTarget)),
        ("req(:path)", Var(RequestTarget)),
        ("document_uri", Var(RequestPath)),
        ("path", Var(RequestPath)),
        ("http.request.uri.path", Var(RequestPath)),
        ("http.request.orig_uri.path", Var(RequestPath)),
        ("args", Var(RequestQuery)),
        ("query", Var(RequestQuery)),
        ("query_string", Var(RequestQuery)),
        ("http.request.uri.query", Var(RequestQuery)),
        ("server_port", Var(ListenerPort)),
        ("dst_port", Var(ListenerPort)),
        ("http.request.local.port", Var(ListenerPort)),
        ("fp", Var(ListenerPort)),
        ("ssl_protocol", Var(TlsVersion)),
        ("ssl_fc_protocol", Var(TlsVersion)),
        ("tls_version", Var(TlsVersion)),
        ("http.request.tls.version", Var(TlsVersion)),
        ("ssl_client_s_dn", Var(TlsClient(Subject))),
        ("ssl_c_s_dn", Var(TlsClient(Subject))),
        ("http.request.tls.client.subject", Var(TlsClient(Subject))),
        ("downstream_peer_subject", Var(TlsClient(Subject))),
        ("tls.client.dn", Var(TlsClient(Subject))),
        ("ssl_client_s_dn_cn", Var(TlsClient(CommonName))),
        ("ssl_c_s_dn(cn)", Var(TlsClient(CommonName))),
        ("tls.client.cn", Var(TlsClient(CommonName))),
        ("ssl_client_i_dn", Var(TlsClient(Issuer))),
        ("ssl_c_i_dn", Var(TlsClient(Issuer))),
        ("http.request.tls.client.issuer", Var(TlsClient(Issuer))),
        ("downstream_peer_issuer", Var(TlsClient(Issuer))),
        ("ssl_client_serial", Var(TlsClient(Serial))),
        ("ssl_client_m_serial", Var(TlsClient(Serial))),
        ("ssl_c_serial", Var(TlsClient(Serial))),
        ("http.request.tls.client.serial", Var(TlsClient(Serial))),
        ("downstream_peer_serial", Var(TlsClient(Serial))),
        ("ssl_client_fingerprint", Var(TlsClient(Fingerprint))),
        ("ssl_c_sha1", Var(TlsClient(Fingerprint))),
        ("http.request.tls.client.fingerprint", Var(TlsClient(Fingerprint))),
        ("downstream_peer_fingerprint_256", Var(TlsClient(Fingerprint))),
        ("tls.client.sans", Var(TlsClient(Names))),
        ("tls.client.names", Var(TlsClient(Names))),
        ("downstream_peer_dns_san", Var(TlsClient(Dns))),
        ("http.request.tls.client.san.dns_names", Var(TlsClient(Dns))),
        ("downstream_peer_uri_san", Var(TlsClient(Uri))),
        ("http.request.tls.client.san.uris", Var(TlsClient(Uri))),
        ("upstream_name", Var(UpstreamName)),
        ("proxy_host", Var(UpstreamName)),
        ("proxy_add_x_forwarded_for", FORWARDED),
        ("http_x_forwarded_for", FORWARDED),
        ("http_upgrade", UPGRADE),
        ("connection_upgrade", UPGRADE),
    ]
};

/// What to write in place of a word that stands in braces here and is none of ours.
pub fn instead_of(word: &str) -> Option<Instead> {
    let word = word.trim().trim_start_matches('$').to_ascii_lowercase();
    FOREIGN.iter().find(|(foreign, _)| *foreign == word).map(|(_, instead)| *instead)
}

/// The first word of another proxy in `text` (`$remote_addr`, `%{REMOTE_ADDR}s`, `%[src]`, `%REQ(:path)%`), as it is
/// written, and what to write instead.
pub fn foreign_word(text: &str) -> Option<(&str, Instead)> {
    text.char_indices().filter(|(_, char)| ['$', '%'].contains(char)).find_map(|(at, mark)| {
        let rest = &text[at + 1..];
        let (word, length) = match (mark, rest.chars().next()?) {
            (_, '{') => rest[1..].split_once('}').map(|(word, _)| (word, word.len() + 2))?,
            ('%', '[') => rest[1..].split_once(']').map(|(word, _)| (word, word.len() + 2))?,
            ('%', 'A'..='Z') => rest.split_once('%').map(|(word, _)| (word, word.len() + 1))?,
            ('%', _) => {
                let end = rest.find(|char: char| !char.is_ascii_alphanumeric()).unwrap_or(rest.len());
                // `%20`, `%ci`: two letters of HAProxy's, and no escape.
                if end != 2 || u8::from_str_radix(&rest[..2], 16).is_ok() {
                    return None;
                }
                (&rest[..end], end)
            }
            _ => {
                let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(rest.len());
                (&rest[..end], end)
            }
        };
        // What HAProxy converts, as in `%[src,lower]`.
        let instead = instead_of(word.split(',').next()?)?;
        Some((&text[at..at + 1 + length], instead))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_one_name_and_is_documented() {
        for (variable, name, meaning) in Variable::ALL {
            assert_eq!((Variable::named(name), variable.name()), (Some(variable), name));
            let row = format!("| `{variable}` | {meaning} |");
            assert!(include_str!("../../config/BEHAVIOUR.md").lines().any(|line| line == row), "not documented: {row}");
        }
        assert_eq!(Variable::ClientIp.to_string(), "{client.ip}");
        assert_eq!(Variable::named("client"), None);
    }

    #[test]
    fn words_of_other_proxies_are_recognised() {
        let var = |variable| Some(Instead::Variable(variable));
        for (text, word, instead) in [
            ("$remote_addr", "$remote_addr", var(Variable::ClientIp)),
            ("a $host b", "$host", var(Variable::RequestHost)),
            ("${http_host}", "${http_host}", var(Variable::RequestAuthority)),
            ("https://$host$request_uri", "$host", var(Variable::RequestHost)),
            ("%{REMOTE_ADDR}s", "%{REMOTE_ADDR}", var(Variable::ClientIp)),
            ("%[src]", "%[src]", var(Variable::ClientIp)),
            ("%[req.hdr(host),lower]", "%[req.hdr(host),lower]", var(Variable::RequestAuthority)),
            ("%ci:%cp", "%ci", var(Variable::ClientIp)),
            ("$ssl_client_s_dn", "$ssl_client_s_dn", var(Variable::TlsClient(CertificatePart::Subject))),
            ("%[ssl_c_s_dn(cn)]", "%[ssl_c_s_dn(cn)]", var(Variable::TlsClient(CertificatePart::CommonName))),
            ("%REQ(:PATH)%", "%REQ(:PATH)%", var(Variable::RequestTarget)),
            ("$5 $request_id", "$request_id", var(Variable::RequestId)),
        ] {
            assert_eq!(
                foreign_word(text).map(|(word, instead)| (word, Some(instead))),
                Some((word, instead)),
                "{text}"
            );
        }
        assert!(matches!(foreign_word("$proxy_add_x_forwarded_for"), Some((_, Instead::Sent(_)))));
        for text in ["", "$", "%", "100%", "a%20b%ci0", "$5", "$hostname", "50% off", "%{", "$2y$10$abc", "%é"] {
            assert_eq!(foreign_word(text), None, "{text}");
        }
        assert_eq!(instead_of("http.request.remote.host"), var(Variable::ClientIp));
    }
}
