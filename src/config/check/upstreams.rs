//! Upstreams: without endpoints, with the same one twice, with half a certificate, with source addresses that reach none
//! of them, or without a route.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::super::address::EndpointUrl;
use super::super::health::{Health, WhenAllDown};
use super::super::key::KeyPath;
use super::super::locate::Aim;
use super::super::upstream::{Endpoint, Upstream};
use super::Checker;

impl Checker<'_> {
    pub(super) fn upstreams(&mut self) {
        let section = KeyPath::root().key("upstreams");
        for (name, upstream) in &self.file.upstreams {
            let path = section.key(name);
            let before = self.issues.len();
            self.name(&path, name);
            self.issues[before..].iter_mut().for_each(|issue| issue.aim = Aim::Key);
            self.upstream(&path, upstream);
            if !self.file.routes.iter().any(|route| route.upstream == *name) {
                let routes = KeyPath::root().key("routes");
                let message = "no route leads to this upstream";
                self.warn(&path, message).at_key().help("remove it, or name it in a route").involving(routes);
            }
        }
    }

    fn upstream(&mut self, path: &KeyPath, upstream: &Upstream) {
        let list = path.key("endpoints");
        if upstream.endpoints.is_empty() {
            self.error(&list, "there is no endpoint").help("add a URL such as `ws://10.0.0.11:9000`");
        }
        if !upstream.endpoints.is_empty() && upstream.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            let help = "give one of them a weight above 0; with 0 they only keep the sessions they have";
            self.warn(&list, "every endpoint has the weight 0: no new session will be let in").help(help);
        }
        if self.file.zone.is_none()
            && let Some(index) = upstream.endpoints.iter().position(|endpoint| endpoint.zone.is_some())
        {
            let help = "add `zone:` at the top of the file, or remove it here";
            let message = "this process has no zone, so that of an endpoint plays no part";
            self.warn(&list.index(index).key("zone"), message).help(help);
        }
        let mut first: BTreeMap<&EndpointUrl, usize> = BTreeMap::new();
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            if let Some(before) = first.get(&endpoint.url) {
                let before = self.written.original(&list.index(*before));
                let at = list.index(index);
                let at = if self.written.has(&at.key("url")) { at.key("url") } else { at };
                let shown = self.written.show(&at, &endpoint.url);
                self.error(&at, format!("`{shown}` is the same endpoint as {before}")).help("name each endpoint once");
            }
            first.entry(&endpoint.url).or_insert(index);
            if endpoint.max_connections == Some(0) {
                let help = "leave it out for no limit, or write `weight: 0` for no new sessions";
                self.error(&list.index(index).key("max_connections"), "no session would ever fit").help(help);
            }
        }
        self.source_addresses(path, upstream);
        self.health(path, upstream);
        let Some(tls) = &upstream.tls else { return };
        let tls_path = path.key("tls");
        let plain = !upstream.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        if plain && !upstream.endpoints.is_empty() {
            let involved = self.written.original(&list);
            let help = "write `wss://` in the URLs of the endpoints, or remove it";
            self.warn(&tls_path, "no endpoint of this upstream uses TLS").at_key().help(help).involving(involved);
        }
        for (file, key) in [(&tls.ca, "ca"), (&tls.cert, "cert"), (&tls.key, "key")] {
            file.iter().for_each(|name| self.file_name(&tls_path.key(key), name));
        }
        for (this, other, there) in [("cert", "key", tls.cert.is_some()), ("key", "cert", tls.key.is_some())] {
            if there && tls.cert.is_some() != tls.key.is_some() {
                let involved = self.written.original(&tls_path.key(other));
                let message = format!("`{this}` needs `{other}` beside it");
                self.error(&tls_path.key(this), message).at_key().help(format!("add `{other}:`")).involving(involved);
            }
        }
        if let Some(name) = &tls.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            let at = tls_path.key("server_name");
            let shown = self.written.show(&at, name);
            self.error(&at, format!("`{shown}` is not a server name")).help("write a DNS name or an IP address");
        }
    }

    fn source_addresses(&mut self, path: &KeyPath, upstream: &Upstream) {
        let (list, sources) = (path.key("source_addresses"), &upstream.source_addresses);
        for (index, source) in sources.iter().enumerate() {
            if source.is_unspecified() || source.is_multicast() {
                let at = list.index(index);
                let shown = self.written.show(&at, source);
                self.error(&at, format!("`{shown}` is not an address to connect from"))
                    .help("name an address of this machine");
            }
        }
        if sources.is_empty() {
            return;
        }
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            // Of a name only the resolver knows, and its answers change.
            let EndpointUrl::Tcp { host, .. } = &endpoint.url else { continue };
            let Ok(to) = host.parse::<IpAddr>() else { continue };
            if !sources.iter().any(|source| source.is_ipv4() == to.is_ipv4()) {
                let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
                let involved = self.written.original(&list);
                self.error(
                    &path.key("endpoints").index(index),
                    format!("no source address is {family}, as this endpoint is"),
                )
                .help(format!("add an {family} address to `source_addresses`"))
                .involving(involved);
            }
        }
        let local = |endpoint: &Endpoint| matches!(endpoint.url, EndpointUrl::Unix(_));
        if !upstream.endpoints.is_empty() && upstream.endpoints.iter().all(local) {
            let help = "remove it: a Unix socket is not connected to from an address";
            self.warn(&list, "no endpoint of this upstream is reached by IP").at_key().help(help);
        }
    }
    /// Checks that could not be made, and rules without sense.
    fn health(&mut self, path: &KeyPath, upstream: &Upstream) {
        match &upstream.health {
            Some(health) => self.check_of_health(&path.key("health").key(health.kind()), health),
            None if upstream.when_all_down == WhenAllDown::Refuse => {
                let help = "add a `health:`, or remove it";
                let message = "without `health` no endpoint is ever found to be down";
                self.warn(&path.key("when_all_down"), message).help(help).involving(path.key("health"));
            }
            None => {}
        }
        if let Some(ejection) = upstream.ejection.map() {
            let path = path.key("ejection");
            if ejection.failures == 0 {
                let help = "write 1 or more, or `ejection: off`";
                self.error(&path.key("failures"), "zero failures would eject every endpoint").help(help);
            }
            self.not_zero(&path.key("time"), ejection.time, "nobody is left out; write `ejection: off`");
            if ejection.time_max < ejection.time {
                let at = if self.written.has(&path.key("time_max")) { "time_max" } else { "time" };
                let message = format!("`time_max` is {}, and the first ejection is longer", ejection.time_max);
                let help = "make `time_max` at least as long as `time`";
                self.error(&path.key(at), message).help(help).involving(path.key("time"));
            }
        }
    }

    fn check_of_health(&mut self, path: &KeyPath, health: &Health) {
        let pace = health.pace();
        self.not_zero(&path.key("every"), pace.every, "checks are made without a pause");
        self.not_zero(&path.key("timeout"), pace.timeout, "every check fails");
        if pace.timeout > pace.every {
            let at = if self.written.has(&path.key("timeout")) { "timeout" } else { "every" };
            let message = format!("a check may take {}, and the next one begins after {}", pace.timeout, pace.every);
            let (other, help) = (path.key("every"), "make `timeout` at most as long as `every`");
            self.error(&path.key(at), message).help(help).involving(other);
        }
        for (key, count) in [("rise", pace.rise), ("fall", pace.fall)] {
            if count == 0 {
                let message = "no check at all cannot tell anything";
                self.error(&path.key(key), message).help("write 1 or more");
            }
        }
        let headers = match health {
            Health::Tcp(_) => return,
            Health::Http(check) => &check.headers,
            Health::Websocket(check) => &check.headers,
        };
        for (name, _) in headers.iter() {
            let help = match name.as_str() {
                "host" => "write `host:` beside `headers`",
                "sec-websocket-protocol" => "write `subprotocol:` beside `headers`",
                "upgrade" | "connection" | "content-length" | "transfer-encoding" => "remove it",
                name if name.starts_with("sec-websocket-") => "remove it",
                _ => continue,
            };
            let message = format!("the check itself says what `{name}` is");
            self.error(&path.key("headers"), message).help(help);
        }
    }
}
