//! The limits of single clients on a route: who a request's client is, and whether it may open one more session.
//!
//! The tables belong to the route by name, as its quota does: after a reload, the sessions that run still count. What a client
//! is (`key`) is part of its hash, so that two configurations never mix theirs up.

use std::net::IpAddr;

use super::outcome::Failure;
use super::quota::{ClientBy, ClientLimits, ClientPermit};
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use crate::base::clock;
use crate::policy::clients::{ClientHash, ClientKey, HeaderDigest};
use crate::session::SessionClient;

impl ClientLimits {
    /// Takes a slot for a handshake, before its token is looked at, unless that is what tells the client.
    ///
    /// # Errors
    /// If the client has none left.
    pub fn judge_early(&self, request: &RoutedRequest, log: &RequestLog) -> Result<(), Failure> {
        // Without a pace, `enter` alone asks who the client is; a store is asked at another place.
        if self.by == ClientBy::Subject || self.handshakes.is_none() || self.shared.is_some() {
            return Ok(());
        }
        self.take_slot(self.key_of(request, log).0.hash(&self.clients.key))
    }

    /// Takes a place for a session, and a slot if that was not done before.
    ///
    /// # Errors
    /// If the client has as many as it may have.
    pub fn enter(&self, request: &mut RoutedRequest, log: &RequestLog) -> Result<Option<ClientPermit>, Failure> {
        if let Some(pass) = request.shared.take() {
            return Ok(pass.permit);
        }
        let (key, header) = self.key_of(request, log);
        let client = key.hash(&self.clients.key);
        if self.by == ClientBy::Subject {
            self.take_slot(client)?;
        }
        let Some(limit) = self.sessions else { return Ok(None) };
        let place = self.clients.sessions.enter(client, limit).ok_or(Failure::ClientSessions)?;
        Ok(Some(ClientPermit { place, header, shared: None }))
    }

    /// Takes a place for a session that comes from another process, whatever the limit.
    pub fn readmit(&self, client: &SessionClient, header: Option<HeaderDigest>) -> Option<ClientPermit> {
        self.sessions?;
        let header = header.filter(|_| matches!(self.by, ClientBy::Header(_)));
        let key = self.key(header, client.subject(), client.address());
        let place = self.clients.sessions.enter_anyway(key.hash(&self.clients.key));
        let shared = self.shared.as_ref().map(|shared| shared.readmit(key));
        Some(ClientPermit { place, header, shared })
    }

    fn take_slot(&self, client: ClientHash) -> Result<(), Failure> {
        let Some(pace) = self.handshakes else { return Ok(()) };
        self.clients.rates.take(client, pace, clock::now()).map_err(|exceeded| Failure::ClientRate(exceeded.after))
    }

    /// What the header says, if it is for this peer to say.
    fn header(&self, request: &RoutedRequest) -> Option<HeaderDigest> {
        let ClientBy::Header(name) = &self.by else { return None };
        let value = request.parts.headers.get(name).filter(|_| request.peer.trusted)?;
        Some(HeaderDigest::of(value.as_bytes()))
    }

    /// Returns who sends a request, and the header that tells it.
    pub(super) fn key_of<'a>(
        &self,
        request: &RoutedRequest,
        log: &'a RequestLog,
    ) -> (ClientKey<'a>, Option<HeaderDigest>) {
        let header = self.header(request);
        let subject = log.identity.as_ref().and_then(|identity| identity.subject.as_deref());
        (self.key(header, subject, log.request_info.client), header)
    }

    fn key<'a>(
        &self,
        header: Option<HeaderDigest>,
        subject: Option<&'a str>,
        address: Option<IpAddr>,
    ) -> ClientKey<'a> {
        match (header, subject.filter(|_| self.by == ClientBy::Subject)) {
            (Some(header), _) => ClientKey::Header(header),
            (None, Some(subject)) => ClientKey::Subject(subject),
            (None, None) => ClientKey::Address(address),
        }
    }
}
