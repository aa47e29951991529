//! Paths: one spelling for each, and one route for all of their readings.

use http::HeaderMap;
use wsluice::header::path::{as_it_came, is_same, normalise};
use wsluice::route::pattern::PathPattern;
use wsluice::route::reading::{EncodedSlash, PathParameters, Paths, Slashes};
use wsluice::route::table::{Match, RequestView, RouteTable};

use super::{Target, choices};

pub const TARGET: Target = Target {
    name: "path",
    run,
    seeds: &[
        b"\x00/admin/ws",
        b"\x00/admin%2Fws",
        b"\x01//admin;x/ws",
        b"\x02/a/%2e%2E/admin",
        b"\x03/admin/..;x=y/ws",
        b"\x04/%c3%a9/b;v=1//c",
        b"\x05/..%2fadmin",
        b"\x06/a%3Bb/..%20/",
        b"\x07*",
        b"\x08/public/a%2Fb?",
        b"\x00/public/%EF%BC%8E%EF%BC%8E/x",
    ],
    tokens: &[
        b"/",
        b"//",
        b"..",
        b".",
        b"%2e",
        b"%2E",
        b"%2F",
        b"%2f",
        b"%5c",
        b"\\",
        b";",
        b";x",
        b"%3B",
        b"%25",
        b"%252f",
        b"%00",
        b"%0a",
        b"%20",
        b"%c0%ae",
        b"%c0%af",
        b"%e0%80%ae",
        b"%ef%bc%8e",
        b"%e2%80%a5",
        b"%ef%bc%8f",
        b"%e2%80%8b",
        b"%",
        b"%4",
        b"%zz",
        b"%41",
        b"admin",
        b"Admin",
        b"%61dmin",
        b"public",
        b"ws",
        b"?",
        b"#",
        b" ",
        b"\xc3\xa9",
        b"~",
        b"%7E",
        b"/../",
        b"/./",
        b"%3F",
        b"%23",
        b"\"",
        b"|",
    ],
};

fn run(data: &[u8]) {
    let Some(([kind], text)) = choices(data) else { return };
    let Ok(raw) = std::str::from_utf8(text) else { return };
    let Ok(normal) = normalise(raw) else { return };
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal), "normal form is normal");
    if normal == "*" {
        assert_eq!(raw, "*");
        return;
    }
    assert!(normal.starts_with('/') && normal.is_ascii());
    assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{normal:?}");
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#\"<>^`{|}".contains(&byte)), "{normal:?}");
    is_not_above(&normal);
    // Whoever decodes once finds what stands in the raw path, where no dot segment was taken out.
    if let Some(sent) = as_it_came(raw, &normal) {
        assert!(is_same(&sent, &normal));
        assert_eq!(decoded(&sent), decoded(&normal));
        assert!(sent.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#\"<>^`{|}".contains(&byte)), "{sent:?}");
        assert_eq!(normalise(&sent).as_deref(), Ok(&*normal));
    }

    // Two routes with policies of their own: what goes to one is the other's by no reading.
    let paths = Paths {
        slashes: if kind & 1 == 0 { Slashes::Merge } else { Slashes::Keep },
        encoded_slash: [EncodedSlash::Border, EncodedSlash::Keep, EncodedSlash::Refuse][usize::from(kind >> 1) % 3],
        parameters: if kind & 16 == 0 { PathParameters::Ignore } else { PathParameters::Keep },
    };
    let read = paths.read(&normal);
    assert_eq!(paths.read(&read), read, "a reading of a reading is the same");
    let admin: PathPattern = serde_json::from_value(serde_json::json!({ "prefix": "/admin" })).expect("a pattern");
    let asked = Match { path: Some(admin), ..Match::default() };
    let table = RouteTable::new(vec![(asked, paths, true), (Match::default(), paths, false)]);
    let headers = HeaderMap::new();
    let method = http::Method::GET;
    let head = |path| RequestView {
        listener: "l",
        method: &method,
        host: "a",
        path,
        query: None,
        headers: &headers,
        certificate: None,
    };
    let Ok(found) = table.find(&head(&normal)) else { return };
    let found = found.expect("the second route takes everything");
    let sent = found.path.as_deref().unwrap_or(&normal);
    if paths == Paths::default() {
        for reading in readings(sent) {
            let is_admin = reading == "/admin" || reading.starts_with("/admin/");
            assert_eq!(is_admin, *found.route, "{raw:?} goes on as {sent:?}, which somebody reads as {reading:?}");
        }
    }
    // What is sent finds the same route again.
    let again = table.find(&head(sent)).expect("it was sent").expect("the second route takes everything");
    assert_eq!((again.route, again.path), (found.route, None), "{sent:?}");
}

/// No server that decodes once more and resolves dots is led out of the root, or to a dot segment at all.
fn is_not_above(normal: &str) {
    let once = String::from_utf8_lossy(&decoded(normal)).into_owned();
    let is_dots = |segment: &str| segment == "." || segment == "..";
    assert!(!once.split(['/', '\\']).any(is_dots), "{normal:?} decodes to {once:?}");
    let cut = |segment: &str| is_dots(segment.split(';').next().unwrap_or_default());
    assert!(!once.split(['/', '\\']).any(cut), "{normal:?} decodes to {once:?} with parameters");
}

fn decoded(path: &str) -> Vec<u8> {
    let (mut out, bytes, mut at) = (vec![], path.as_bytes(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(u8::from_str_radix(&path[at + 1..at + 3], 16).expect("an escape"));
                at += 3;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// What servers make of a path: they decode slashes before or after they cut parameters off, or not, and merge slashes or
/// not.
fn readings(path: &str) -> Vec<String> {
    let cut = |path: &str, marks: &[&str]| {
        let name = |segment: &str| {
            let end = marks.iter().filter_map(|mark| segment.find(mark)).min().unwrap_or(segment.len());
            segment[..end].to_owned()
        };
        path.split('/').map(name).collect::<Vec<_>>().join("/")
    };
    let slashes = |path: &str| path.replace("%2F", "/");
    let merged = |path: &str| {
        let mut path = path.to_owned();
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        path
    };
    let mut all = vec![path.to_owned()];
    all.push(slashes(path));
    for marks in [&[";"][..], &[";", "%3B"]] {
        all.extend([cut(path, marks), slashes(&cut(path, marks)), cut(&slashes(path), marks)]);
    }
    let merged: Vec<String> = all.iter().map(|path| merged(path)).collect();
    all.extend(merged);
    all
}
