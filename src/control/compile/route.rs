//! Compiles routes, with metric handles for every listener.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::Compiler;
use super::auth::{self, AuthSources};
use super::listener::address_rules;
use super::upstream::CompiledUpstream;
use crate::config::{
    self, ClientKeyConfig, Config, KeyPath, Lookalikes, OnExpiry, OnUpstreamLost, PlainHttp, Validate,
};
use crate::header::template::Template;
use crate::policy::bucket::AdmissionRate;
use crate::proxy;
use crate::proxy::answer::{Answer, AnswerRoute, RespondBody};
use crate::proxy::body::BodyTimeouts;
use crate::proxy::compress::Compression;
use crate::proxy::credential::RouteAuth;
use crate::proxy::edits::{HeaderEdits, Variables};
use crate::proxy::outcome::{self, Failure};
use crate::proxy::page::{ErrorPages, Page};
use crate::proxy::quota::{ClientBy, ClientLimits};
use crate::proxy::shared_limits::SharedLimits;
use crate::proxy::snapshot::{ListenerHandles, Route, RouteAction};
use crate::route::Rewrite;
use crate::session::{RouteFarewells, RouteSessions};
use crate::upstream::Upstream;
use crate::ws::close::Close;
use crate::ws::rate::TokenRate;
use crate::ws::tunnel::{Exceeding, Farewell, RateLimit, TunnelSettings, Validation};

/// A route of one configuration.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Its section of the file.
    pub written: config::RouteConfig,
    /// What it does; shared with the configuration before if nothing has changed.
    pub action: RouteAction,
    /// The files that it sends.
    pub pages: RoutePages,
    /// What its `auth` needs.
    pub auth: AuthSources,
}

/// The files that a route sends.
#[derive(Clone, Debug, Default)]
pub struct RoutePages {
    /// The body of its answer.
    body: Option<Arc<Page>>,
    /// In place of our own words.
    errors: ErrorPages,
}

impl RoutePages {
    fn all(&self) -> impl Iterator<Item = &Arc<Page>> {
        self.body.iter().chain(self.errors.iter())
    }
}

/// Two are equal if they were read once.
impl PartialEq for RoutePages {
    fn eq(&self, other: &RoutePages) -> bool {
        self.all().map(Arc::as_ptr).eq(other.all().map(Arc::as_ptr))
    }
}

impl CompiledRoute {
    /// Returns true if it says the same as `before`, and sends the same files.
    pub fn is_same(&self, before: &CompiledRoute) -> bool {
        self.written == before.written && self.pages == before.pages && self.auth == before.auth
    }
}

