//! Names as an operator writes them, looked up in the configuration in force.
//!
//! A name that is mistyped must not pass for one without sessions, so each is either found or reported with the nearest one
//! that exists. An endpoint is found by its URL in any spelling that the configuration allows: `http://Chat.internal/` is
//! `ws://chat.internal:80`.

use std::sync::Arc;

use super::filter::Filter;
use crate::config::{EndpointUrl, did_you_mean};
use crate::control::{ActiveConfig, DrainTarget};
use crate::upstream::endpoint::Endpoint;

/// The most names that a mistyped one is compared with; each comparison takes microseconds.
const COMPARED_MAX: usize = 1000;
/// Up to this number of names, all are listed where none is near.
const LISTED_MAX: usize = 10;

/// A name that the configuration in force does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// A filter with this condition alone. A session whose route, say, was removed by a reload may still match it.
    pub alone: Filter,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// The names of the configuration in force.
#[derive(Debug)]
pub struct KnownNames<'a>(pub &'a ActiveConfig);

impl KnownNames<'_> {
    fn routes(&self) -> Vec<&str> {
        self.0.loaded.file.routes.iter().map(|route| route.name.as_str()).collect()
    }

    fn listeners(&self) -> Vec<&str> {
        self.0.loaded.file.listeners.iter().map(|listener| listener.name.as_str()).collect()
    }

    fn upstreams(&self) -> Vec<&str> {
        self.0.upstreams.keys().map(String::as_str).collect()
    }

    /// Returns the endpoints of an upstream, discovered ones included; those of all upstreams if it is `None`.
    fn endpoints(&self, upstream: Option<&str>) -> Vec<Arc<Endpoint>> {
        let wanted = |name: &str| upstream.is_none_or(|wanted| wanted == name);
        self.0
            .upstreams
            .iter()
            .filter(|(name, _)| wanted(name))
            .flat_map(|(_, upstream)| upstream.endpoints())
            .collect()
    }

    /// Looks up an endpoint. Returns its name as in metrics, or what is wrong. A URL that is not there is returned in that
    /// form as well, since an open session may have it.
    fn endpoint(&self, upstream: Option<&str>, written: &str) -> (String, Option<String>) {
        let endpoints = self.endpoints(upstream);
        let names: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        let spellings = spellings(written);
        if let Some(name) = spellings.iter().find(|name| names.contains(&name.as_str())) {
            return (name.clone(), None);
        }
        let name = spellings.into_iter().next().unwrap_or_else(|| written.to_owned());
        let of = upstream.map(|upstream| format!(" of upstream `{upstream}`")).unwrap_or_default();
        let message = match written.parse::<EndpointUrl>() {
            Err(bad) => format!("there is no endpoint `{written}`{of}: {bad}"),
            Ok(_) => unknown(&format!("endpoint `{written}`{of}"), &name, &names),
        };
        (name, Some(message))
    }

    /// Returns a filter with its endpoint named as in metrics, and the names that are not in the configuration.
    pub fn filter(&self, written: &Filter) -> (Filter, Vec<UnknownName>) {
        let (mut filter, mut missing) = (written.clone(), vec![]);
        let mut look_up = |what: &str, name: &Option<String>, names: Vec<&str>, alone: Filter| {
            if let Some(name) = name.as_deref().filter(|name| !names.contains(name)) {
                missing.push(UnknownName { alone, message: unknown(&format!("{what} `{name}`"), name, &names) });
            }
        };
        let Filter { route, listener, upstream, endpoint, .. } = written;
        let nothing = Filter::default;
        look_up("route", route, self.routes(), Filter { route: route.clone(), ..nothing() });
        look_up("listener", listener, self.listeners(), Filter { listener: listener.clone(), ..nothing() });
        look_up("upstream", upstream, self.upstreams(), Filter { upstream: upstream.clone(), ..nothing() });
        if let Some(endpoint) = endpoint {
            let (name, wrong) = self.endpoint(upstream.as_deref(), endpoint);
            let endpoint = Some(name);
            if let Some(message) = wrong {
                let alone = Filter { endpoint: endpoint.clone(), upstream: upstream.clone(), ..nothing() };
                missing.push(UnknownName { alone, message });
            }
            filter.endpoint = endpoint;
        }
        (filter, missing)
    }

    /// Returns a target with its endpoint named as in metrics, and what is wrong if the configuration does not have it.
    pub fn target(&self, written: DrainTarget) -> (DrainTarget, Option<String>) {
        let look_up = |what: &str, name: &str, names: Vec<&str>| {
            (!names.contains(&name)).then(|| unknown(&format!("{what} `{name}`"), name, &names))
        };
        let wrong = match &written {
            DrainTarget::Listener { name } => look_up("listener", name, self.listeners()),
            DrainTarget::Route { name } => look_up("route", name, self.routes()),
            DrainTarget::Upstream { name } => look_up("upstream", name, self.upstreams()),
            DrainTarget::Endpoint { upstream, endpoint } => {
                let (name, wrong) = self.endpoint(Some(upstream), endpoint);
                let wrong = look_up("upstream", upstream, self.upstreams()).or(wrong);
                return (DrainTarget::Endpoint { upstream: upstream.clone(), endpoint: name }, wrong);
            }
        };
        (written, wrong)
    }
}

