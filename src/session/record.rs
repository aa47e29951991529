//! What the access log reports of a request and of a session, as far as it is known before the end.
//!
//! Texts are copied: a kept header would pin hyper's whole read buffer.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Version;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::access_log::{LogRecord, RecordKind, Traffic};
use crate::balance::sticky::Returned;
use crate::base::time::MonotonicTime;

/// The version of TLS, as it is logged.
pub type TlsVersion = &'static str;

/// The logged data of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInfo {
    /// The client's address, if known.
    pub client: Option<IpAddr>,
    /// Its port, if the client is the peer of the connection.
    pub client_port: Option<u16>,
    /// The version of HTTP. A session that comes from another process is one of HTTP/1.1: no other can move.
    #[serde(skip)]
    pub http: Version,
    /// The version of TLS.
    #[serde(with = "tls_version")]
    pub tls: Option<TlsVersion>,
    /// The logged texts of the request.
    pub texts: Texts,
}

/// The logged texts of a request, one after another in one allocation; empty if nothing is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    all: Box<str>,
    /// The end of each text that is present, plus one.
    ends: [Option<NonZeroU32>; 5],
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Quoted { host, path, query, request_id, user_agent } = self.quoted();
        (host, path, query, request_id, user_agent).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        let read = <(String, String, Option<String>, Option<String>, Option<String>)>::deserialize(deserializer)?;
        let (host, path, query, request_id, user_agent) = &read;
        let [query, request_id, user_agent] = [query, request_id, user_agent].map(Option::as_deref);
        let texts = Texts::new(&Quoted { host, path, query, request_id, user_agent });
        Ok(if texts.quoted() == Texts::default().quoted() { Texts::default() } else { texts })
    }
}

/// Writes and reads the version of TLS, of which there are two.
mod tls_version {
    use std::borrow::Cow;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(version: &Option<&'static str>, serializer: S) -> Result<S::Ok, S::Error> {
        version.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'static str>, D::Error> {
        match Option::<Cow<'_, str>>::deserialize(deserializer)?.as_deref() {
            None => Ok(None),
            Some("1.2") => Ok(Some("1.2")),
            Some("1.3") => Ok(Some("1.3")),
            Some(_) => Err(D::Error::custom("a version of TLS that is not known")),
        }
    }
}

/// The texts, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// The authority of the request.
    pub host: &'a str,
    /// The path, as received.
    pub path: &'a str,
    /// The query, as received.
    pub query: Option<&'a str>,
    /// X-Request-Id.
    pub request_id: Option<&'a str>,
    /// User-Agent.
    pub user_agent: Option<&'a str>,
}

impl Texts {
    /// Copies the texts.
    pub fn new(quoted: &Quoted<'_>) -> Texts {
        let texts = [Some(quoted.host), Some(quoted.path), quoted.query, quoted.request_id, quoted.user_agent];
        let mut all = String::with_capacity(texts.iter().flatten().map(|text| text.len()).sum());
        // One more than the end, since an empty text at the start has its end at 0.
        let ends = texts.map(|text| {
            all.push_str(text?);
            NonZeroU32::new(u32::try_from(all.len()).ok()? + 1)
        });
        Texts { all: all.into_boxed_str(), ends }
    }

    /// Replaces the received X-Request-Id.
    pub fn set_request_id(&mut self, id: &str) {
        let texts = Texts::new(&Quoted { request_id: Some(id), ..self.quoted() });
        *self = texts;
    }

    /// Returns the texts.
    pub fn quoted(&self) -> Quoted<'_> {
        let mut start = 0;
        let [host, path, query, request_id, user_agent] = self.ends.map(|end| {
            let end = end?.get() as usize - 1;
            let text = &self.all[start..end];
            start = end;
            Some(text)
        });
        Quoted { host: host.unwrap_or(""), path: path.unwrap_or(""), query, request_id, user_agent }
    }
}

impl RequestInfo {
    /// Sets the client's address, and its port if `peer` is the client itself and not a proxy.
    pub fn set_client(&mut self, client: Option<IpAddr>, peer: Option<SocketAddr>) {
        self.client = client;
        self.client_port = peer.filter(|peer| Some(peer.ip()) == client).map(|peer| peer.port());
    }
}

impl RequestInfo {
    /// Returns a log record with the data of the request; the caller fills in the rest.
    pub fn record<'a>(&'a self, listener: &'a str) -> LogRecord<'a> {
        let Quoted { host, path, query, request_id, user_agent } = self.texts.quoted();
        LogRecord {
            kind: RecordKind::Request,
            ended: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            handshake: None,
            client: self.client,
            client_port: self.client_port,
            listener,
            route: None,
            upstream: None,
            endpoint: None,
            host,
            method: "",
            path,
            query,
            status: 0,
            subprotocol: None,
            compression: None,
            http: version_label(self.http),
            tls: self.tls,
            subject: None,
            request_id,
            user_agent,
            received: Traffic::default(),
            sent: Traffic::default(),
            close: None,
            reason: "",
            detail: None,
            attempts: 0,
            waited: Duration::ZERO,
            sticky: None,
        }
    }
}

/// Returns a version of HTTP as it stands in logs and metrics.
pub fn version_label(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The data of a session's log line, as far as it is known before the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The traffic from the client and from the server.
    pub traffic: [Traffic; 2],
    /// The request.
    pub request_info: RequestInfo,
    /// Name of the endpoint.
    pub endpoint: Arc<str>,
    /// The negotiated subprotocol.
    pub subprotocol: Option<Box<str>>,
    /// Whether permessage-deflate was agreed on.
    pub is_deflated: bool,
    /// When the request arrived.
    pub requested: MonotonicTime,
    /// The number of endpoints tried.
    pub attempts: u32,
    /// How long the request waited before the first attempt, in microseconds (the type holds over an hour).
    pub waited_micros: u32,
    /// The result of its affinity cookie.
    pub returned: Option<Returned>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        for query in [None, Some(""), Some("id=7")] {
            let went = Quoted { host: "", path: "/ä", query, request_id: None, user_agent: Some("x") };
            let texts = Texts::new(&went);
            let came = texts.quoted();
            assert_eq!((came.host, came.path, came.query), (went.host, went.path, went.query));
            assert_eq!((came.request_id, came.user_agent), (went.request_id, went.user_agent));
        }
        let nothing = Texts::default();
        assert_eq!((nothing.quoted().host, nothing.quoted().user_agent), ("", None));
    }
}