impl Compiler<'_> {
    /// Compiles a route; `None` if its upstream is not there, which `config::check` has reported, or a file is missing.
    pub(super) fn route(
        &mut self,
        file: &Config,
        index: usize,
        written: &config::RouteConfig,
        upstreams: &BTreeMap<String, CompiledUpstream>,
    ) -> Option<CompiledRoute> {
        let pages = self.pages_of(index, written);
        let sources = self.auth_sources(index, written)?;
        let auth =
            written.auth.as_ref().map(|written| Box::new(auth::route_auth(written, &sources, &self.context.passwords)));
        let upstream = match &written.upstream {
            Some(name) => Some(&upstreams.get(name)?.upstream),
            None => None,
        };
        let action = match (self.unchanged(file, written, &pages, &sources, upstream), upstream) {
            (Some(action), _) => action,
            (None, Some(upstream)) => RouteAction::Forward(self.forward(file, written, &pages, auth, upstream)),
            (None, None) => RouteAction::Answer(Arc::new(self.answer(file, written, &pages)?)),
        };
        Some(CompiledRoute { written: written.clone(), action, pages, auth: sources })
    }

    /// Reads the files that a route sends.
    pub(super) fn pages_of(&mut self, index: usize, written: &config::RouteConfig) -> RoutePages {
        let path = KeyPath::root().key("routes").index(index);
        let body = written.respond.as_ref().and_then(|respond| respond.file.as_deref());
        let body = body.and_then(|file| self.page(&path.key("respond").key("file"), file));
        let errors = written.error_pages.iter().filter_map(|(status, file)| {
            Some((*status, self.page(&path.key("error_pages").key(&status.to_string()), file)?))
        });
        RoutePages { body, errors: ErrorPages::new(errors.collect()) }
    }

    /// The same route of the configuration before, if nothing that it consists of has changed.
    fn unchanged(
        &self,
        file: &Config,
        written: &config::RouteConfig,
        pages: &RoutePages,
        auth: &AuthSources,
        upstream: Option<&Arc<Upstream>>,
    ) -> Option<RouteAction> {
        let before = self.previous?.routes.get(&written.name)?;
        let RouteAction::Forward(route) = &before.action else { return None };
        let listeners = route.listeners.iter().map(|handles| &*handles.sessions.listener);
        let is_logged = route.listeners.iter().all(|handles| handles.sessions.log.is_like(&self.log));
        let store = |route: &Route| Some(Arc::as_ptr(route.client_limits.as_ref()?.shared.as_ref()?.store()));
        let is_counted = route.client_limits.is_some();
        let is_same = before.written.is_like(written)
            && store(route) == self.store.as_ref().filter(|_| is_counted).map(Arc::as_ptr)
            && before.pages == *pages
            && before.auth == *auth
            && upstream.is_some_and(|upstream| Arc::ptr_eq(&route.upstream, upstream))
            && listeners.eq(file.listeners.iter().map(|listener| listener.name.as_str()))
            && is_logged;
        is_same.then(|| before.action.clone())
    }

    fn answer(&self, file: &Config, written: &config::RouteConfig, pages: &RoutePages) -> Option<AnswerRoute> {
        let families = &self.context.families;
        let requests =
            |listener: &config::ListenerConfig| families.proxy.route(&listener.name, &written.name, &Failure::LABELS);
        let response_edits = edits(&written.headers.response);
        let answer = match (&written.redirect, &written.respond) {
            (Some(redirect), _) => Answer::Redirect { status: redirect.status.code(), to: redirect.to.0.clone() },
            (None, Some(respond)) => {
                let body = match (&respond.file, &respond.body) {
                    (Some(_), _) => RespondBody::Page(Arc::clone(pages.body.as_ref()?)),
                    (None, Some(text)) => body(&text.0, &response_edits),
                    (None, None) => RespondBody::Empty,
                };
                Answer::Respond { status: respond.status.code(), body }
            }
            (None, None) => return None,
        };
        let mut variables = Variables::of(response_edits.templates.iter().map(|(_, text)| text));
        match &answer {
            Answer::Redirect { to, .. } => variables = variables.with(to.template()),
            Answer::Respond { body: RespondBody::Filled { text, .. }, .. } => variables = variables.with(text),
            Answer::Respond { .. } => {}
        }
        Some(AnswerRoute {
            name: written.name.as_str().into(),
            answer,
            rewrite: rewrite(&written.rewrite),
            addresses: written.addresses.as_deref().map(address_rules),
            response_edits,
            error_pages: pages.errors.clone(),
            variables,
            quota: self.context.quotas.of(&written.name),
            requests: file.listeners.iter().map(requests).collect(),
        })
    }

    fn forward(
        &self,
        file: &Config,
        written: &config::RouteConfig,
        pages: &RoutePages,
        auth: Option<Box<RouteAuth>>,
        upstream: &Arc<Upstream>,
    ) -> Arc<Route> {
        let families = &self.context.families;
        let name: Arc<str> = written.name.as_str().into();
        let handles = |listener: &config::ListenerConfig| ListenerHandles {
            requests: families.proxy.route(&listener.name, &written.name, &Failure::LABELS),
            sessions: Arc::new(RouteSessions {
                number: RouteSessions::next_number(),
                listener: listener.name.as_str().into(),
                route: Arc::clone(&name),
                upstream: Arc::clone(upstream),
                metrics: families.session.route(&listener.name, &written.name, &upstream.name, &outcome::endings()),
                log: self.log.clone(),
                close_mapper: outcome::closing,
                is_authenticated: written.auth.is_some(),
                farewells: RouteFarewells {
                    upstream_lost: match written.on_upstream_lost {
                        OnUpstreamLost::Close(code) => Farewell::Close(Close::new(code.0, "upstream lost")),
                        OnUpstreamLost::Cut => Farewell::Cut,
                    },
                    expired: written.auth.as_ref().map_or_else(OnExpiry::default, |auth| auth.on_expiry()).code(),
                },
            }),
        };
        let limits = &written.limits;
        let (mut request_edits, response_edits) = (edits(&written.headers.request), edits(&written.headers.response));
        let sent = written.headers.send.iter().map(|sent| (sent.name(), Template::of(sent.variable())));
        request_edits.templates.extend(sent);
        // Nobody but the service says these, whether it does or not.
        let of_service = auth.as_ref().and_then(|auth| auth.service.as_ref());
        request_edits.remove.extend(of_service.iter().flat_map(|service| service.settings().headers.iter().cloned()));
        let templates = request_edits.templates.iter().chain(&response_edits.templates).map(|(_, text)| text);
        Arc::new(Route {
            name: Arc::clone(&name),
            upstream: Arc::clone(upstream),
            upstream_name: upstream.name.as_str().into(),
            hop: proxy::hops::of_route(&written.name),
            origins: written.origins.clone(),
            addresses: written.addresses.as_deref().map(address_rules),
            auth,
            rewrite: rewrite(&written.rewrite),
            variables: Variables::of(templates),
            request_edits,
            keeps_lookalikes: written.headers.lookalikes == Lookalikes::Keep,
            response_edits,
            connect_timeout: written.timeouts.connect.duration(),
            handshake_timeout: written.timeouts.handshake.duration(),
            response_timeout: written.timeouts.response.duration(),
            body_timeouts: BodyTimeouts {
                body: written.timeouts.body.duration(),
                event_stream: written.timeouts.event_stream.duration(),
            },
            compression: written.http_compression.settings().map(|settings| Compression {
                codings: settings.encodings.clone(),
                bytes_min: settings.min_bytes.bytes(),
                types: settings.types.clone(),
            }),
            body_bytes_max: limits.body.bytes().unwrap_or(u64::MAX),
            tunnel: Arc::new(TunnelSettings {
                validation: match written.validate {
                    Validate::Off => Validation::Off,
                    Validate::Lenient => Validation::Lenient,
                    Validate::Strict => Validation::Strict,
                },
                idle: written.timeouts.idle.duration(),
                lifetime: written.timeouts.lifetime.duration(),
                ping: written.keepalive.ping.duration(),
                pong: written.keepalive.pong.duration(),
                frame_bytes_max: limits.frame.bytes().unwrap_or(u64::MAX),
                message_bytes_max: limits.message.bytes().unwrap_or(u64::MAX),
                fragments_max: limits.fragments.value().map_or(u32::MAX, |count| count.0),
                control_per_second: limits.control.value().and_then(|rate| u16::try_from(rate.per_second()).ok()),
                rates: [&limits.rate, &limits.server_rate]
                    .map(|rate| rate.as_ref().map(|rate| rate_limit(rate, limits.frame_max()))),
            }),
            quota: self.context.quotas.of(&written.name),
            client_limits: limits.per_client.as_deref().map(|limits| self.client_limits(&written.name, limits)),
            connections_max: limits.connections.map_or(usize::MAX, |limit| limit as usize),
            error_pages: pages.errors.clone(),
            http: written.http == PlainHttp::Proxy,
            listeners: file.listeners.iter().map(handles).collect(),
        })
    }

    fn client_limits(&self, route: &str, written: &config::PerClientConfig) -> Box<ClientLimits> {
        Box::new(ClientLimits {
            sessions: written.sessions,
            handshakes: written
                .handshakes
                .map(|rate| AdmissionRate::new(rate.per_second(), written.burst(), Duration::ZERO)),
            by: match &written.key {
                ClientKeyConfig::Address => ClientBy::Address,
                ClientKeyConfig::Subject => ClientBy::Subject,
                // `config::check` has seen to it that it is a name.
                ClientKeyConfig::Header(name) => name.parse().map_or(ClientBy::Address, ClientBy::Header),
            },
            clients: self.context.quotas.of(route).clients(),
            shared: self.store.as_ref().map(|store| SharedLimits::new(Arc::clone(store), route.into())),
        })
    }
}

