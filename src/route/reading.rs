//! How servers read `//`, `;x` and `%2F` in a path, and how a route's rules hold for each reading.
//!
//! `/admin%2Fws`, `//admin/ws` and `/admin;x/ws` are `/admin/ws` to some servers and another path to others. If the
//! proxy chooses a route by one reading and the server uses another, the route's rules are bypassed. So the route is
//! chosen by the reading with the most segments. If another reading would choose another route, the server gets the
//! matched path, which can be read in one way only, instead of the original. If all readings choose the same route, the
//! server gets the original: an id with `%2F` in it stays one.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the path of a request is read when it is compared with `match.path`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Several slashes in a row: `merge` takes them for one, `keep` for empty segments between them. Default: `merge`, as
    /// nginx does, since most servers do.
    pub slashes: Slashes,

    /// `%2F`: `border` takes it for a slash, `refuse` answers 400, `keep` takes it for a character of a name. Default:
    /// `border`, since servers that decode first do; an id with `%2F` below a `prefix` goes on as it came.
    pub encoded_slash: EncodedSlash,

    /// Parameters of a segment (`;jsessionid=1`): `ignore` compares without them, `keep` takes them for a part of the name.
    /// Default: `ignore`, as Tomcat, Jetty and Spring do.
    pub parameters: PathParameters,
}

/// What several slashes in a row are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Slashes {
    /// One.
    #[default]
    Merge,
    /// As many as there are.
    Keep,
}

/// What `%2F` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlash {
    /// The border of a segment.
    #[default]
    Border,
    /// An error.
    Refuse,
    /// A character of a segment.
    Keep,
}

/// What `;x` at the end of a segment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathParameters {
    /// Nothing to the name.
    #[default]
    Ignore,
    /// A part of the name.
    Keep,
}

impl Paths {
    /// Returns the path, in normal form, that `path`, in normal form, is compared as.
    pub fn read(self, path: &str) -> Cow<'_, str> {
        match is_plain(path) {
            true => Cow::Borrowed(path),
            false => Cow::Owned(PathReading::MOST_BORDERS.within(self).of(path)),
        }
    }
}

/// Returns true if all readings of a path in normal form are the same.
pub(super) fn is_plain(path: &str) -> bool {
    let mut last = 0;
    !path.bytes().any(|byte| {
        let slashes = byte == b'/' && last == b'/';
        last = byte;
        slashes || byte == b';' || byte == b'%'
    }) || !(path.contains("//") || path.contains(';') || path.contains("%2F") || path.contains("%3B"))
}

/// One way to read a path: a set of the transformations below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathReading(u8);

const MERGE: u8 = 1;
const DECODE: u8 = 2;
const CUT: u8 = 4;
/// Cuts parameters at `%3B`, too.
const CUT_ENCODED: u8 = 8;
/// Decodes before parameters are cut.
const DECODE_FIRST: u8 = 16;
const SETS: u8 = 32;

impl PathReading {
    /// The reading that chooses a route: parameters cut, `%2F` decoded, slashes merged, in that order.
    pub(super) const MOST_BORDERS: PathReading = PathReading(MERGE | DECODE | CUT | CUT_ENCODED);

    /// Returns every reading that some server uses.
    fn all() -> impl Iterator<Item = PathReading> {
        (0..SETS).map(PathReading).filter(|reading| *reading == reading.tidy())
    }

    /// Removes flags that have no effect without another one.
    fn tidy(self) -> PathReading {
        let mut set = self.0;
        if set & CUT == 0 {
            set &= !CUT_ENCODED;
        }
        if set & (CUT | DECODE) != CUT | DECODE {
            set &= !DECODE_FIRST;
        }
        PathReading(set)
    }

    /// Removes transformations that this route's `paths` rule out.
    pub(super) fn within(self, paths: Paths) -> PathReading {
        let mut set = self.0;
        if paths.slashes == Slashes::Keep {
            set &= !MERGE;
        }
        if paths.encoded_slash == EncodedSlash::Keep {
            set &= !DECODE;
        }
        if paths.parameters == PathParameters::Keep {
            set &= !CUT;
        }
        PathReading(set).tidy()
    }

    fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }

    /// Applies the reading to a path in normal form.
    fn of(self, path: &str) -> String {
        let mut out = path.to_owned();
        if self.has(DECODE_FIRST) {
            out = out.replace("%2F", "/");
        }
        if self.has(CUT) {
            let name = |segment| {
                let end = |mark: &str| str::find(segment, mark);
                let encoded = end("%3B").filter(|_| self.has(CUT_ENCODED));
                &segment[..end(";").into_iter().chain(encoded).min().unwrap_or(segment.len())]
            };
            out = out.split('/').map(name).collect::<Vec<&str>>().join("/");
        }
        if self.has(DECODE) {
            out = out.replace("%2F", "/");
        }
        if self.has(MERGE) {
            let mut last = ' ';
            out.retain(|char| std::mem::replace(&mut last, char) != '/' || char != '/');
        }
        out
    }
}

/// A path in all its readings.
#[derive(Debug)]
pub(super) struct Readings {
    forms: Vec<String>,
}

