//! The `server` blocks: where they listen, which names they have, and in which order their routes must stand so that wsluice, which
//! takes the first route that matches, chooses the server that nginx would.

use super::names::Names;
use super::notes::Notes;
use super::parser::Directive;
use super::values::{Scope, has_variable};
use crate::config::Bind;
use crate::import::yaml::{Block, Yaml};

/// A `server` block.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub directive: &'a Directive,
    pub scope: Scope<'a>,
    /// `chat.example.com`
    pub exact: Vec<String>,
    /// `*.example.com`
    pub below: Vec<String>,
    /// Asks for a client's certificate.
    pub verifies: Verifies,
    /// What could not be said, for the comment before its first route.
    pub comments: Vec<String>,
    /// It asks for certificates of another authority than the rest of its listener.
    pub is_closed: bool,
}

/// `ssl_verify_client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verifies {
    No,
    Optional,
    Required,
}

/// An address that servers listen on.
#[derive(Debug)]
pub(super) struct Listener {
    pub name: String,
    bind: Bind,
    pub is_tls: bool,
    takes_proxy: bool,
    /// Indices of servers.
    pub servers: Vec<usize>,
    /// The one for names that nobody has.
    pub default: usize,
    has_default: bool,
    /// Its routes must ask for the certificate themselves.
    pub is_mixed: bool,
}

/// A server as some listeners and some names lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Face {
    pub server: usize,
    /// Indices of listeners.
    pub listeners: Vec<usize>,
    /// Empty for all.
    pub hosts: Vec<String>,
    /// Exact names first, then wildcards, the longest first, then all.
    rank: (u8, usize),
}

impl<'a> Server<'a> {
    /// Reads names.
    pub(super) fn new(directive: &'a Directive, scope: &Scope<'a>, notes: &mut Notes) -> Server<'a> {
        let scope = scope.with(directive.inside());
        let (mut exact, mut below, mut comments) = (vec![], vec![], vec![]);
        let names = directive.inside().iter().filter(|inner| inner.name == "server_name");
        for (inner, name) in names.flat_map(|inner| inner.args.iter().map(move |name| (inner, name))) {
            let name = name.to_ascii_lowercase();
            let (apex, rest) = match name.strip_prefix('.') {
                Some(apex) => (Some(apex.to_owned()), Some(format!("*.{apex}"))),
                None if name.starts_with("*.") => (None, Some(name.clone())),
                None => (Some(name.clone()), None),
            };
            let why = if name.starts_with('~') {
                "a regex is no name here: list the names, or `*.` and a name"
            } else if name.contains('*') && !name.starts_with("*.") {
                "`*` stands only for the first part of a name here"
            } else if matches!(&*name, "_" | "" | "--" | "!@#") {
                continue;
            } else if has_variable(&name) {
                "names have no variables here"
            } else {
                let fits = |name: &str| name.parse::<crate::route::pattern::HostPattern>().is_ok();
                if apex.iter().chain(&rest).all(|name| fits(name)) {
                    exact.extend(apex.filter(|name| !exact.contains(name)));
                    below.extend(rest.filter(|name| !below.contains(name)));
                    continue;
                }
                "this is no name of a host"
            };
            comments.extend(notes.lost(inner, &format!("{}: {why}", super::parser::shown(&name))));
        }
        let verifies = match scope.find("ssl_verify_client") {
            Some(asked) => match asked.arg(0) {
                "on" => Verifies::Required,
                "optional" => Verifies::Optional,
                "off" => Verifies::No,
                _ => {
                    comments.extend(notes.lost(asked, "a certificate that nobody has verified is not asked for"));
                    Verifies::No
                }
            },
            None => Verifies::No,
        };
        Server { directive, scope, exact, below, verifies, comments, is_closed: false }
    }

    /// Returns its first name, as `$server_name` has it.
    pub(super) fn name(&self) -> Option<&str> {
        let named = self.directive.inside().iter().find(|inner| inner.name == "server_name")?;
        let first = named.arg(0);
        self.exact.iter().find(|name| *name == first).map(String::as_str)
    }

    /// Returns a name for its routes.
    pub(super) fn label(&self) -> String {
        self.exact.iter().chain(&self.below).next().map_or("default".to_owned(), |name| name.replace("*.", ""))
    }
}

