//! What is measured: the names of the workloads and their units.

use std::fmt;

use anyhow::{Result, bail};

/// Payload of a small message.
pub const MESSAGE_LEN: usize = 128;
/// Payload of a bulk message.
pub const BULK_LEN: usize = 64 * 1024;
/// Payload of the message that makes each idle connection big for a moment.
pub const BURST_LEN: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Each connection sends its next message when the last one is back.
    Echo,
    /// A fixed number of messages a second, whatever comes back.
    Rate,
    /// 64-KiB messages to the backend.
    Up,
    /// 64-KiB messages to the client.
    Down,
    /// One message to each of many connections.
    Push,
    /// Connect, upgrade, one echo, close.
    Connect,
    /// The same with a resumed TLS session.
    Resume,
    /// Memory of idle connections: after one echo, after a burst, after all have closed.
    Memory,
    /// Echoes beside one connection that streams flat out in both directions.
    Fair,
    /// Costs and memory while so many connections are open, most of them idle.
    Scale(usize),
    /// How connections spread over several workers.
    Spread,
    /// Many clients that connect at the same time, while a few sessions go on.
    Storm,
    /// The same with resumed TLS sessions.
    StormResume,
    /// The same at an upstream that admits so many handshakes a second.
    StormAdmission,
}

/// The steps of [`Shape::Scale`]: 9,500 sessions are what 20,000 descriptors allow.
pub const SCALE: [usize; 3] = [1_000, 4_000, 9_500];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Ws,
    Wss,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    pub shape: Shape,
    pub transport: Transport,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Echo => "echo",
            Shape::Rate => "rate",
            Shape::Up => "up",
            Shape::Down => "down",
            Shape::Push => "push",
            Shape::Connect => "connect",
            Shape::Resume => "resume",
            Shape::Memory => "memory",
            Shape::Fair => "fair",
            Shape::Scale(connections) => return write!(f, "scale-{connections}"),
            Shape::Spread => "spread",
            Shape::Storm => "storm",
            Shape::StormResume => "storm-resume",
            Shape::StormAdmission => "storm-admission",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Transport::Ws { "ws" } else { "wss" })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shape, self.transport)
    }
}

impl Shape {
    /// Is it a storm of one kind or another?
    pub fn is_storm(self) -> bool {
        matches!(self, Shape::Storm | Shape::StormResume | Shape::StormAdmission)
    }
}

impl Workload {
    /// All of them, in the order of the table.
    pub fn all() -> Vec<Workload> {
        use Shape::{Connect, Down, Echo, Fair, Memory, Push, Rate, Resume, Scale, Spread, Up};
        let [small, middle, large] = SCALE.map(Scale);
        let shapes = [Echo, Rate, Up, Down, Push, Connect, Resume, Memory, Fair, small, middle, large, Spread];
        let each = shapes
            .into_iter()
            .chain([Shape::Storm, Shape::StormResume, Shape::StormAdmission])
            .flat_map(|shape| [Transport::Ws, Transport::Wss].map(|transport| Workload { shape, transport }));
        each.filter(|workload| workload.exists()).collect()
    }

    /// Only TLS sessions are resumed; how connections spread, and how handshakes are admitted, does not depend on TLS.
    fn exists(self) -> bool {
        !matches!(
            (self.shape, self.transport),
            (Shape::Resume | Shape::StormResume, Transport::Ws)
                | (Shape::Spread | Shape::StormAdmission, Transport::Wss)
        )
    }

    /// Whether rounds of the two are interleaved, since they are compared with each other.
    pub fn goes_with(self, other: Workload) -> bool {
        self == other || matches!((self.shape, other.shape), (Shape::Scale(_), Shape::Scale(_)))
    }

    /// Those that `words` name: `echo-ws`, or `echo`, or `ws`. No words: all but `scale`, `spread` and `storm`, which
    /// take long.
    pub fn named(words: &[String]) -> Result<Vec<Workload>> {
        let all = Workload::all();
        let fits = |workload: &Workload, word: &str| {
            let family = match workload.shape {
                Shape::Scale(_) => word == "scale",
                shape => shape.is_storm() && word == "storm",
            };
            let names = [workload.to_string(), workload.shape.to_string(), workload.transport.to_string()];
            family || names.iter().any(|name| name == word)
        };
        if let Some(word) = words.iter().find(|word| !all.iter().any(|workload| fits(workload, word))) {
            let names: Vec<_> = all.iter().map(Workload::to_string).collect();
            bail!("no workload is called {word:?}; there are {}", names.join(", "));
        }
        let wanted = |workload: &Workload| match words {
            [] => !matches!(workload.shape, Shape::Scale(_) | Shape::Spread) && !workload.shape.is_storm(),
            words => words.iter().any(|word| fits(workload, word)),
        };
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// What the CPU time is divided by, with the unit it is then given in and the nanoseconds of that unit.
    pub fn cost_unit(self) -> (&'static str, f64) {
        match self.shape {
            Shape::Echo | Shape::Rate | Shape::Fair | Shape::Scale(_) => ("µs/round trip", 1e3),
            Shape::Up | Shape::Down => ("ns/byte", 1.0),
            Shape::Push => ("µs/message", 1e3),
            Shape::Connect | Shape::Resume | Shape::Storm | Shape::StormResume | Shape::StormAdmission => {
                ("µs/connection", 1e3)
            }
            Shape::Memory => ("KiB/connection", 1.0),
            Shape::Spread => ("sessions", 1.0),
        }
    }

    /// What throughput is counted in, and how many units make one of it.
    pub fn throughput_unit(self) -> (&'static str, f64) {
        match self.shape {
            Shape::Up | Shape::Down => ("MB/s", 1e6),
            _ => ("/s", 1.0),
        }
    }

    pub fn about(self) -> &'static str {
        match self.shape {
            Shape::Echo => "closed loop: each connection sends 128 B when the last message is back",
            Shape::Rate => "open loop: 128-B messages at a fixed rate, latency from when each was due",
            Shape::Up => "64-KiB messages from the clients to the backend",
            Shape::Down => "64-KiB messages from the backend to the clients",
            Shape::Push => "128 B to each of many connections, again when all have it",
            Shape::Connect if self.transport == Transport::Wss => {
                "TCP, full TLS handshake, upgrade, one echo, close handshake"
            }
            Shape::Connect => "TCP, upgrade, one echo, close handshake",
            Shape::Resume => "TCP, resumed TLS session, upgrade, one echo, close handshake",
            Shape::Memory => "growth of PSS, each connection idle after one echo; after a 16-KiB echo; after closing",
            Shape::Fair => "echoes alone, and beside one connection that streams flat out both ways",
            Shape::Scale(_) => "echo, push, connect and memory while so many connections are open, most of them idle",
            Shape::Spread => "how many connections each worker holds",
            Shape::Storm if self.transport == Transport::Wss => "the same with full TLS handshakes",
            Shape::Storm => "9,000 clients connect at once: time until all have echoed, established sessions meanwhile",
            Shape::StormResume => "the same with resumed TLS sessions",
            Shape::StormAdmission => {
                "the same, and the upstream admits a third of the clients a second (wsluice alone)"
            }
        }
    }
}