impl Readings {
    /// Computes all readings of a path in normal form.
    pub(super) fn of(path: &str) -> Readings {
        Readings { forms: (0..SETS).map(|set| PathReading(set).tidy().of(path)).collect() }
    }

    /// Returns the path in one reading.
    pub(super) fn get(&self, reading: PathReading) -> &str {
        &self.forms[usize::from(reading.0)]
    }

    /// Returns the readings that differ for some route, the one with the most borders first.
    pub(super) fn distinct(&self) -> Vec<PathReading> {
        // For a route that keeps something, readings may coincide that differ for another route.
        const KINDS: [Paths; 8] = kinds();
        let mut seen: Vec<(PathReading, [&str; 8])> = vec![];
        for reading in std::iter::once(PathReading::MOST_BORDERS).chain(PathReading::all()) {
            let forms = KINDS.map(|paths| self.get(reading.within(paths)));
            if !seen.iter().any(|(_, others)| *others == forms) {
                seen.push((reading, forms));
            }
        }
        seen.into_iter().map(|(reading, _)| reading).collect()
    }
}

/// Returns every way in which a route may read paths.
const fn kinds() -> [Paths; 8] {
    let mut kinds =
        [Paths { slashes: Slashes::Merge, encoded_slash: EncodedSlash::Border, parameters: PathParameters::Ignore }; 8];
    let mut index = 0;
    while index < 8 {
        if index & 1 != 0 {
            kinds[index].slashes = Slashes::Keep;
        }
        if index & 2 != 0 {
            kinds[index].encoded_slash = EncodedSlash::Keep;
        }
        if index & 4 != 0 {
            kinds[index].parameters = PathParameters::Keep;
        }
        index += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::path::normalise;
    use proptest::prelude::*;

    const KEEP_ALL: Paths =
        Paths { slashes: Slashes::Keep, encoded_slash: EncodedSlash::Keep, parameters: PathParameters::Keep };

    #[test]
    fn borders_are_found_in_every_spelling() {
        for path in [
            "/admin/ws",
            "/admin%2Fws",
            "//admin/ws",
            "/admin//ws",
            "/%2Fadmin/ws",
            "/admin;x/ws",
            "/admin;x=1;y/ws;z",
            "/admin%3Bx/ws",
            "/;x/admin/ws",
            "/admin/;/ws",
            "/admin;%2F/ws",
            "///admin%2F%2Fws",
        ] {
            assert_eq!(Paths::default().read(path), "/admin/ws", "{path}");
            assert_eq!(KEEP_ALL.read(path), path);
        }
        assert_eq!(Paths::default().read("/a/%2F"), "/a/");
        assert_eq!(Paths::default().read("//"), "/");
        assert_eq!(Paths::default().read("*"), "*");
        let paths = Paths { encoded_slash: EncodedSlash::Keep, ..Paths::default() };
        assert_eq!(paths.read("//a%2Fb;x/c"), "/a%2Fb/c");
        let paths = Paths { parameters: PathParameters::Keep, ..Paths::default() };
        assert_eq!(paths.read("//a%2Fb;x/c"), "/a/b;x/c");
        let paths = Paths { slashes: Slashes::Keep, ..Paths::default() };
        assert_eq!(paths.read("//a%2Fb;x/c"), "//a/b/c");
    }

    #[test]
    fn what_is_cut_depends_on_what_is_decoded_first() {
        let readings = Readings::of("/a;%2Fb/c");
        let forms: Vec<&str> = readings.distinct().into_iter().map(|reading| readings.get(reading)).collect();
        assert_eq!(forms[0], "/a/c");
        assert!(forms.contains(&"/a/b/c") && forms.contains(&"/a;%2Fb/c"), "{forms:?}");
    }

    #[test]
    fn a_path_that_all_read_alike_has_one_reading() {
        for path in ["/", "/a/b", "/a%20b", "/%E2%82%AC", "/a:b@c"] {
            assert!(is_plain(path), "{path}");
            assert!(matches!(Paths::default().read(path), Cow::Borrowed(_)));
            assert_eq!(Readings::of(path).distinct(), [PathReading::MOST_BORDERS]);
        }
        for path in ["//", "/a;", "/%2F", "/%3B"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_with_most_borders_is_a_path_that_all_read_alike(
            pieces in proptest::collection::vec(
                prop::sample::select(vec!["/", "%2F", ";", "%3B", "a", ".", "%20", "..", "%2e"]), 0..12,
            ),
        ) {
            let raw = format!("/{}", pieces.concat());
            let Ok(normal) = normalise(&raw) else { return Ok(()) };
            let read = Paths::default().read(&normal).into_owned();
            prop_assert!(is_plain(&read), "{} -> {}", normal, read);
            prop_assert!(normalise(&read).is_ok_and(|again| again == read));
            // No server finds a dot segment in what another has read.
            let readings = Readings::of(&normal);
            for reading in readings.distinct() {
                prop_assert!(!readings.get(reading).split('/').any(|segment| matches!(segment, "." | "..")), "{}", normal);
            }
        }
    }
}
