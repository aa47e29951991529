//! A file that is sent as an answer: its bytes, as they were read, and its type.

use std::path::Path;

use bytes::Bytes;
use http::HeaderValue;

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
}
