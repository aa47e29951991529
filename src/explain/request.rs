//! A request that is only asked about, and the listener it would come to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Version};

use super::ExplainError;
use crate::config::{Bind, Config, ListenerConfig, nearest_or_list};
use crate::header::client_certificate::ClientCertificate;
use crate::ping::Target;
use crate::proxy::Downstream;
use crate::ws::handshake::key;

/// The port of a client that has none.
const CLIENT_PORT: u16 = 50_000;

/// A request to ask about.
#[derive(Clone, Debug)]
pub struct AskedRequest {
    /// Its URL.
    pub target: Target,
    /// Whether it is a WebSocket handshake.
    pub is_handshake: bool,
    /// Its method, if it is none.
    pub method: Method,
    /// Its Origin.
    pub origin: Option<HeaderValue>,
    /// The subprotocols that it offers.
    pub subprotocols: Vec<String>,
    /// Further fields; a Host replaces that of the URL.
    pub headers: HeaderMap,
    /// The address that it comes from.
    pub client: IpAddr,
    /// The name of the listener, if the URL is not to decide.
    pub listener: Option<String>,
    /// The certificate that the client shows where it is asked for one.
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl AskedRequest {
    /// Returns its head as the server would read it.
    pub(super) fn parts(&self) -> Result<Parts, ExplainError> {
        let method = if self.is_handshake { Method::GET } else { self.method.clone() };
        let request = Request::builder().method(method).uri(self.target.path.as_str()).version(Version::HTTP_11);
        let mut parts = request.body(()).map_err(|error| ExplainError::Request(error.to_string()))?.into_parts().0;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| ExplainError::Request(error.to_string()));
        let headers = &mut parts.headers;
        headers.insert(HOST, value(&self.target.authority())?);
        if self.is_handshake {
            let key = key(fastrand::u128(..).to_ne_bytes());
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(SEC_WEBSOCKET_KEY, value(&String::from_utf8_lossy(&key))?);
            if !self.subprotocols.is_empty() {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, value(&self.subprotocols.join(", "))?);
            }
        }
        headers.extend(self.origin.clone().map(|origin| (ORIGIN, origin)));
        // The first of each name takes the place of what is there.
        let names: Vec<&HeaderName> = self.headers.keys().collect();
        for name in names {
            headers.remove(name);
            for value in self.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        Ok(parts)
    }

    /// Returns the connection that it comes on.
    pub(super) fn downstream(&self, listener: &ListenerConfig) -> Downstream {
        let port = match &listener.bind {
            Bind::Tcp(address) => Some(address.port()),
            Bind::Unix(_) => None,
        };
        let peer = port.map(|_| SocketAddr::new(self.client, CLIENT_PORT));
        let is_asked = listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
        let certificate = self.certificate.clone().filter(|_| is_asked);
        let tls = listener.tls.is_some().then_some("1.3");
        Downstream { peer, http: Version::HTTP_11, tls, certificate, port, listener_port: port, newcomer: None }
    }

    /// Returns the index of the listener that it comes to: the one named, or else the first that the URL's port and scheme
    /// fit, the first that its scheme fits, or the first of all.
    ///
    /// # Errors
    /// If no listener has the name.
    pub(super) fn listener(&self, file: &Config) -> Result<usize, ExplainError> {
        if let Some(name) = &self.listener {
            let names: Vec<&str> = file.listeners.iter().map(|listener| listener.name.as_str()).collect();
            return names.iter().position(|known| known == name).ok_or_else(|| ExplainError::Listener {
                name: name.clone(),
                hint: nearest_or_list(name, &names, names.len()),
            });
        }
        let has_port =
            |listener: &ListenerConfig| matches!(listener.bind, Bind::Tcp(to) if to.port() == self.target.port);
        let has_scheme = |listener: &ListenerConfig| listener.tls.is_some() == self.target.tls;
        let listeners = &file.listeners;
        let exact = listeners.iter().position(|listener| has_port(listener) && has_scheme(listener));
        Ok(exact.or_else(|| listeners.iter().position(has_scheme)).unwrap_or(0))
    }
}
