//! Filters of sessions, and the request parameters that they are parsed from.
//!
//! A parameter that is unknown, repeated or empty is an error: a mistyped filter would close the wrong sessions.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{BadValue, ByteSize, TimeSpan, did_you_mean};
use crate::header::network;
use crate::header::redact::decode;

/// Why a request's parameters cannot be parsed, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// The parameters of a request, from its query and a form in its body. Each is taken once.
#[derive(Clone, Debug, Default)]
pub struct QueryParameters {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl QueryParameters {
    /// Parses and percent-decodes them.
    ///
    /// # Errors
    /// If one is repeated.
    pub fn parse(query: &str, form: &str) -> Result<QueryParameters, Wrong> {
        let mut given: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').chain(form.trim_ascii().split('&')).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name).into_owned(), decode(value).into_owned());
            if given.iter().any(|(other, _)| *other == name) {
                return Err(Wrong(format!("`{name}` is given twice")));
            }
            given.push((name, value));
        }
        Ok(QueryParameters { given, known: Vec::new() })
    }

    /// Takes the text of a parameter, which may be empty.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.given.iter().position(|(given, _)| given == name)?;
        Some(self.given.swap_remove(at).1)
    }

    /// Takes a parameter that must have a value.
    ///
    /// # Errors
    /// If it is empty.
    pub fn word(&mut self, name: &'static str) -> Result<Option<String>, Wrong> {
        match self.text(name) {
            Some(text) if text.is_empty() => Err(Wrong(format!("`{name}` has no value"))),
            text => Ok(text),
        }
    }

    /// Takes a parameter and parses it with `read`; `such_as` describes valid values.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        such_as: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(text) = self.word(name)? else { return Ok(None) };
        match read(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Wrong(format!("`{name}` is not {such_as}"))),
        }
    }

    /// Takes a parameter written as in the configuration.
    ///
    /// # Errors
    /// If it cannot be parsed.
    pub fn value<T: FromStr<Err = BadValue>>(&mut self, name: &'static str) -> Result<Option<T>, Wrong> {
        let Some(text) = self.word(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|bad: BadValue| Wrong(format!("`{name}`: {bad}")))
    }

    /// Checks that all parameters were taken.
    ///
    /// # Errors
    /// If one is unknown.
    pub fn finish(self) -> Result<(), Wrong> {
        let Some((name, _)) = self.given.first() else { return Ok(()) };
        let known = match self.known.as_slice() {
            [] => "there are none here".to_owned(),
            known => {
                let near = did_you_mean(name, known).map(|near| format!("{near} ")).unwrap_or_default();
                format!("{near}known here: {}", known.join(", "))
            }
        };
        Err(Wrong(format!("`{name}` is no parameter; {known}")))
    }
}

/// A filter of sessions: all conditions that are set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The route.
    pub route: Option<String>,
    /// The listener.
    pub listener: Option<String>,
    /// The upstream.
    pub upstream: Option<String>,
    /// The endpoint: a URL as an operator writes it; named as in metrics once it has been looked up, see
    /// [`super::names::KnownNames`].
    pub endpoint: Option<String>,
    /// The client's network.
    pub client: Option<IpNet>,
    /// The subject of the client's credential.
    pub subject: Option<String>,
    /// The least age.
    pub older_than: Option<TimeSpan>,
    /// The age limit, exclusive.
    pub younger_than: Option<TimeSpan>,
    /// The least time without data.
    pub idle_for: Option<TimeSpan>,
    /// The least number of queued bytes.
    pub queued_at_least: Option<ByteSize>,
}

/// What a filter matches of a session.
#[derive(Clone, Copy, Debug)]
pub struct FilterInput<'a> {
    /// Its route.
    pub route: &'a str,
    /// Its listener.
    pub listener: &'a str,
    /// Its upstream.
    pub upstream: &'a str,
    /// Its endpoint.
    pub endpoint: &'a str,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// The subject of the client's credential, if it has one.
    pub subject: Option<&'a str>,
    /// How long it has been open.
    pub age: Duration,
    /// How long no data has passed.
    pub idle: Duration,
    /// Bytes that wait for a peer to take them.
    pub queued: u64,
}

impl Filter {
    /// Takes the parameters of a filter.
    ///
    /// # Errors
    /// If one cannot be parsed.
    pub fn take(from: &mut QueryParameters) -> Result<Filter, Wrong> {
        Ok(Filter {
            route: from.word("route")?,
            listener: from.word("listener")?,
            upstream: from.word("upstream")?,
            endpoint: from.word("endpoint")?,
            client: from.read("client", "an address or a network such as `10.0.0.0/8`", network::parse)?,
            subject: from.word("subject")?,
            older_than: from.value("older_than")?,
            younger_than: from.value("younger_than")?,
            idle_for: from.value("idle_for")?,
            queued_at_least: from.value("queued_at_least")?,
        })
    }

    /// Returns true if it matches every session.
    pub fn is_all(&self) -> bool {
        *self == Filter::default()
    }

    /// Returns true if it needs a report of the session.
    pub fn needs_report(&self) -> bool {
        self.idle_for.is_some() || self.queued_at_least.is_some()
    }

    /// Returns the filter without those conditions: it matches at least the same sessions.
    pub fn static_conditions(&self) -> Filter {
        Filter { idle_for: None, queued_at_least: None, ..self.clone() }
    }

