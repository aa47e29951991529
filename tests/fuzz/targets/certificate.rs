//! A client's certificate: what is read of it, whatever its authority has let somebody put into it.

use std::net::IpAddr;

use wsluice::header::client_certificate::{AlternativeName, CertificatePart, ClientCertificate};
use wsluice::route::pattern::{ClientCertPattern, OneOrMore, SubjectPattern};
use wsluice::tls::client_certificate::read;

use super::{Target, choices};

/// A choice, then bytes of a certificate, or lines: its names (a tag and a text each), or the parts of its subject (a kind
/// and a text each).
pub const TARGET: Target = Target {
    name: "certificate",
    run,
    seeds: &[
        b"\x00\x30\x03\x02\x01\x00",
        b"\x01\x82a.example\n\x86spiffe://a/b,c\n\x81ann@a.example\n\x87\x0a\x00\x00\x07\n\xa0x",
        b"\x01\x82*.example.com\n\x82A.Example\n\x87aaaaaaaaaaaaaaaa",
        b"\x01\x82a\0b\n\x82b",
        b"\x02\x00device-1\n\x01Ex, Inc\n\x02DE",
        b"\x02\x00 #a\r+\"<>;\\\n\x03M\xc3\xbcller \n\x04#",
        b"\x43\x82a.example\n\x86spiffe://a/b",
        b"\x84\x00device-1\n\x01Example",
    ],
    tokens: &[
        b"\n",
        b"\x82",
        b"\x86",
        b"\x81",
        b"\x87",
        b"\xa0",
        b"\x00",
        b"\x01",
        b"\x02",
        b",",
        b"\\",
        b"%",
        b"#",
        b" ",
        b"+",
        b"=",
        b"*.",
        b"\r\n",
        b"\xc3\xbc",
        b"\xff",
        b"\x30\x82",
        b"\x31",
        b"\x0c",
        b"\x06\x03\x55\x1d\x11",
    ],
};

fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match contents.len() {
        length @ 0..0x80 => element.push(length as u8),
        length @ 0x80..0x100 => element.extend([0x81, length as u8]),
        length @ 0x100..0x1_0000 => element.extend([0x82, (length >> 8) as u8, length as u8]),
        length => element.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    element.extend(contents);
    element
}

/// A certificate with this subject and these names (RFC 5280 §4.1), which nobody has signed.
fn certificate(subject: &[u8], names: &[u8]) -> Vec<u8> {
    let algorithm = element(0x30, &element(6, &[0x2b, 0x65, 0x70]));
    let extension = [element(6, &[0x55, 0x1d, 0x11]), element(4, &element(0x30, names))].concat();
    let signed = [
        element(0xa0, &[2, 1, 2]),
        element(2, &[0x0a]),
        algorithm.clone(),
        element(0x30, &[]),
        element(0x30, &[element(0x17, b"250101000000Z"), element(0x17, b"350101000000Z")].concat()),
        element(0x30, subject),
        element(0x30, &[algorithm.clone(), element(3, &[0; 33])].concat()),
        element(0xa3, &element(0x30, &element(0x30, &extension))),
    ];
    element(0x30, &[element(0x30, &signed.concat()), algorithm, element(3, &[0; 65])].concat())
}

fn run(data: &[u8]) {
    let Some(([choice], rest)) = choices(data) else { return };
    let lines = || rest.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    match choice & 0x3f {
        0 => holds(&read(rest)),
        1 => names(&lines().map(|(tag, text)| (*tag, text)).collect::<Vec<_>>()),
        2 => subject(&lines().map(|(kind, text)| (*kind, text)).collect::<Vec<_>>()),
        at => {
            let elements: Vec<u8> = lines().flat_map(|(tag, text)| element(*tag, text)).collect();
            let mut damaged =
                if choice & 0x40 == 0 { certificate(&elements, &[]) } else { certificate(&[], &elements) };
            let place = usize::from(at) * damaged.len() / 64;
            damaged[place] ^= 1 << (choice >> 6);
            holds(&read(&damaged));
        }
    }
}

