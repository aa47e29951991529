//! Compiles routes, with metric handles for every listener.

use std::sync::Arc;

use super::Compiler;
use crate::config::{self, Config, Lookalikes, OnUpstreamLost, PlainHttp, Validate};
use crate::proxy;
use crate::proxy::body::BodyTimeouts;
use crate::proxy::outcome::{self, Failure};
use crate::proxy::snapshot::{HeaderEdits, ListenerHandles, Route};
use crate::route::Rewrite;
use crate::session::RouteSessions;
use crate::upstream::Upstream;
use crate::ws::close::Close;
use crate::ws::tunnel::{Farewell, TunnelSettings, Validation};

/// A route of one configuration.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Its section of the file.
    pub written: config::RouteConfig,
    /// The compiled route; shared with the configuration before if nothing has changed.
    pub route: Arc<Route>,
}

impl Compiler<'_> {
    pub(super) fn route(
        &mut self,
        file: &Config,
        written: &config::RouteConfig,
        upstream: &Arc<Upstream>,
    ) -> Arc<Route> {
        if let Some(before) = self.previous.and_then(|previous| previous.routes.get(&written.name)) {
            let route = &before.route;
            let listeners = route.listeners.iter().map(|handles| &*handles.sessions.listener);
            let is_logged = route.listeners.iter().all(|handles| handles.sessions.log.is_like(&self.log));
            if before.written.is_like(written)
                && Arc::ptr_eq(&route.upstream, upstream)
                && listeners.eq(file.listeners.iter().map(|listener| listener.name.as_str()))
                && is_logged
            {
                return Arc::clone(route);
            }
        }
        let families = &self.context.families;
        let (name, upstream_name): (Arc<str>, Arc<str>) =
            (written.name.as_str().into(), written.upstream.as_str().into());
        let handles = |listener: &config::ListenerConfig| ListenerHandles {
            requests: families.proxy.route(&listener.name, &written.name, &Failure::LABELS),
            sessions: Arc::new(RouteSessions {
                number: RouteSessions::next_number(),
                listener: listener.name.as_str().into(),
                route: Arc::clone(&name),
                upstream: Arc::clone(upstream),
                metrics: families.session.route(&listener.name, &written.name, &written.upstream, &outcome::endings()),
                log: self.log.clone(),
                close_mapper: outcome::closing,
                upstream_lost: match written.on_upstream_lost {
                    OnUpstreamLost::Close(code) => Farewell::Close(Close::new(code.0, "upstream lost")),
                    OnUpstreamLost::Cut => Farewell::Cut,
                },
            }),
        };
        let edits = |written: &config::HeaderEditsConfig| HeaderEdits {
            remove: written.remove.clone(),
            set: written.set.iter().cloned().collect(),
        };
        let limits = &written.limits;
        Arc::new(Route {
            name: Arc::clone(&name),
            upstream: Arc::clone(upstream),
            upstream_name: Arc::clone(&upstream_name),
            hop: proxy::hops::of_route(&written.name),
            origins: written.origins.clone(),
            rewrite: rewrite(&written.rewrite),
            request_edits: edits(&written.headers.request),
            keeps_lookalikes: written.headers.lookalikes == Lookalikes::Keep,
            response_edits: edits(&written.headers.response),
            connect_timeout: written.timeouts.connect.duration(),
            handshake_timeout: written.timeouts.handshake.duration(),
            response_timeout: written.timeouts.response.duration(),
            body_timeouts: BodyTimeouts {
                body: written.timeouts.body.duration(),
                event_stream: written.timeouts.event_stream.duration(),
            },
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
            }),
            quota: self.context.quotas.of(&written.name),
            connections_max: limits.connections.map_or(usize::MAX, |limit| limit as usize),
            http: written.http == PlainHttp::Proxy,
            listeners: file.listeners.iter().map(handles).collect(),
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
