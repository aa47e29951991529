//! Checks listeners: addresses that collide, TLS without a certificate, limits that refuse everybody.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::listener::ListenerConfig;
use crate::config::value::ByteSize;
use crate::config::value::address::Bind;

/// The head of a request is held in memory for each connection that sends one; a browser's handshake does not fit
/// into less than 1KiB.
const HEADER_BYTES: (ByteSize, ByteSize) = (ByteSize::from_kib(1), ByteSize::from_kib(1024));

impl Checker<'_, '_> {
    pub(super) fn listeners(&mut self) {
        let section = KeyPath::root().key("listeners");
        let listeners = &self.file.listeners;
        if listeners.is_empty() {
            self.error(&section, "there is no listener").help("remove the key for a plain one on 127.0.0.1:8080");
        }
        self.unique_names("listeners", listeners.iter().map(|listener| listener.name.as_str()));
        for (index, listener) in listeners.iter().enumerate() {
            let path = section.index(index);
            for (before, other) in listeners[..index].iter().enumerate() {
                self.collision(&path.key("bind"), &listener.bind, &section.index(before).key("bind"), &other.bind);
            }
            self.listener(&path, listener);
        }
    }

    pub(super) fn collision(&mut self, path: &KeyPath, bind: &Bind, other_path: &KeyPath, other: &Bind) {
        if bind.collides(other) {
            let other_path = self.written.original(other_path);
            let shown = self.written.show(path, bind);
            let other = self.written.name_of(&other_path, &self.written.original(path));
            let message = format!("`{shown}` cannot be bound: {other} takes it already");
            self.error(path, message).help("use another port or address").involving(other_path);
        }
    }

    fn listener(&mut self, path: &KeyPath, listener: &ListenerConfig) {
        let timeouts = path.key("timeouts");
        self.not_zero(&timeouts.key("tls"), listener.timeouts.tls, "no TLS handshake has the time to finish");
        self.not_zero(&timeouts.key("headers"), listener.timeouts.headers, "no request has the time to arrive");
        self.not_zero(
            &timeouts.key("keep_alive"),
            listener.timeouts.keep_alive,
            "each connection ends after one answer",
        );
        self.off_not_zero(&timeouts.key("send"), listener.timeouts.send, "no client has the time to read an answer");

        self.tcp(&path.key("tcp"), &listener.tcp);
        let limits = path.key("limits");
        if listener.limits.headers == 0 {
            self.error(&limits.key("headers"), "zero would refuse every request").help("the default is 100");
        }
        let (least, most) = HEADER_BYTES;
        if !(least..=most).contains(&listener.limits.header_bytes) {
            let at = limits.key("header_bytes");
            self.error(&at, format!("the head of a request may be given {least} to {most}"))
                .help("the default is `16KiB`");
        }
        self.not_none(&limits.key("connections"), listener.limits.connections, "connection");
        self.not_none(&limits.key("streams"), Some(listener.limits.streams), "stream");
        let newcomers = listener.limits.per_client.as_ref().map(|limits| limits.unauthenticated);
        self.not_none(&limits.key("per_client").key("unauthenticated"), newcomers, "connection");

        if let Some(protocols) = &listener.protocols {
            let at = path.key("protocols");
            if protocols.is_empty() {
                self.error(&at, "without a protocol no client can be served")
                    .help("the default with `tls` is `[h2, http/1.1]`");
            }
            for (index, protocol) in protocols.iter().enumerate() {
                if protocols[..index].contains(protocol) {
                    self.error(&at.index(index), "this protocol is in the list already").help("remove it");
                }
            }
        }
        if let Some(tls) = &listener.tls {
            let tls_path = path.key("tls");
            if tls.certificates.is_empty() {
                let help = "add `{ cert: certs/server.crt, key: certs/server.key }`";
                self.error(&tls_path.key("certificates"), "TLS needs at least one certificate").help(help);
            }
            for (index, certificate) in tls.certificates.iter().enumerate() {
                let at = tls_path.key("certificates").index(index);
                self.file_name(&at.key("cert"), &certificate.cert);
                self.file_name(&at.key("key"), &certificate.key);
            }
            if let Some(client_auth) = &tls.client_auth {
                self.file_name(&tls_path.key("client_auth").key("ca"), &client_auth.ca);
            }
        }
        if let Some(redirect) = &listener.redirect {
            let at = path.key("redirect");
            if redirect.https == 0 {
                self.error(&at.key("https"), "0 is not a port")
                    .help("write the port of the https listener, such as 443");
            }
            if listener.tls.is_some() {
                let help = "remove `redirect`, or move it to a listener without `tls`";
                let involved = self.written.original(&path.key("tls"));
                let message = "a listener with `tls` serves https itself and has nowhere to redirect to";
                self.error(&at, message).at_key().help(help).involving(involved);
            }
        }
        self.listener_addresses(path, listener);
        for (index, network) in listener.trusted_proxies.iter().enumerate() {
            if network.prefix_len() == 0 {
                let at = path.key("trusted_proxies").index(index);
                let help = "name the networks that your proxies are in, such as `10.0.0.0/8`";
                self.warn(&at, "this lets every client claim any address").help(help);
            }
        }
    }

    pub(super) fn file_name(&mut self, path: &KeyPath, name: &std::path::Path) {
        if name.as_os_str().is_empty() {
            self.error(path, "the name of a file is missing").help("write its path");
        } else if name.as_os_str().as_encoded_bytes().windows(10).any(|part| part == b"-----BEGIN") {
            // Not shown: it may be a key.
            self.error(path, "this is PEM text, not the name of a file")
                .help("put it into a file that only this process may read, and write that file's path");
        }
    }
}
