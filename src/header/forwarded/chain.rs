//! Reads the lists in Forwarded and X-Forwarded-For as the addresses that a request came through.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap};
use ipnet::IpNet;

use super::{X_FORWARDED_FOR, is_trusted, node};

/// How many entries of a list are read, from the right. No request comes through more proxies, and a stranger may have
/// written any number of entries on the left.
pub(super) const HOPS_MAX: usize = 100;

/// The client, as far as one field names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardedClient {
    Found(IpAddr),
    AllTrusted(IpAddr),
    Unknown,
}

impl ForwardedClient {
    pub(super) fn addr(self) -> Option<IpAddr> {
        match self {
            ForwardedClient::Found(addr) | ForwardedClient::AllTrusted(addr) => Some(addr),
            ForwardedClient::Unknown => None,
        }
    }
}

/// The entries of a list, oldest first; `None` for one that is not an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    entries: Vec<Option<IpAddr>>,
    /// Whether all of it could be read, so that others read the same.
    pub(super) is_whole: bool,
}

impl Chain {
    /// Returns `None` if the field is absent or empty.
    pub(super) fn x_forwarded_for(headers: &HeaderMap) -> Option<Chain> {
        let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
        let items = lines.flat_map(|line| line.as_bytes().rsplit(|&b| b == b',')).map(<[u8]>::trim_ascii);
        let mut items = items.filter(|item| !item.is_empty());
        let last = items.by_ref().take(HOPS_MAX).map(|item| parse_node(std::str::from_utf8(item).ok()?));
        let mut entries: Vec<Option<IpAddr>> = last.collect();
        if items.next().is_some() {
            // The entries on the left are not read.
            entries.push(None);
        }
        entries.reverse();
        (!entries.is_empty()).then_some(Chain { entries, is_whole: true })
    }

    /// Returns `None` if the field is absent or empty.
    pub(super) fn forwarded(headers: &HeaderMap) -> Option<Chain> {
        let elements = elements(headers);
        let is_whole = elements.iter().all(|element| !element.is_unreadable);
        let entries: Vec<_> = elements.iter().map(|element| element.node).collect();
        (!entries.is_empty()).then_some(Chain { entries, is_whole })
    }

    pub(super) fn client(&self, trusted: &[IpNet]) -> ForwardedClient {
        let mut leftmost = ForwardedClient::Unknown;
        for entry in self.entries.iter().rev() {
            match *entry {
                Some(addr) if is_trusted(addr, trusted) => leftmost = ForwardedClient::AllTrusted(addr),
                Some(addr) => return ForwardedClient::Found(addr),
                None => return ForwardedClient::Unknown,
            }
        }
        leftmost
    }