/// `config::check` has seen to it that no more is said than one of the three.
fn rewrite(written: &config::RewriteConfig) -> Rewrite {
    match (&written.path, &written.regex, &written.with) {
        (Some(path), ..) => Rewrite::Path(path.clone()),
        (None, Some(regex), Some(with)) => Rewrite::Regex { regex: regex.clone(), with: with.clone() },
        _ => Rewrite::Prefixes { strip: written.strip_prefix.clone(), add: written.add_prefix.clone() },
    }
}

/// Returns the limit of one direction, whose frames are at most `frame_max` long.
fn rate_limit(written: &config::RateConfig, frame_max: Option<u64>) -> RateLimit {
    let messages = written.messages.map(|rate| TokenRate::new(rate.per_second().into(), written.burst()));
    let bytes = written.bytes.map(|rate| TokenRate::new(rate.per_second(), written.burst_bytes(frame_max)));
    let then = match written.then {
        config::Exceeding::Delay => Exceeding::Delay,
        config::Exceeding::Close => Exceeding::Close,
    };
    RateLimit::new(messages, bytes, then)
}

fn edits(written: &config::HeaderEditsConfig) -> HeaderEdits {
    let mut edits = HeaderEdits { remove: written.remove.clone(), set: vec![], templates: vec![] };
    for (name, template) in written.set.iter() {
        match template.plain().map(HeaderValue::from_str) {
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                edits.set.push((name.clone(), value));
            }
            _ => edits.templates.push((name.clone(), template.clone())),
        }
    }
    edits
}

