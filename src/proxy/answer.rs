//! A route that answers by itself: with a redirect, or with what the configuration says.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};

use super::body::{self, Body};
use super::edits::{HeaderEdits, Variables};
use super::metrics::RouteRequestMetrics;
use super::page::{ErrorPages, Page};
use super::quota::RouteQuota;
use crate::header::path::PathError;
use crate::header::redirect::RedirectTarget;
use crate::header::template::{Placeholder, Template};
use crate::policy::address::AddressRules;
use crate::route::Rewrite;

/// A route that answers by itself.
#[derive(Debug)]
pub struct AnswerRoute {
    /// As in the configuration.
    pub name: Arc<str>,
    /// What it answers.
    pub answer: Answer,
    /// What becomes of the path that a redirect leads to.
    pub rewrite: Rewrite,
    /// Which addresses get it, unless all do.
    pub addresses: Option<Box<AddressRules>>,
    /// Changes to the answer.
    pub response_edits: HeaderEdits,
    /// Pages in place of our own words.
    pub error_pages: ErrorPages,
    /// The variables in the answer.
    pub variables: Variables,
    /// Whether it takes requests.
    pub quota: Arc<RouteQuota>,
    /// Handles by listener.
    pub requests: Vec<RouteRequestMetrics>,
}

/// What a route answers.
#[derive(Debug)]
pub enum Answer {
    /// Somewhere else.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// Where.
        to: RedirectTarget,
    },
    /// This.
    Respond {
        /// Any but a redirect.
        status: StatusCode,
        /// What it says.
        body: RespondBody,
    },
}

/// The body of an answer.
#[derive(Debug)]
pub enum RespondBody {
    /// None.
    Empty,
    /// Always this text.
    Fixed(Bytes),
    /// This text, filled in; `is_html`: as HTML.
    Filled {
        /// The text.
        text: Template,
        /// Whether `&` and `'` must be escaped, too.
        is_html: bool,
    },
    /// A file.
    Page(Arc<Page>),
}

impl AnswerRoute {
    /// The answer to a request, about which `write` writes what a variable says.
    ///
    /// # Errors
    /// If the place that a redirect leads to has no name of bearable length.
    pub fn answer(&self, write: impl Fn(Placeholder<'_>, &mut String)) -> Result<Response<Body>, PathError> {
        let mut response = match &self.answer {
            Answer::Redirect { status, to } => {
                let location = to.location(|variable, out| write(Placeholder::Variable(variable), out));
                let location = location.and_then(|location| HeaderValue::try_from(location).ok());
                let mut response = Response::new(body::empty());
                *response.status_mut() = *status;
                response.headers_mut().insert(LOCATION, location.ok_or(PathError::Rewritten)?);
                response
            }
            Answer::Respond { status, body } => {
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                let (bytes, media_type) = match body {
                    RespondBody::Empty => (Bytes::new(), None),
                    RespondBody::Fixed(text) => (text.clone(), Some(plain)),
                    RespondBody::Filled { text, is_html: false } => (text.fill(&write).into(), Some(plain)),
                    RespondBody::Filled { text, is_html: true } => (html(text, &write).into(), Some(plain)),
                    RespondBody::Page(page) => (page.bytes.clone(), Some(page.media_type.clone())),
                };
                let mut response = Response::new(if bytes.is_empty() { body::empty() } else { body::full(bytes) });
                *response.status_mut() = *status;
                response.headers_mut().extend(media_type.map(|media_type| (CONTENT_TYPE, media_type)));
                response
            }
        };
        match self.response_edits.filled(&write) {
            Some(edits) => edits.apply(response.headers_mut()),
            None => self.response_edits.apply(response.headers_mut()),
        }
        Ok(response)
    }
}

/// `text` filled in so that no value is markup: [`Template::fill`] has escaped the rest.
fn html(text: &Template, value: impl Fn(Placeholder<'_>, &mut String)) -> String {
    text.fill(|placeholder, out| {
        let mut raw = String::new();
        value(placeholder, &mut raw);
        out.push_str(&raw.replace('&', "&amp;").replace('\'', "&#39;"));
    })
}
