//! Endpoints from DNS: the addresses of a name with one port for all, or SRV records, which give ports, weights and
//! priorities (RFC 2782).
//!
//! Queried again when the answer's TTL ends, the time its author promised; at least a second later (some servers
//! answer with a TTL of 0), at most a configured time. The target names of SRV records are resolved here, by the same
//! server, not when a session connects: a server for discovery (Consul's, say) is often not the system's.
//!
//! So endpoints are addresses. A certificate is verified for the name in the configuration, which `control::compile`
//! ensures: an answer of DNS must not decide that.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use hickory_resolver::Resolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::{sleep, timeout};

use super::{Backoff, DiscoveryError, DiscoveryErrorKind, EndpointSink};
use crate::config::{ENDPOINTS_MAX, EndpointConfig, EndpointUrl, IpFamily, Scheme};
use crate::net::dns::{self, Tokio};

/// The shortest time between two questions, whatever the TTL.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// All the questions of one round together.
const ROUND: Duration = Duration::from_secs(15);

/// Targets of an SRV answer that are resolved at a time; hickory refuses more than 32 questions at once.
const TARGETS_AT_ONCE: usize = 16;

/// Asks DNS for endpoints.
#[derive(Clone, Debug)]
pub struct Dns {
    /// The name: of hosts, or of an SRV record.
    pub name: String,
    /// The port of every address; none asks for SRV records.
    pub port: Option<u16>,
    /// How endpoints are spoken to.
    pub scheme: Scheme,
    /// Which addresses of a host.
    pub family: IpFamily,
    /// The DNS server; `None` for the system's.
    pub server: Option<SocketAddr>,
    /// The longest time between two questions.
    pub every: Duration,
}

/// A good answer, and until when.
struct DnsAnswer<T> {
    found: T,
    until: Instant,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    priority: u16,
    weight: u16,
    port: u16,
    target: Name,
}

impl Dns {
    /// Runs until it is dropped, which it may be at any time.
    pub async fn run(self, mut outlet: EndpointSink) {
        let mut backoff = Backoff::default();
        let mut known = HashMap::new();
        loop {
            let late = |_| {
                Err(DiscoveryError::new(
                    DiscoveryErrorKind::Timeout,
                    format!("no answer about {} in {ROUND:?}", self.name),
                ))
            };
            let good = match timeout(ROUND, Box::pin(self.endpoints(&mut known))).await.unwrap_or_else(late) {
                Ok(answer) => outlet.list(answer.found).then_some(answer.until),
                Err(trouble) if matches!(trouble.reason, DiscoveryErrorKind::NotFound | DiscoveryErrorKind::Empty) => {
                    outlet.nobody(&trouble).then(Instant::now)
                }
                Err(trouble) => {
                    outlet.failed(&trouble);
                    None
                }
            };
            match good {
                Some(until) => {
                    backoff.reset();
                    sleep(self.wait(until.saturating_duration_since(Instant::now()))).await;
                }
                None => sleep(backoff.after_failure(fastrand::f64()).min(self.every.max(EVERY_MIN))).await,
            }
        }
    }

    /// Runs one round without the memory of earlier ones: for tests with hostile answers (`tests/fuzz`).
    ///
    /// # Errors
    /// Why there is no list.
    #[doc(hidden)]
    pub async fn once(&self) -> Result<Vec<EndpointConfig>, DiscoveryError> {
        self.endpoints(&mut HashMap::new()).await.map(|answer| answer.found)
    }

    fn wait(&self, ttl: Duration) -> Duration {
        ttl.min(self.every).max(EVERY_MIN)
    }