/// The body of this text.
fn body(text: &Template, response_edits: &HeaderEdits) -> RespondBody {
    match text.plain() {
        Some(plain) => RespondBody::Fixed(Bytes::copy_from_slice(plain.as_bytes())),
        None => RespondBody::Filled { text: text.clone(), is_html: may_be_html(response_edits) },
    }
}

/// Returns true if a browser may take an answer with these changes for HTML or XML: its type says so, is known only with a
/// request, or is missing.
fn may_be_html(edits: &HeaderEdits) -> bool {
    let is_filled_in = edits.templates.iter().any(|(name, _)| *name == CONTENT_TYPE);
    match edits.value(&CONTENT_TYPE) {
        Some(value) => {
            let media_type = String::from_utf8_lossy(value).to_ascii_lowercase();
            is_filled_in || ["html", "+xml", "/xml"].iter().any(|part| media_type.contains(part))
        }
        None => is_filled_in || edits.remove.contains(&CONTENT_TYPE),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_may_take_for_markup_is_escaped_as_markup() {
        for (yaml, is_markup) in [
            ("{}", false),
            ("{ set: { Content-Type: text/plain } }", false),
            ("{ set: { Content-Type: application/json } }", false),
            ("{ set: { content-type: 'TEXT/HTML; charset=utf-8' } }", true),
            ("{ set: { Content-Type: image/svg+xml } }", true),
            ("{ set: { Content-Type: application/xml } }", true),
            ("{ set: { Content-Type: 'text/html; v={route.name}' } }", true),
            ("{ set: { Content-Type: '{request.query}' } }", true),
            ("{ remove: [Content-Type] }", true),
        ] {
            let written: config::HeaderEditsConfig = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(may_be_html(&edits(&written)), is_markup, "{yaml}");
        }
    }
}
