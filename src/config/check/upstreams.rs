//! Checks upstreams: without endpoints, with duplicate ones, with half a certificate, with source addresses that
//! reach none of them, or without a route.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::read::locate::Aim;
use crate::config::schema::client_tls::{ClientTls, Verify};
use crate::config::schema::discover::{Discover, DnsSource, EtcdSource};
use crate::config::schema::endpoint::EndpointConfig;
use crate::config::schema::health::{Expectation, HealthCheck, WhenAllDown};
use crate::config::schema::rebalance::OnDown;
use crate::config::schema::upstream::{Balance, UpstreamConfig};
use crate::config::value::TimeSpan;
use crate::config::value::address::{Bind, EndpointUrl};

/// The longest time between two questions to DNS: the default. An alert on the age of an answer needs to know one.
const EVERY_MAX: TimeSpan = TimeSpan::from_secs(300);

impl Checker<'_, '_> {
    pub(super) fn upstreams(&mut self) {
        let section = KeyPath::root().key("upstreams");
        for (name, upstream) in &self.file.upstreams {
            let path = section.key(name);
            let before = self.issues.len();
            self.name(&path, name);
            self.issues[before..].iter_mut().for_each(|issue| issue.aim = Aim::Key);
            self.upstream(&path, upstream);
            self.entry(&path, name, upstream);
            if !self.routes_to.contains_key(name.as_str()) {
                let routes = KeyPath::root().key("routes");
                let message = "no route leads to this upstream";
                self.warn(&path, message).at_key().help("remove it, or name it in a route").involving(routes);
            }
        }
    }