/// Returns the names that an endpoint's URL may stand for. A list of discovered endpoints may have only a host and a port.
fn spellings(written: &str) -> Vec<String> {
    let parsed = |text: &str| text.parse::<EndpointUrl>().ok().map(|url| url.to_string());
    match parsed(written) {
        Some(name) => vec![name],
        None if written.contains("://") => vec![],
        None => ["ws", "wss"].iter().filter_map(|scheme| parsed(&format!("{scheme}://{written}"))).collect(),
    }
}

/// Says that something is not there, and which name comes near.
fn unknown(what: &str, name: &str, names: &[&str]) -> String {
    let near = did_you_mean(name, &names[..names.len().min(COMPARED_MAX)]);
    let list = || names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match near {
        Some(near) => format!("there is no {what}; {near}"),
        None if names.is_empty() || names.len() > LISTED_MAX => format!("there is no {what}"),
        None => format!("there is no {what}; there is {}", list()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_known_by_each_spelling_of_its_url() {
        for (written, names) in [
            ("ws://10.0.0.1:9000", &["ws://10.0.0.1:9000"][..]),
            ("http://10.0.0.1:9000/", &["ws://10.0.0.1:9000"]),
            ("HTTPS://Chat.Internal", &["wss://chat.internal:443"]),
            ("http://chat.internal.", &["ws://chat.internal:80"]),
            ("wss://[2001:DB8::1]:9000", &["wss://[2001:db8::1]:9000"]),
            ("unix:/run/chat.sock", &["unix:/run/chat.sock"]),
            ("10.0.0.1:9000", &["ws://10.0.0.1:9000", "wss://10.0.0.1:9000"]),
            ("chat.internal", &["ws://chat.internal:80", "wss://chat.internal:443"]),
            ("ftp://chat.internal", &[]),
            ("ws://chat.internal/ws", &[]),
        ] {
            assert_eq!(spellings(written), names, "{written}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_answered_with_the_nearest_or_with_a_few() {
        let names = ["chat", "games"];
        assert_eq!(unknown("route `caht`", "caht", &names), "there is no route `caht`; did you mean `chat`?");
        assert_eq!(unknown("route `feeds`", "feeds", &names), "there is no route `feeds`; there is `chat`, `games`");
        assert_eq!(unknown("route `feeds`", "feeds", &[]), "there is no route `feeds`");
        let many: Vec<String> = (0..11).map(|n| format!("a-rather-long-name-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(unknown("route `feeds`", "feeds", &many), "there is no route `feeds`");
    }
}