    /// Returns true if a session matches.
    pub fn matches(&self, seen: &FilterInput<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let reached = |wanted: Option<TimeSpan>, is: Duration| wanted.is_none_or(|wanted| is >= wanted.duration());
        same(&self.route, seen.route)
            && same(&self.listener, seen.listener)
            && same(&self.upstream, seen.upstream)
            && same(&self.endpoint, seen.endpoint)
            && self.client.is_none_or(|net| seen.client.is_some_and(|client| net.contains(&client.to_canonical())))
            && (self.subject.is_none() || self.subject.as_deref() == seen.subject)
            && reached(self.older_than, seen.age)
            && self.younger_than.is_none_or(|wanted| seen.age < wanted.duration())
            && reached(self.idle_for, seen.idle)
            && self.queued_at_least.is_none_or(|bytes| seen.queued >= bytes.bytes())
    }
}

/// Writes its parameters, for the log; `all` if it matches every session.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &dyn fmt::Display| value.to_string();
        let parts = [
            ("route", self.route.clone()),
            ("listener", self.listener.clone()),
            ("upstream", self.upstream.clone()),
            ("endpoint", self.endpoint.clone()),
            ("client", self.client.as_ref().map(|it| shown(it))),
            ("subject", self.subject.clone()),
            ("older_than", self.older_than.as_ref().map(|it| shown(it))),
            ("younger_than", self.younger_than.as_ref().map(|it| shown(it))),
            ("idle_for", self.idle_for.as_ref().map(|it| shown(it))),
            ("queued_at_least", self.queued_at_least.as_ref().map(|it| shown(it))),
        ];
        let mut some = false;
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, "{}{name}={value}", if some { " " } else { "" })?;
                some = true;
            }
        }
        if some { Ok(()) } else { f.write_str("all") }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn filter(query: &str) -> Result<Filter, String> {
        let mut parameters = QueryParameters::parse(query, "").map_err(|wrong| wrong.0)?;
        let filter = Filter::take(&mut parameters).map_err(|wrong| wrong.0)?;
        parameters.finish().map_err(|wrong| wrong.0)?;
        Ok(filter)
    }

    #[test]
    fn all_that_is_set_must_hold() {
        let seen = FilterInput {
            route: "chat",
            listener: "public",
            upstream: "app",
            endpoint: "ws://10.0.0.1:9000",
            client: Some("192.0.2.7".parse().unwrap()),
            subject: Some("ann"),
            age: Duration::from_secs(3600),
            idle: Duration::from_secs(60),
            queued: 4096,
        };
        for (query, named) in [
            ("", true),
            ("route=chat", true),
            ("route=cha", false),
            ("route=chat&listener=plain", false),
            ("upstream=app&endpoint=ws://10.0.0.1:9000", true),
            ("endpoint=ws%3A%2F%2F10.0.0.1%3A9000", true),
            ("endpoint=ws://10.0.0.1:9001", false),
            ("client=192.0.2.7", true),
            ("client=192.0.2.0/24", true),
            ("client=::ffff:192.0.2.7", true),
            ("client=::ffff:192.0.2.0/120", true),
            ("client=192.0.3.0/24", false),
            ("client=2001:db8::/32", false),
            ("subject=ann", true),
            ("subject=an", false),
            ("subject=ann&route=cha", false),
            ("older_than=1h", true),
            ("older_than=61m", false),
            ("younger_than=1h", false),
            ("younger_than=61m", true),
            ("idle_for=1m&queued_at_least=4KiB", true),
            ("idle_for=61s", false),
            ("queued_at_least=4097", false),
        ] {
            assert_eq!(filter(query).unwrap().matches(&seen), named, "{query}");
        }
        let nobody = FilterInput { client: None, subject: None, ..seen };
        assert!(!filter("subject=ann").unwrap().matches(&nobody), "who did not say who they are is nobody");
        assert!(!filter("client=0.0.0.0/0").unwrap().matches(&nobody), "who cannot be told is in no network");
    }

    #[test]
    fn what_is_mistyped_is_told_and_names_nobody() {
        let known = "known here: route, listener, upstream, endpoint, client, subject, older_than, younger_than, idle_for, \
                     queued_at_least";
        for (query, problem) in [
            ("rout=chat", format!("`rout` is no parameter; did you mean `route`? {known}")),
            ("route=a&route=b", "`route` is given twice".into()),
            ("route=", "`route` has no value".into()),
            ("route", "`route` has no value".into()),
            ("client=chat", "`client` is not an address or a network such as `10.0.0.0/8`".into()),
            (
                "older_than=60",
                "`older_than`: `60` has no unit (write a duration such as `250ms`, `30s`, `5m`, `1h30m` or `7d`)"
                    .into(),
            ),
        ] {
            assert_eq!(filter(query).unwrap_err(), problem, "{query}");
        }
    }

    #[test]
    fn it_is_told_in_the_log_as_it_was_asked_for() {
        assert_eq!(filter("").unwrap().to_string(), "all");
        assert!(filter("").unwrap().is_all());
        let filter = filter("idle_for=120s&route=chat&client=10.0.0.0%2F8").unwrap();
        assert_eq!(filter.to_string(), "route=chat client=10.0.0.0/8 idle_for=2m");
        assert!(!filter.is_all());
    }
}