/// What holds of all: nothing is without a bound, and nothing in a name is invisible.
fn holds(certificate: &ClientCertificate) {
    let ClientCertificate { subject, common_name, issuer, serial, names, .. } = certificate;
    assert!(subject.len() <= 1024 && common_name.len() <= 1024 && issuer.len() <= 1024 && serial.len() <= 64);
    let bytes: usize = names.iter().map(|name| name.to_string().len()).sum();
    assert!(names.len() <= 100 && bytes <= 100 * 64 + 4096);
    assert!(names.iter().all(|name| name.to_string().bytes().all(|byte| byte.is_ascii_graphic())));
    let mut all = String::new();
    certificate.write(CertificatePart::Names, &mut all);
    let count = if all.is_empty() { 0 } else { all.split(',').count() };
    assert_eq!(count, names.len(), "a name looks like two: {all}");
    // The subject can be written into a configuration, and means this certificate there.
    if !subject.is_empty() {
        let subject: SubjectPattern = subject.parse().expect("a subject");
        let pattern = ClientCertPattern { subject: OneOrMore(vec![subject]), ..ClientCertPattern::default() };
        assert!(pattern.matches(certificate));
    }
}

/// The names that are read are those that were put in, or there are none.
fn names(written: &[(u8, &[u8])]) {
    let elements: Vec<u8> = written.iter().flat_map(|(tag, text)| element(*tag, text)).collect();
    let certificate = read(&certificate(&[], &elements));
    holds(&certificate);
    let text = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).ok()?;
        (!text.is_empty() && text.bytes().all(|byte| (0x21..0x7f).contains(&byte))).then_some(text)
    };
    let name = |(tag, value): &(u8, &[u8])| match tag {
        0x81 => text(value).map(AlternativeName::Email),
        0x82 => text(value).map(|name| AlternativeName::Dns(name.to_lowercase())),
        0x86 => text(value).map(AlternativeName::Uri),
        0x87 if value.len() == 4 => <[u8; 4]>::try_from(*value).ok().map(|it| AlternativeName::Ip(IpAddr::from(it))),
        0x87 if value.len() == 16 => <[u8; 16]>::try_from(*value).ok().map(|it| AlternativeName::Ip(IpAddr::from(it))),
        _ => None,
    };
    let known: Vec<&(u8, &[u8])> =
        written.iter().filter(|(tag, _)| ![0xa0, 0xa3, 0xa4, 0xa5, 0x88].contains(tag)).collect();
    let expected: Option<Vec<AlternativeName>> = known.iter().map(|written| name(written)).collect();
    let is_too_much = written.len() > 100 || known.iter().map(|(_, text)| text.len()).sum::<usize>() > 4096;
    assert_eq!(certificate.names, expected.filter(|_| !is_too_much).unwrap_or_default());
}

/// A subject that is read says what was put in, in its other order.
fn subject(written: &[(u8, &[u8])]) {
    const KINDS: [(&[u8], &str); 4] =
        [(&[0x55, 4, 3], "CN"), (&[0x55, 4, 10], "O"), (&[0x55, 4, 6], "C"), (&[0x2a, 3, 4], "1.2.3.4")];
    let kind = |kind: u8| KINDS[usize::from(kind) % KINDS.len()];
    let part = |(number, text): &(u8, &[u8])| {
        let value = [element(6, kind(*number).0), element(0x0c, text)].concat();
        element(0x31, &element(0x30, &value))
    };
    let certificate = read(&certificate(&written.iter().flat_map(part).collect::<Vec<_>>(), &[]));
    holds(&certificate);
    if certificate.subject.is_empty() {
        return;
    }
    let parts = decoded(&certificate.subject);
    let expected: Vec<(String, Vec<u8>)> = written
        .iter()
        .rev()
        .map(|(number, text)| {
            let (_, name) = kind(*number);
            let is_plain = name != "1.2.3.4" && std::str::from_utf8(text).is_ok();
            let der = || element(0x0c, text).iter().map(|byte| format!("{byte:02X}")).collect::<String>();
            (name.to_owned(), if is_plain { text.to_vec() } else { format!("#{}", der()).into_bytes() })
        })
        .collect();
    assert_eq!(parts, expected, "{}", certificate.subject);
}

/// Reads RFC 4514 in the simplest way there is.
fn decoded(text: &str) -> Vec<(String, Vec<u8>)> {
    let (mut parts, mut bytes) = (vec![], text.bytes().peekable());
    while bytes.peek().is_some() {
        let name: Vec<u8> = bytes.by_ref().take_while(|byte| *byte != b'=').collect();
        let mut value = vec![];
        while let Some(byte) = bytes.next_if(|byte| *byte != b',') {
            if byte != b'\\' {
                value.push(byte);
                continue;
            }
            let escaped = bytes.next().expect("something escaped");
            let high = char::from(escaped).to_digit(16);
            value.push(match high {
                Some(high) => (high * 16 + char::from(bytes.next().unwrap()).to_digit(16).unwrap()) as u8,
                None => escaped,
            });
        }
        bytes.next();
        parts.push((String::from_utf8(name).unwrap(), value));
    }
    parts
}