    /// Runs one round of queries. `known` holds the last addresses of targets.
    async fn endpoints(
        &self,
        known: &mut HashMap<Name, Vec<IpAddr>>,
    ) -> Result<DnsAnswer<Vec<EndpointConfig>>, DiscoveryError> {
        let unmade =
            |error: NetError| DiscoveryError::new(DiscoveryErrorKind::Unreachable, format!("no resolver: {error}"));
        let resolver = dns::resolver(self.server).map_err(unmade)?;
        let name = Name::from_ascii(&self.name)
            .map_err(|error| DiscoveryError::new(DiscoveryErrorKind::NotFound, error.to_string()))?;
        let Some(port) = self.port else { return self.services(&resolver, name, known).await };
        let DnsAnswer { found, until } = self.addresses(&resolver, &name).await?;
        let found = found.into_iter().map(|ip| EndpointConfig::at(self.url(ip, port))).collect();
        Ok(DnsAnswer { found, until })
    }

    async fn services(
        &self,
        resolver: &Resolver<Tokio>,
        name: Name,
        known: &mut HashMap<Name, Vec<IpAddr>>,
    ) -> Result<DnsAnswer<Vec<EndpointConfig>>, DiscoveryError> {
        let answer = resolver.lookup(name.clone(), RecordType::SRV).await.map_err(|error| trouble(&name, &error))?;
        let mut until = answer.valid_until();
        let services: Vec<Service> = answer.answers().iter().filter_map(|record| service(&record.data)).collect();
        if services.len() > ENDPOINTS_MAX {
            return Err(DiscoveryError::new(
                DiscoveryErrorKind::TooLarge,
                format!("{name} has {} SRV records", services.len()),
            ));
        }
        let mut targets: Vec<Name> = services.iter().map(|service| service.target.clone()).collect();
        targets.sort();
        targets.dedup();
        let ask = |target: Name| async move { (self.addresses(resolver, &target).await, target) };
        let asked: Vec<_> = targets.into_iter().map(ask).collect();
        let answers: Vec<_> = stream::iter(asked).buffered(TARGETS_AT_ONCE).collect().await;
        let mut resolved = HashMap::new();
        for (answer, target) in answers {
            match answer {
                Ok(answer) => {
                    until = until.min(answer.until);
                    resolved.insert(target, answer.found);
                }
                // It is gone for good: the others do not wait for it.
                Err(trouble) if matches!(trouble.reason, DiscoveryErrorKind::NotFound | DiscoveryErrorKind::Empty) => {}
                // No answer: the last one holds, and without it the whole round is worthless.
                Err(trouble) => match known.get(&target) {
                    Some(last) => drop(resolved.insert(target, last.clone())),
                    None => return Err(trouble),
                },
            }
        }
        let found = endpoints(&services, &resolved, |ip, port| self.url(ip, port));
        *known = resolved;
        match found.is_empty() {
            true => Err(DiscoveryError::new(DiscoveryErrorKind::Empty, format!("no target of {name} has an address"))),
            false => Ok(DnsAnswer { found, until }),
        }
    }

    async fn addresses(
        &self,
        resolver: &Resolver<Tokio>,
        name: &Name,
    ) -> Result<DnsAnswer<Vec<IpAddr>>, DiscoveryError> {
        let kinds: &[RecordType] = match self.family {
            IpFamily::Any => &[RecordType::A, RecordType::AAAA],
            IpFamily::Ipv4 => &[RecordType::A],
            IpFamily::Ipv6 => &[RecordType::AAAA],
        };
        let mut none = DiscoveryError::new(DiscoveryErrorKind::Empty, format!("{name} has no address"));
        for kind in kinds {
            match resolver.lookup(name.clone(), *kind).await {
                Ok(answer) => {
                    let found: Vec<IpAddr> =
                        answer.answers().iter().filter_map(|record| address(&record.data)).collect();
                    if !found.is_empty() {
                        return Ok(DnsAnswer { found, until: answer.valid_until() });
                    }
                }
                // Only "there is none" leads on to the other family.
                Err(error) => match trouble(name, &error) {
                    nothing if matches!(nothing.reason, DiscoveryErrorKind::NotFound | DiscoveryErrorKind::Empty) => {
                        none = nothing
                    }
                    failed => return Err(failed),
                },
            }
        }
        Err(none)
    }