/// Returns the addresses that a `listen` stands for; none if it is none.
fn binds(listen: &Directive) -> Vec<Bind> {
    let text = listen.arg(0);
    let tcp = |host: &str, port: &str| format!("{host}:{port}").parse::<Bind>().ok();
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let bind = match text {
        _ if text.starts_with("unix:") => text.parse().ok(),
        _ if is_port(text) => tcp("0.0.0.0", text),
        _ if text.ends_with(']') => tcp(text, "80"),
        _ => match text.rsplit_once(':') {
            Some(("*", port)) => tcp("0.0.0.0", port),
            Some(("localhost", port)) => tcp("127.0.0.1", port),
            Some((host, port)) => tcp(host, port),
            None if text == "*" => tcp("0.0.0.0", "80"),
            None if text == "localhost" => tcp("127.0.0.1", "80"),
            None => tcp(text, "80"),
        },
    };
    let mut found: Vec<Bind> = bind.into_iter().collect();
    if let Some(Bind::Tcp(address)) = found.first()
        && listen.args.iter().any(|word| word == "ipv6only=off")
        && address.ip().is_unspecified()
        && address.is_ipv6()
    {
        found.extend(tcp("0.0.0.0", &address.port().to_string()));
    }
    found
}

/// Returns the listeners of all servers.
pub(super) fn listeners(servers: &mut [Server<'_>], notes: &mut Notes) -> Vec<Listener> {
    let mut all: Vec<Listener> = vec![];
    let mut wanted: Vec<(usize, Bind, Option<&Directive>)> = vec![];
    for (index, server) in servers.iter_mut().enumerate() {
        let listens: Vec<&Directive> =
            server.directive.inside().iter().filter(|inner| inner.name == "listen").collect();
        if listens.is_empty() {
            wanted.push((index, Bind::Tcp(([0, 0, 0, 0], 80).into()), None));
        }
        for listen in listens {
            let found = binds(listen);
            let is_quic = listen.args.iter().any(|word| word == "quic");
            if found.is_empty() || is_quic {
                let why = if is_quic { "HTTP/3 is not served" } else { "wsluice listens on addresses" };
                server.comments.extend(notes.lost(listen, why));
                continue;
            }
            wanted.extend(found.into_iter().map(|bind| (index, bind, Some(listen))));
        }
    }
    // An address and its wildcard on one port cannot both be bound: the wildcard has all of its servers.
    let wildcards: Vec<Bind> = wanted.iter().map(|(_, bind, _)| bind.clone()).filter(is_wildcard).collect();
    for (index, bind, listen) in wanted {
        let server = &mut servers[index];
        let wide = wildcards.iter().find(|wide| **wide != bind && wide.collides(&bind));
        if let (Some(wide), Some(listen)) = (wide, listen) {
            let why = format!("`{wide}` takes this address too: its servers answer on all of them");
            server.comments.extend(notes.guard(listen, &why));
        }
        let bind = wide.cloned().unwrap_or(bind);
        let has = |word: &str| listen.is_some_and(|listen| listen.args.iter().skip(1).any(|other| other == word));
        let is_tls = has("ssl") || server.scope.find("ssl").is_some_and(|ssl| ssl.arg(0) == "on");
        let is_default = has("default_server") || has("default");
        let at = all.iter().position(|listener| listener.bind == bind).unwrap_or_else(|| {
            all.push(Listener {
                name: String::new(),
                bind: bind.clone(),
                is_tls: false,
                takes_proxy: false,
                servers: vec![],
                default: index,
                has_default: false,
                is_mixed: false,
            });
            all.len() - 1
        });
        let listener = &mut all[at];
        listener.is_tls |= is_tls;
        listener.takes_proxy |= has("proxy_protocol");
        if is_default && !listener.has_default {
            (listener.default, listener.has_default) = (index, true);
        }
        if !listener.servers.contains(&index) {
            listener.servers.push(index);
        }
    }
    let mut names = Names::default();
    for listener in &mut all {
        let wanted = match &listener.bind {
            Bind::Unix(_) => "unix".to_owned(),
            Bind::Tcp(address) => match (listener.is_tls, address.port(), address.is_ipv6()) {
                (true, 443, false) => "https".to_owned(),
                (true, 443, true) => "https-v6".to_owned(),
                (false, 80, false) => "http".to_owned(),
                (false, 80, true) => "http-v6".to_owned(),
                (_, port, false) => format!("port-{port}"),
                (_, port, true) => format!("port-{port}-v6"),
            },
        };
        listener.name = names.take(&wanted);
    }
    all
}

fn is_wildcard(bind: &Bind) -> bool {
    matches!(bind, Bind::Tcp(address) if address.ip().is_unspecified())
}

impl Listener {
    /// Writes it.
    pub(super) fn block(&mut self, servers: &mut [Server<'_>], notes: &mut Notes) -> Block {
        let mut block = Block::default();
        block.set("name", Yaml::text(&*self.name));
        block.set("bind", Yaml::text(self.bind.to_string()));
        if self.is_tls {
            let tls = self.tls(servers, &mut block, notes);
            block.set("tls", tls);
        }
        if self.takes_proxy {
            block.set("proxy_protocol", Yaml::word("on"));
        }
        let trusted = self.trusted(servers, &mut block, notes);
        if !trusted.is_empty() {
            block.set("trusted_proxies", Yaml::texts(trusted));
        }
        block
    }

    fn tls(&mut self, servers: &mut [Server<'_>], block: &mut Block, notes: &mut Notes) -> Yaml {
        let mut certificates: Vec<Yaml> = vec![];
        // The first certificate is for names that nobody has.
        let mut order = self.servers.clone();
        order.sort_by_key(|index| *index != self.default);
        for index in order.iter().copied() {
            let scope = &servers[index].scope;
            let (certs, keys) = (scope.all("ssl_certificate"), scope.all("ssl_certificate_key"));
            if certs.is_empty() {
                let why = "it has no `ssl_certificate`";
                block.comments.extend(notes.lost(servers[index].directive, why));
            }
            for (at, cert) in certs.iter().enumerate() {
                let is_file =
                    |text: &str| !has_variable(text) && !text.starts_with("data:") && !text.starts_with("engine:");
                match keys.get(at) {
                    Some(key) if is_file(cert.arg(0)) && is_file(key.arg(0)) => {
                        let pair = Yaml::map([("cert", Yaml::text(cert.arg(0))), ("key", Yaml::text(key.arg(0)))]);
                        if !certificates.contains(&pair) {
                            certificates.push(pair);
                        }
                    }
                    _ => block.comments.extend(notes.lost(cert, "a certificate is a file here, with a key in a file")),
                }
            }
        }
        let mut entries = vec![("certificates", Yaml::List(certificates))];
        let protocols: Vec<&Directive> =
            order.iter().filter_map(|index| servers[*index].scope.find("ssl_protocols")).collect();
        if let Some(first) = protocols.first() {
            let speaks = |version: &str| first.args.iter().any(|word| word == version);
            if !speaks("TLSv1.2") && speaks("TLSv1.3") {
                entries.push(("min_version", Yaml::text("1.3")));
            } else if speaks("TLSv1") || speaks("TLSv1.1") {
                block.comments.extend(notes.lost(first, "nothing before TLS 1.2 is spoken"));
            }
        }
        if let Some(auth) = self.client_auth(servers, &order, block, notes) {
            entries.push(("client_auth", auth));
        }
        Yaml::map(entries)
    }

    /// nginx asks for certificates by server, wsluice by listener. Where servers differ, all are asked, and routes say who must have one.
    fn client_auth(
        &mut self,
        servers: &mut [Server<'_>],
        order: &[usize],
        block: &mut Block,
        notes: &mut Notes,
    ) -> Option<Yaml> {
        let asks: Vec<usize> = order.iter().copied().filter(|index| servers[*index].verifies != Verifies::No).collect();
        let ca_of = |server: &Server<'_>| server.scope.find("ssl_client_certificate").map(|ca| ca.arg(0).to_owned());
        let first = *asks.first()?;
        let ca = ca_of(&servers[first]);
        for index in &asks {
            let own = ca_of(&servers[*index]);
            if own.is_none() || own != ca {
                let why = "its clients need a certificate of another authority than those of other servers on this address: closed";
                block.comments.extend(notes.guard(servers[*index].directive, why));
                servers[*index].is_closed = true;
            }
        }
        let ca = ca?;
        let all_required = order.iter().all(|index| servers[*index].verifies == Verifies::Required);
        self.is_mixed = !all_required;
        let mode = if all_required { "require" } else { "optional" };
        Some(Yaml::map([("ca", Yaml::text(ca)), ("mode", Yaml::word(mode))]))
    }

    /// Returns the proxies that all of its servers believe.
    fn trusted(&self, servers: &[Server<'_>], block: &mut Block, notes: &mut Notes) -> Vec<String> {
        let mut common: Option<Vec<String>> = None;
        for index in &self.servers {
            let scope = &servers[*index].scope;
            let header = scope.find("real_ip_header");
            let nets = scope.all("set_real_ip_from");
            let mut own = vec![];
            match header.map(|header| header.arg(0).to_ascii_lowercase()).as_deref() {
                Some("x-forwarded-for" | "forwarded") => {
                    for net in &nets {
                        match net.arg(0) {
                            text if is_network(text) => own.push(text.to_owned()),
                            _ => block.comments.extend(notes.lost(net, "only networks and addresses are believed")),
                        }
                    }
                }
                Some("proxy_protocol") => {}
                Some(_) | None => {
                    if let Some(asked) = header.or(nets.first().copied()) {
                        let why = "only `Forwarded` and `X-Forwarded-For` of a trusted proxy tell who its client is";
                        block.comments.extend(notes.lost(asked, why));
                    }
                }
            }
            common = Some(match common {
                None => own,
                Some(before) => before.into_iter().filter(|net| own.contains(net)).collect(),
            });
        }
        let mut common = common.unwrap_or_default();
        common.dedup();
        common
    }
}

/// Returns true for `10.0.0.0/8`, `192.0.2.7` and their like in IPv6.
pub(super) fn is_network(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok_and(|net| net.trunc() == net)
}

/// Returns how the servers are reached, in the order in which their routes must stand.
pub(super) fn faces(servers: &[Server<'_>], listeners: &[Listener]) -> Vec<Face> {
    let mut found: Vec<Face> = vec![];
    for (index, server) in servers.iter().enumerate() {
        let on: Vec<usize> = (0..listeners.len()).filter(|at| listeners[*at].servers.contains(&index)).collect();
        let is_all = |at: &usize| listeners[*at].default == index;
        let (all, named): (Vec<usize>, Vec<usize>) = on.iter().copied().partition(is_all);
        // A default server needs its names only where another one's wildcard would take them first.
        let taken = |at: &usize| {
            listeners[*at].servers.iter().any(|other| *other != index && !servers[*other].below.is_empty())
        };
        let has_names = !server.exact.is_empty() || !server.below.is_empty();
        let mut by_name: Vec<usize> = named.clone();
        by_name.extend(all.iter().copied().filter(|at| has_names && taken(at)));
        if !by_name.is_empty() && has_names {
            let split = by_name.iter().any(taken);
            let longest = |hosts: &[String]| hosts.iter().map(String::len).min().unwrap_or(0);
            if split {
                if !server.exact.is_empty() {
                    let hosts = server.exact.clone();
                    found.push(Face { server: index, listeners: by_name.clone(), hosts, rank: (0, 0) });
                }
                for name in &server.below {
                    let rank = (1, usize::MAX - name.len());
                    found.push(Face { server: index, listeners: by_name.clone(), hosts: vec![name.clone()], rank });
                }
            } else {
                let hosts: Vec<String> = server.exact.iter().chain(&server.below).cloned().collect();
                let rank = if server.below.is_empty() { (0, 0) } else { (1, usize::MAX - longest(&server.below)) };
                found.push(Face { server: index, listeners: by_name.clone(), hosts, rank });
            }
        }
        if !all.is_empty() {
            found.push(Face { server: index, listeners: all, hosts: vec![], rank: (2, 0) });
        }
    }
    found.sort_by_key(|face| face.rank);
    found
}