    fn upstream(&mut self, path: &KeyPath, upstream: &UpstreamConfig) {
        let list = path.key("endpoints");
        self.source(path, upstream);
        if upstream.endpoints.is_empty() && self.written.has(&list) {
            self.error(&list, "there is no endpoint").help("add a URL such as `ws://10.0.0.11:9000`");
        }
        if !upstream.endpoints.is_empty()
            && upstream.endpoints.iter().all(|endpoint| endpoint.weight == 0 || endpoint.drain.is_some())
        {
            let help = "give one of them a weight above 0; with 0 they only keep the sessions they have";
            self.warn(&list, "every endpoint has the weight 0 or is drained: no new session will be let in").help(help);
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
                let before = self.written.name_of(&before, &before);
                let at = list.index(index);
                let at = if self.written.has(&at.key("url")) { at.key("url") } else { at };
                let shown = self.written.show(&at, &endpoint.url);
                self.error(&at, format!("`{shown}` is the same endpoint as {before}")).help("name each endpoint once");
            }
            first.entry(&endpoint.url).or_insert(index);
            self.ourselves(&list.index(index), &endpoint.url);
            if endpoint.max_connections == Some(0) {
                let help = "leave it out for no limit, or write `weight: 0` for no new sessions";
                self.error(&list.index(index).key("max_connections"), "no session would ever fit").help(help);
            }
        }
        self.source_addresses(path, upstream);
        self.tcp(&path.key("tcp"), &upstream.tcp);
        self.health(path, upstream);
        self.shedding(path, upstream);
        let Some(tls) = &upstream.tls else { return };
        let tls_path = path.key("tls");
        let plain = upstream.discover.is_none() && !upstream.endpoints.iter().any(|endpoint| endpoint.url.is_tls());
        if plain && !upstream.endpoints.is_empty() && self.written.has_own(&tls_path) {
            let involved = self.written.original(&list);
            let help = "write `wss://` in the URLs of the endpoints, or remove it";
            self.warn(&tls_path, "no endpoint of this upstream uses TLS").at_key().help(help).involving(involved);
        }
        self.client_tls(&tls_path, tls);
    }

    pub(super) fn client_tls(&mut self, tls_path: &KeyPath, tls: &ClientTls) {
        if tls.verify == Verify::Off && tls.ca.is_some() {
            let involved = self.written.original(&tls_path.key("verify"));
            let message = "nothing is verified by it with `verify: off`";
            let help = "remove `verify: off`: a server's own certificate may stand in this file";
            self.warn(&tls_path.key("ca"), message).at_key().help(help).involving(involved);
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

    /// Endpoints are either written or discovered.
    fn source(&mut self, path: &KeyPath, upstream: &UpstreamConfig) {
        let (list, discover) = (path.key("endpoints"), path.key("discover"));
        match &upstream.discover {
            None if !self.written.has(&list) => {
                let help = "add `endpoints:` with a list of URLs, or `discover:` with their source";
                self.error(path, "`endpoints` is missing").at_key().help(help);
            }
            Some(_) if self.written.has(&list) => {
                let involved = self.written.original(&list);
                let message = "endpoints are written or discovered, not both";
                let help = "remove `endpoints:` or `discover:`";
                self.error(&discover, message).at_key().help(help).involving(involved);
            }
            None => {}
            Some(written) => self.discover(&discover, written),
        }
    }

    fn discover(&mut self, path: &KeyPath, written: &Discover) {
        let Discover { file, dns, etcd, allow } = written;
        let there: Vec<&str> = [("file", file.is_some()), ("dns", dns.is_some()), ("etcd", etcd.is_some())]
            .into_iter()
            .filter_map(|(key, is_there)| is_there.then_some(key))
            .collect();
        match there[..] {
            [] => {
                let [file, dns, etcd] = ["file", "dns", "etcd"].map(|key| self.written.original(&path.key(key)));
                let issue = self.error(path, "no source of the endpoints is named").at_key();
                issue.help("add `file:`, `dns:` or `etcd:`").involving(file).involving(dns).involving(etcd);
            }
            [first, second, ..] => {
                let message = format!("endpoints have one source, and `{first}` is there already");
                self.error(&path.key(second), message).at_key().help("keep one of the two");
            }
            [_] => {}
        }
        if let Some(source) = file {
            self.file_name(&path.key("file").key("path"), &source.path);
        }
        if let Some(source) = dns {
            self.dns(&path.key("dns"), source);
        }
        if let Some(source) = etcd {
            self.etcd(&path.key("etcd"), source);
        }
        if allow.as_ref().is_some_and(Vec::is_empty) {
            let help = "name a network such as `10.0.0.0/8`, or remove it";
            self.error(&path.key("allow"), "no endpoint may be anywhere").help(help);
        }
    }

    /// Finds an endpoint that is a listener of ours, as far as the file shows.
    fn ourselves(&mut self, at: &KeyPath, url: &EndpointUrl) {
        let is_at = |bind: &Bind| match (bind, url) {
            (Bind::Unix(bind), EndpointUrl::Unix(path)) => bind == path,
            (Bind::Tcp(bind), EndpointUrl::Tcp { host, port, .. }) if bind.port() == *port => {
                match (host.as_str(), host.parse::<IpAddr>()) {
                    ("localhost", _) => bind.ip().is_loopback() || bind.ip().is_unspecified(),
                    (_, Ok(ip)) if ip.is_ipv4() == bind.is_ipv4() => {
                        bind.ip() == ip
                            || bind.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified())
                            || ip.is_unspecified() && bind.ip().is_loopback()
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        let section = KeyPath::root();
        if let Some(index) = self.file.listeners.iter().position(|listener| is_at(&listener.bind)) {
            let name = &self.file.listeners[index].name;
            let message = format!("this is the listener `{name}` of this proxy");
            let involved = self.written.original(&section.key("listeners").index(index).key("bind"));
            let help = "a request that comes back to the route it was sent on by is answered with 508";
            self.warn(at, message).help(help).involving(involved);
        }
        if self.file.admin.as_ref().is_some_and(|admin| is_at(&admin.bind)) {
            let involved = self.written.original(&section.key("admin").key("bind"));
            let message = "this is the admin listener: clients would come to it as if from this machine";
            self.warn(at, message).help("name a server that is meant for clients").involving(involved);
        }
    }

    fn dns(&mut self, path: &KeyPath, source: &DnsSource) {
        let at = path.key("name");
        let shown = self.written.show(&at, &source.name);
        let bare = source.name.strip_suffix('.').unwrap_or(&source.name);
        let label = |label: &str| {
            let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(inside)
        };
        if bare.parse::<IpAddr>().is_ok() {
            self.error(&at, format!("`{shown}` is an address")).help("write it under `endpoints:`, with its port");
        } else if bare.len() > 253 || !bare.split('.').all(label) {
            self.error(&at, format!("`{shown}` is not a DNS name")).help("write a name such as `chat.internal`");
        } else if source.port.is_none() && !source.name.starts_with('_') {
            let help = "add `port:`, or name a service such as `_ws._tcp.chat.internal`";
            let involved = self.written.original(&path.key("port"));
            self.error(&at, "a name of hosts needs a port").help(help).involving(involved);
        }
        if source.port == Some(0) {
            self.error(&path.key("port"), "`0` is not a port").help("a port is a number from 1 to 65535");
        }
        if source.server.is_some_and(|server| server.port() == 0) {
            self.error(&path.key("server"), "`0` is not a port").help("DNS servers listen on port 53, most of them");
        }
        let every = path.key("every");
        self.not_zero(&every, source.every, "it is asked all the time");
        if source.every > EVERY_MAX {
            self.error(&every, format!("nobody waits longer than {EVERY_MAX} for an answer to be asked for again"))
                .help(format!("write `{EVERY_MAX}` or less"));
        }
    }

    fn etcd(&mut self, path: &KeyPath, source: &EtcdSource) {
        let servers = path.key("servers");
        if source.servers.is_empty() {
            self.error(&servers, "there is no server").help("add a URL such as `http://10.0.0.5:2379`");
        }
        if source.prefix.is_empty() {
            let help = "write a prefix such as `/wsluice/chat/`";
            self.error(&path.key("prefix"), "every key of the etcd would be an endpoint").help(help);
        }
        for (this, other, here, there) in [
            ("user", "password", source.user.is_some(), source.password.is_some()),
            ("password", "user", source.password.is_some(), source.user.is_some()),
        ] {
            if here && !there {
                let involved = self.written.original(&path.key(other));
                let message = format!("`{this}` needs `{other}` beside it");
                self.error(&path.key(this), message).at_key().help(format!("add `{other}:`")).involving(involved);
            }
        }
        let Some(tls) = &source.tls else { return };
        if !source.servers.iter().any(EndpointUrl::is_tls) {
            let involved = self.written.original(&servers);
            let help = "write `https://` in the URLs of the servers, or remove it";
            self.warn(&path.key("tls"), "no server of this etcd uses TLS").at_key().help(help).involving(involved);
        }
        self.client_tls(&path.key("tls"), tls);
    }

    fn source_addresses(&mut self, path: &KeyPath, upstream: &UpstreamConfig) {
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
        let families = [true, false].map(|v4| sources.iter().any(|source| source.is_ipv4() == v4));
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            // Of a name only the resolver knows, and its answers change.
            let EndpointUrl::Tcp { host, .. } = &endpoint.url else { continue };
            let Ok(to) = host.parse::<IpAddr>() else { continue };
            if !families[usize::from(!to.is_ipv4())] {
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
        let local = |endpoint: &EndpointConfig| matches!(endpoint.url, EndpointUrl::Unix(_));
        if !upstream.endpoints.is_empty() && upstream.endpoints.iter().all(local) && self.written.has_own(&list) {
            let help = "remove it: a Unix socket is not connected to from an address";
            self.warn(&list, "no endpoint of this upstream is reached by IP").at_key().help(help);
        }
    }

    /// Checks when sessions leave their endpoint.
    fn shedding(&mut self, path: &KeyPath, upstream: &UpstreamConfig) {
        if upstream.on_down == OnDown::Close && upstream.health.is_none() && self.written.has_own(&path.key("on_down"))
        {
            let help = "add `health:`, or remove it";
            self.error(&path.key("on_down"), "no check tells that an endpoint is down").help(help);
        }
        if upstream.rebalance.is_some() && upstream.balance != Balance::LeastConnections {
            let balance = self.written.original(&path.key("balance"));
            let help = match self.written.has_own(&path.key("rebalance")) {
                true => "write `balance: least_connections`, or remove it",
                false => "write `balance: least_connections`, or `rebalance: off`",
            };
            let message = "sessions that are moved would not come back where there are few";
            self.error(&path.key("rebalance"), message).help(help).involving(balance);
        }
        if upstream.rebalance.is_some() && upstream.sticky.is_some() {
            let sticky = self.written.original(&path.key("sticky"));
            let help = "remove one of them";
            let message = "clients with a cookie would come back to the endpoint they were moved away from";
            self.error(&path.key("rebalance"), message).help(help).involving(sticky);
        }
    }

    /// Checks that could not be made, and rules without sense.
    fn health(&mut self, path: &KeyPath, upstream: &UpstreamConfig) {
        match &upstream.health {
            Some(health) => self.check_of_health(&path.key("health").key(health.kind()), health),
            None if upstream.when_all_down == WhenAllDown::Refuse
                && self.written.has_own(&path.key("when_all_down")) =>
            {
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
            self.not_zero(&path.key("time"), ejection.time, "no endpoint is left out; write `ejection: off`");
            if ejection.time_max < ejection.time {
                let at = if self.written.has(&path.key("time_max")) { "time_max" } else { "time" };
                let message = format!("`time_max` is {}, and the first ejection is longer", ejection.time_max);
                let help = "make `time_max` at least as long as `time`";
                self.error(&path.key(at), message).help(help).involving(path.key("time"));
            }
        }
    }

    fn check_of_health(&mut self, path: &KeyPath, health: &HealthCheck) {
        let pace = health.schedule();
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
        let (key, expected) = match health {
            HealthCheck::Tcp(_) => ("", None),
            HealthCheck::Http(check) => ("body", check.body.as_ref()),
            HealthCheck::Websocket(check) => ("expect", check.expect.as_ref()),
        };
        if let Some(Expectation::Matches(pattern)) = expected {
            self.regex(&path.key(key).key("matches"), |room| pattern.compile(room));
        }
        let headers = match health {
            HealthCheck::Tcp(_) => return,
            HealthCheck::Http(check) => &check.headers,
            HealthCheck::Websocket(check) => &check.headers,
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