    fn url(&self, ip: IpAddr, port: u16) -> EndpointUrl {
        EndpointUrl::Tcp { tls: self.scheme == Scheme::Wss, host: ip.to_string(), port }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// Handles a target of `.`, which means that the service does not exist (RFC 2782).
fn service(data: &RData) -> Option<Service> {
    match data {
        RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => {
            Some(Service { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target.clone() })
        }
        _ => None,
    }
}

/// Returns each address of each target, with the weight of its record.
fn endpoints(
    services: &[Service],
    resolved: &HashMap<Name, Vec<IpAddr>>,
    url: impl Fn(IpAddr, u16) -> EndpointUrl,
) -> Vec<EndpointConfig> {
    let of = |service: &Service| resolved.get(&service.target).cloned().unwrap_or_default();
    // Ours are numbers up to 255; only their order has a meaning.
    let mut priorities: Vec<u16> = services.iter().map(|service| service.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let rank = |priority| priorities.binary_search(&priority).unwrap_or(0);
    let endpoint = |service: &Service, ip| {
        // RFC 2782: 0 is "a very small chance", or nothing to choose; here it would be "none".
        let weight = service.weight.max(1);
        let priority = u8::try_from(rank(service.priority)).unwrap_or(u8::MAX);
        EndpointConfig { weight, priority, ..EndpointConfig::at(url(ip, service.port)) }
    };
    let each = |service| of(service).into_iter().map(move |ip| (service, ip));
    services.iter().flat_map(each).map(|(service, ip)| endpoint(service, ip)).collect()
}

fn trouble(name: &Name, error: &NetError) -> DiscoveryError {
    let reason = match error {
        NetError::Timeout => DiscoveryErrorKind::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => DiscoveryErrorKind::NotFound,
            ResponseCode::NoError => DiscoveryErrorKind::Empty,
            ResponseCode::Refused => DiscoveryErrorKind::Denied,
            _ => DiscoveryErrorKind::Server,
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => DiscoveryErrorKind::NotFound,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => DiscoveryErrorKind::Denied,
        NetError::Dns(_) => DiscoveryErrorKind::Server,
        NetError::Proto(_) => DiscoveryErrorKind::Malformed,
        _ => DiscoveryErrorKind::Unreachable,
    };
    DiscoveryError::new(reason, format!("{name}: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    fn srv(priority: u16, target: &str, weight: u16, port: u16) -> Service {
        Service { priority, weight, port, target: Name::from_ascii(target).unwrap() }
    }

    #[test]
    fn each_address_of_a_target_is_an_endpoint_with_its_weight() {
        let resolved = HashMap::from([
            (Name::from_ascii("a.").unwrap(), vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]),
            (Name::from_ascii("b.").unwrap(), vec!["::1".parse().unwrap()]),
        ]);
        let services = [srv(10, "a.", 5, 9000), srv(20, "b.", 0, 9001), srv(10, "gone.", 9, 9002)];
        let dns = Dns {
            name: "x".into(),
            port: None,
            scheme: Scheme::Wss,
            family: IpFamily::Any,
            server: None,
            every: Duration::from_secs(60),
        };
        let found = endpoints(&services, &resolved, |ip, port| dns.url(ip, port));
        let shown: Vec<String> =
            found.iter().map(|found| format!("{} {} {}", found.url, found.weight, found.priority)).collect();
        assert_eq!(shown, ["wss://10.0.0.1:9000 5 0", "wss://10.0.0.2:9000 5 0", "wss://[::1]:9001 1 1"]);
    }

    #[test]
    fn the_next_question_is_asked_by_ttl_within_bounds() {
        let dns = Dns {
            name: "x".into(),
            port: Some(1),
            scheme: Scheme::Ws,
            family: IpFamily::Any,
            server: None,
            every: Duration::from_secs(60),
        };
        for (ttl, wait) in [(0, 1), (7, 7), (3600, 60)] {
            assert_eq!(dns.wait(Duration::from_secs(ttl)), Duration::from_secs(wait));
        }
    }
}
