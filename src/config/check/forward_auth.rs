//! Checks the service that is asked who may come in: headers that nobody could pass on, and times that make no sense.

use std::time::Duration;

use super::Checker;
use super::routes::EditDirection;
use crate::config::read::key::KeyPath;
use crate::config::schema::forward_auth::ForwardAuthConfig;
use crate::config::schema::route::RouteConfig;
use crate::config::value::http::FieldName;

/// The longest time that the service may take: a client that opens a WebSocket gives up long before.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How often the service may be asked about an open session.
const RECHECK: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How long an answer may be remembered.
const CACHE_TIME: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

impl Checker<'_, '_> {
    pub(super) fn forward_auth(&mut self, path: &KeyPath, route: &RouteConfig, forward: &ForwardAuthConfig) {
        let danger = "an answer that comes without TLS can be replaced by whoever is in between, who then lets in whom they like";
        self.asked_url(path, &forward.url, forward.tls.as_deref(), danger);
        forward.tls.iter().for_each(|tls| self.client_tls(&path.key("tls"), tls));
        self.not_zero(&path.key("timeout"), forward.timeout, "the service has no time to answer");
        if forward.timeout.duration() > TIMEOUT_MAX {
            self.error(&path.key("timeout"), "no client waits for longer than a minute").help("write `5s`");
        }
        if let Some(recheck) = forward.recheck
            && !RECHECK.contains(&recheck.duration())
        {
            self.error(&path.key("recheck"), "an open session is asked about every 1s to 1d").help("write `60s`");
        }
        self.once_each(&path.key("headers"), &forward.headers);
        for (index, FieldName(name)) in forward.headers.iter().enumerate() {
            let at = path.key("headers").index(index);
            let shown = self.written.show(&at, name);
            self.own_header(&at, name.as_str(), shown.clone(), EditDirection::Request, true);
            let request = &route.headers.request;
            let is_set = request.set.iter().any(|(set, _)| set == name);
            if is_set || route.headers.send.iter().any(|sent| sent.name() == name) {
                let message = format!("`{shown}` is also set by `headers` of the route");
                self.error(&at, message).help("keep one of the two");
            }
        }
        if let Some(names) = &forward.request_headers {
            self.once_each(&path.key("request_headers"), names);
        }
        if let Some(cache) = &forward.cache {
            let at = path.key("cache");
            if !CACHE_TIME.contains(&cache.time.duration()) {
                self.error(&at.key("time"), "an answer is remembered for 1s to 1h").help("write a time such as `10s`");
            }
            if cache.by.is_empty() {
                let message = "the list is empty, so that whoever comes from one address is one user";
                self.error(&at.key("by"), message)
                    .help("write the headers that tell users apart: `[Cookie, Authorization]`");
            }
            self.once_each(&at.key("by"), &cache.by);
            for (index, FieldName(name)) in cache.by.iter().enumerate() {
                if forward.request_headers.as_ref().is_some_and(|sent| !sent.iter().any(|sent| sent.0 == *name)) {
                    let involved = self.written.original(&path.key("request_headers"));
                    let shown = self.written.show(&at.key("by").index(index), name);
                    self.error(&at.key("by").index(index), format!("the service does not get `{shown}`"))
                        .help("add it to `request_headers`, or remove it here")
                        .involving(involved);
                }
            }
        }
    }

    fn once_each(&mut self, path: &KeyPath, names: &[FieldName]) {
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                self.error(&path.index(index), "this is here for the second time").help("keep one of the two");
            }
        }
    }
}