    /// Writes the list as elements of Forwarded; `made` is appended to the first.
    pub(super) fn to_forwarded(&self, made: &str) -> String {
        let mut made = Some(made);
        let element = |entry: &Option<IpAddr>| format!("for={}{}", node(*entry), made.take().unwrap_or_default());
        self.entries.iter().map(element).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn to_x_forwarded_for(&self) -> String {
        let items: Vec<_> =
            self.entries.iter().map(|entry| entry.map_or("unknown".to_owned(), |addr| addr.to_string())).collect();
        items.join(", ")
    }
}

/// Parses an address as these fields have it: with a port or without, IPv6 in brackets or bare.
fn parse_node(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let addr: IpAddr = match bracketed {
        // RFC 7239 §6.2: a node's port may be obfuscated.
        Some((addr, port)) if port.is_empty() || port.starts_with(':') => IpAddr::V6(addr.parse().ok()?),
        Some(_) => return None,
        None => text.parse().ok().or_else(|| text.parse().ok().map(|addr: SocketAddr| addr.ip())).or_else(|| {
            let (addr, port) = text.split_once(":_")?;
            if port.contains(':') { None } else { addr.parse().ok().map(IpAddr::V4) }
        })?,
    };
    Some(addr.to_canonical())
}

/// One element of Forwarded: what one proxy reports about the request that it got.
#[derive(Debug, Default)]
pub(super) struct Element {
    /// The sender of the request (`for`), if it is an address.
    pub(super) node: Option<IpAddr>,
    /// The Host of the request.
    pub(super) host: Option<String>,
    /// The scheme of the request.
    pub(super) proto: Option<String>,
    /// This element and all before it are unreadable, or lie beyond [`HOPS_MAX`].
    pub(super) is_unreadable: bool,
}

/// Returns all elements, oldest first. If one is malformed, or there are too many, those on the right are read: a proxy
/// appends its element to whatever it got, and a stranger must not hide by what it sent.
pub(super) fn elements(headers: &HeaderMap) -> Vec<Element> {
    let mut elements: Vec<Element> = Vec::new();
    // Newest first. RFC 9110 §5.3: each line is a whole list, so no quote continues on the next.
    for line in headers.get_all(FORWARDED).into_iter().rev() {
        let most = HOPS_MAX - elements.len();
        let whole = line.to_str().ok().and_then(|line| parse_forwarded(line, most));
        let is_whole = whole.is_some();
        elements.extend(whole.unwrap_or_else(|| parse_end(line.as_bytes(), most)).into_iter().rev());
        if !is_whole {
            break;
        }
    }
    elements.reverse();
    elements
}

/// Returns the last `most` elements of a line that is malformed or too long, after one that is unreadable. No proxy
/// writes a comma into an element, so the last commas are borders, whatever quotes a stranger left open before them.
fn parse_end(line: &[u8], most: usize) -> Vec<Element> {
    let mut elements = Vec::new();
    for piece in line.rsplit(|&byte| byte == b',').take(most) {
        match std::str::from_utf8(piece).ok().and_then(|piece| parse_forwarded(piece, 1)) {
            Some(read) => elements.extend(read),
            None => break,
        }
    }
    elements.push(Element { is_unreadable: true, ..Element::default() });
    elements.reverse();
    elements
}

/// Parses the elements of a line (RFC 7239 §4), `most` of them; returns `None` if any of it is malformed.
fn parse_forwarded(line: &str, most: usize) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut rest = line.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (mut node, mut host, mut proto) = (None, None, None);
        let mut pairs = 0;
        // One element: pairs between `;`, up to `,` or the end.
        loop {
            if !rest.is_empty() && !rest.starts_with([';', ',']) {
                let (name, value, tail) = parse_pair(rest)?;
                let place = [("for", &mut node), ("host", &mut host), ("proto", &mut proto)]
                    .into_iter()
                    .find(|(ours, _)| name.eq_ignore_ascii_case(ours));
                if let Some((_, place)) = place
                    && place.replace(value).is_some()
                {
                    return None; // RFC 7239 §4: each parameter once
                }
                pairs += 1;
                rest = tail.trim_start_matches([' ', '\t']);
            }
            match rest.strip_prefix(';') {
                Some(tail) => rest = tail.trim_start_matches([' ', '\t']),
                None => break,
            }
        }
        if pairs > 0 {
            if elements.len() == most {
                return None;
            }
            let node = node.and_then(|node: String| parse_node(&node));
            elements.push(Element { node, host, proto, is_unreadable: false });
        }
        rest = match rest.strip_prefix(',') {
            Some(tail) => tail.trim_start_matches([' ', '\t']),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(elements)
}

/// Parses `token "=" ( token / quoted-string )`, and returns what follows.
fn parse_pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(is_tchar) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        // Accepts more than a token: bare IPv6 addresses and ports are wrong, but common.
        let end = rest.find([';', ',', ' ', '\t']).unwrap_or(rest.len());
        let value = &rest[..end];
        let valid = !value.is_empty() && value.bytes().all(|b| is_tchar(b) || b":[]".contains(&b));
        return valid.then(|| (name, value.to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((name, value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
