//! Compression of plain HTTP answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::ByteSize;
use crate::header::content_coding::ContentCoding;
use crate::header::media_type::MediaTypePattern;

/// How plain HTTP answers are compressed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCompression {
    /// The codings to use: `zstd`, `br`, `gzip`. The client chooses by its Accept-Encoding; of those it likes equally,
    /// the first is taken. Default: `[zstd, br, gzip]`, the least work for the size first.
    pub encodings: Vec<ContentCoding>,

    /// Answers of a known length below this are left as they are. Default: 1KiB, about one packet, which compression
    /// does not make fewer.
    pub min_bytes: ByteSize,

    /// The media types to compress, with or without one `*`. Event streams never are. Default: text, JSON, JavaScript,
    /// XML, SVG, WebAssembly and two kinds of fonts; images, video and archives are compressed already.
    pub types: Vec<MediaTypePattern>,
}

/// What is text, and the few binary formats that are not compressed by themselves.
const TYPES: [&str; 10] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/wasm",
    "image/svg+xml",
    "font/ttf",
    "font/otf",
];

impl Default for HttpCompression {
    fn default() -> HttpCompression {
        HttpCompression {
            encodings: vec![ContentCoding::Zstd, ContentCoding::Br, ContentCoding::Gzip],
            min_bytes: ByteSize::from_kib(1),
            types: TYPES.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}
