//! Files that are sent as answers: their bytes, as they were read, their type, and for which errors they stand.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, HeaderMap, HeaderValue};

use crate::config::ErrorStatus;
use crate::header::weight::weight;

/// The largest file that is sent.
pub const PAGE_BYTES_MAX: u64 = 1 << 20;

/// A file that is sent as an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What is sent.
    pub bytes: Bytes,
    /// What it is.
    pub media_type: HeaderValue,
}

impl Page {
    /// The page in the file at `path`, of which these are the bytes.
    pub fn new(path: &Path, bytes: Vec<u8>) -> Page {
        Page { bytes: bytes.into(), media_type: HeaderValue::from_static(media_type(path)) }
    }
}

/// The pages of a route in place of our own words, by status.
#[derive(Clone, Debug, Default)]
pub struct ErrorPages(Vec<(ErrorStatus, Arc<Page>)>);

impl ErrorPages {
    /// These pages.
    pub fn new(mut pages: Vec<(ErrorStatus, Arc<Page>)>) -> ErrorPages {
        // A status alone comes before its class.
        pages.sort_by_key(|(status, _)| *status);
        ErrorPages(pages)
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The page for `status`, for a client that takes HTML or does not.
    pub fn of(&self, status: StatusCode, takes_html: bool) -> Option<&Page> {
        let page = self.0.iter().find(|(of, _)| of.has(status)).map(|(_, page)| &**page);
        page.filter(|page| takes_html || !page.media_type.as_bytes().starts_with(b"text/html"))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Page>> {
        self.0.iter().map(|(_, page)| page)
    }
}

/// Returns true if a request with these fields asks for HTML by its name, as browsers do for a page and nothing else.
pub fn takes_html(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(ACCEPT).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    ranges.any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"text/html"));
        // RFC 9110 §12.4.2: a weight of 0 is a refusal.
        is_html && !parts.any(|part| weight(part) == Some(0))
    })
}

/// The type of a file, by its ending.
fn media_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_page_or_that_of_its_class() {
        let page = |name: &str| Arc::new(Page::new(Path::new(name), name.into()));
        let pages = ErrorPages::new(vec![
            (ErrorStatus::Class(5), page("5xx.html")),
            (ErrorStatus::Exact(502), page("502.html")),
            (ErrorStatus::Exact(403), page("403.json")),
        ]);
        let of = |status: StatusCode, takes_html| pages.of(status, takes_html).map(|page| page.bytes.clone());
        assert_eq!(of(StatusCode::BAD_GATEWAY, true), Some("502.html".into()));
        assert_eq!(of(StatusCode::GATEWAY_TIMEOUT, true), Some("5xx.html".into()));
        assert_eq!(of(StatusCode::GATEWAY_TIMEOUT, false), None);
        assert_eq!(of(StatusCode::FORBIDDEN, false), Some("403.json".into()));
        assert_eq!(of(StatusCode::BAD_REQUEST, true), None);
    }

    #[test]
    fn the_ending_tells_the_type() {
        for (name, media_type) in [
            ("pages/down.html", "text/html; charset=utf-8"),
            ("A.HTM", "text/html; charset=utf-8"),
            ("it.json", "application/json"),
            ("it", "application/octet-stream"),
            ("it.tar.gz", "application/octet-stream"),
        ] {
            assert_eq!(Page::new(Path::new(name), vec![]).media_type, media_type, "{name}");
        }
    }

    #[test]
    fn html_is_taken_by_its_name_and_not_where_its_weight_is_zero() {
        for (accept, takes) in [
            ("text/html", true),
            ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", true),
            ("application/json, TEXT/HTML;q=0.1", true),
            ("*/*", false),
            ("text/html;q=0", false),
            ("text/html; q=0.000", false),
            ("xtext/html", false),
            ("text/htmlx", false),
            ("\"text/html\"", false),
        ] {
            let headers: HeaderMap = [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
            assert_eq!(takes_html(&headers), takes, "{accept}");
        }
    }
}
