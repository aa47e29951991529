//! Who sends a request, on a route that asks: the token is found, judged and taken out, before anything that costs a server.
//!
//! It comes after the rules of the opening handshake and the origin, and before quotas, admission and endpoints. It waits for
//! nothing; `Proxy::handle` asks again when keys were fetched. What the server gets of the token is for the route to say.

use std::time::Duration;

use http::Uri;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::PathAndQuery;

use super::credential::{Credential, Identity, JwtAuth};
use super::outcome::Failure;
use super::request::RoutedRequest;
use super::request_log::RequestLog;
use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::policy::jwt::place::{self, FoundToken, TokenSearch};
use crate::policy::jwt::{TokenPlace, VerifiedToken};
use crate::session::{Quoted, Texts};

/// The present, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// The time since the epoch, of which tokens speak.
    pub unix: Duration,
    /// The time that does not jump, by which sessions end.
    pub monotonic: MonotonicTime,
}

impl Present {
    /// Reads both clocks.
    pub fn now() -> Present {
        Present { unix: clock::since_epoch(), monotonic: clock::now() }
    }

    /// Returns the moment of a time since the epoch; now if that is over.
    pub fn at(&self, unix: Duration) -> MonotonicTime {
        self.monotonic + unix.saturating_sub(self.unix)
    }
}

impl JwtAuth {
    /// Hides tokens from the log, whatever becomes of the request.
    pub fn hide(&self, log: &mut RequestLog) {
        let quoted = log.request_info.texts.quoted();
        let Some(query) = quoted.query else { return };
        let hidden = self.from.iter().fold(None::<String>, |hidden, place| match place {
            TokenPlace::Query(name) => place::hidden_parameter(hidden.as_deref().unwrap_or(query), name).or(hidden),
            _ => hidden,
        });
        if let Some(hidden) = hidden {
            log.request_info.texts = Texts::new(&Quoted { query: Some(&hidden), ..quoted });
        }
    }

    /// Judges the token of a request, and takes it out.
    ///
    /// # Errors
    /// Why it does not let in.
    pub fn authenticate(&self, request: &mut RoutedRequest, now: Present, log: &mut RequestLog) -> Result<(), Failure> {
        let search = TokenSearch {
            headers: &request.parts.headers,
            query: request.parts.uri.query(),
            subprotocols: request.offer.as_ref().map_or(&[], |offer| offer.subprotocols.as_slice()),
        };
        let found = search.find(&self.from)?;
        let VerifiedToken { claims, subject, expires } =
            self.rules.judge(&found.token, &self.keys.current(), now.unix)?;
        let expires = self.ends_sessions.then(|| now.at(expires));
        log.identity = Some(Box::new(Identity { subject, expires, recheck: None }));
        let own_subprotocol = self.take_out(request, &found);
        request.credential = Some(Box::new(Credential { claims, own_subprotocol }));
        Ok(())
    }

    /// Takes tokens out of all places, but the one that was judged if it goes on. Returns the subprotocol for a client that
    /// offered its token only.
    fn take_out(&self, request: &mut RoutedRequest, found: &FoundToken) -> Option<HeaderValue> {
        let headers = &mut request.parts.headers;
        for (index, place) in self.from.iter().enumerate() {
            if self.forward && index == found.place {
                continue;
            }
            place::take_out(place, headers);
            if let TokenPlace::Query(name) = place
                && let Some(rest) = request.parts.uri.query().and_then(|query| place::without_parameter(query, name))
            {
                set_query(&mut request.parts.uri, &rest);
            }
        }
        let is_offered = matches!(self.from[found.place], TokenPlace::Subprotocol(_));
        if self.forward
            && is_offered
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", found.token))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let offer = request.offer.as_mut()?;
        let clean = place::clean_offer(&self.from, &offer.subprotocols)?;
        place::set_offer(headers, &clean.subprotocols);
        offer.subprotocols = clean.subprotocols;
        clean.answer.and_then(|answer| HeaderValue::try_from(answer).ok())
    }
}

/// Replaces the query of a target.
fn set_query(uri: &mut Uri, query: &str) {
    let target = match query {
        "" => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    let mut parts = std::mem::take(uri).into_parts();
    // The parts of a target make one.
    if let Ok(target) = PathAndQuery::try_from(target) {
        parts.path_and_query = Some(target);
    }
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_replaced_and_the_rest_of_a_target_stays() {
        for (target, query, result) in [
            ("/a%20b/?x=1&t=2", "x=1", "/a%20b/?x=1"),
            ("/?t=2", "", "/"),
            ("http://a.example:81/b?t=2", "c", "http://a.example:81/b?c"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            set_query(&mut uri, query);
            assert_eq!(uri.to_string(), result);
        }
    }

    #[test]
    fn what_is_over_is_now() {
        let now = Present { unix: Duration::from_secs(100), monotonic: MonotonicTime::from_micros(5) };
        assert_eq!(now.at(Duration::from_secs(99)), now.monotonic);
        assert_eq!(now.at(Duration::from_secs(103)), now.monotonic + Duration::from_secs(3));
    }
}
