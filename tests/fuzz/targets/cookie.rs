//! The affinity cookie among whatever else a client sends as `Cookie`.

use wsluice::balance::sticky::{Affinity, Attributes, SameSite, Secure, Sticky, without};

use super::{Target, choices};

pub const TARGET: Target = Target {
    name: "cookie",
    run,
    seeds: &[
        b"\x00app=$",
        b"\x01a=b; app=$; c=d",
        b"\x02app = $\napp=x",
        b"\x03app=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx;app=$",
        b"\x00 app=;app;=app;;app=$;",
        b"\x04app=\"$\"",
    ],
    tokens: &[
        b"$", b"app", b"=", b";", b"; ", b",", b"\n", b" ", b"\t", b"\"", b"app=$", b"app=", b"apps=$", b"APP=$",
        b"\xff", b"\0", b"-", b"_", b"+", b"A",
    ],
};

const NOW: u64 = 1_000_000;

fn sticky(secrets: &[&[u8]], upstream: &str, max_age: Option<u64>) -> Sticky {
    let attributes = Attributes { max_age, secure: Secure::Auto, http_only: true, same_site: SameSite::Lax };
    Sticky::new("app".into(), upstream.into(), secrets.iter().copied(), "/".into(), attributes)
}

fn run(data: &[u8]) {
    let Some(([kind], template)) = choices(data) else { return };
    let max_age = [None, Some(0), Some(60), Some(u64::MAX)][usize::from(kind & 3)];
    let ours = sticky(&[b"a secret of ours", b"an older one"], "chat", max_age);
    let set = ours.set(42, NOW, true);
    let token = set.split(['=', ';']).nth(1).expect("a value");
    // `$` is a cookie of ours, as it was set.
    let text: Vec<u8> = template
        .iter()
        .flat_map(|byte| if *byte == b'$' { token.as_bytes() } else { std::slice::from_ref(byte) })
        .copied()
        .collect();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();

    let values: Vec<&[u8]> = lines
        .iter()
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..at].trim_ascii() == b"app").then(|| pair[at + 1..].trim_ascii())
        })
        .collect();
    let is_there = values.iter().take(4).any(|value| *value == token.as_bytes());
    match ours.read(lines.iter().copied(), NOW) {
        Affinity::None => assert_eq!(values, [] as [&[u8]; 0]),
        Affinity::Invalid => assert!(!values.is_empty() && (!is_there || max_age == Some(0)), "{values:?}"),
        Affinity::Endpoint { identity, .. } => assert!(is_there && identity == 42, "somebody made it up: {values:?}"),
    }
    // It is nothing to another upstream, nor to who has another secret, nor when its time is over.
    for other in [sticky(&[b"a secret of ours"], "chat2", max_age), sticky(&[b"A secret of ours"], "chat", max_age)] {
        assert_eq!(other.read(lines.iter().copied(), NOW).identity(), None);
    }
    if let Some(age) = max_age.filter(|age| *age < u64::MAX) {
        assert_eq!(ours.read(lines.iter().copied(), NOW + age).identity(), None);
    }

    // The upstream gets all but it.
    for line in lines {
        let is_ours = |pair: &&[u8]| {
            let at = pair.iter().position(|byte| *byte == b'=');
            at.is_some_and(|at| pair[..at].trim_ascii() == b"app")
        };
        let others = |line: &[u8]| -> Vec<Vec<u8>> {
            let pairs = line.split(|byte| *byte == b';').filter(|pair| !is_ours(pair));
            pairs.map(|pair| pair.trim_ascii().to_vec()).filter(|pair| !pair.is_empty()).collect()
        };
        match without(line, "app") {
            None => assert!(!line.split(|byte| *byte == b';').any(|pair| is_ours(&pair))),
            Some(rest) => {
                assert_eq!(without(&rest, "app"), None, "{rest:?}");
                assert_eq!(others(&rest), others(line));
                assert_eq!(ours.read([&rest[..]], NOW), Affinity::None);
            }
        }
    }
}
