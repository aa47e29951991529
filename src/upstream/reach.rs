//! Where connections to discovered endpoints may go.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::net::listener::{Address, FileId};
use crate::policy::reach::Places;

/// The addresses that this proxy listens on now.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<ArcSwap<Vec<Address>>>);

impl Own {
    /// Sets all addresses that the proxy listens on.
    pub fn set(&self, addresses: Vec<Address>) {
        self.0.store(Arc::new(addresses));
    }

    /// Returns true if a connection to this address reaches the proxy itself.
    fn has(&self, address: &Address) -> bool {
        self.0.load().iter().any(|own| match (own, address) {
            (Address::Tcp(own), Address::Tcp(to)) => own.port() == to.port() && is_taken_in(own.ip(), to.ip()),
            (Address::Unix(own), Address::Unix(to)) => {
                own == to || matches!((FileId::of(own), FileId::of(to)), (Ok(own), Ok(to)) if own == to)
            }
            _ => false,
        })
    }
}

/// Returns true if a listener at `own` receives connections to `to`.
fn is_taken_in(own: IpAddr, to: IpAddr) -> bool {
    let (own, to) = (own.to_canonical(), to.to_canonical());
    // Connections to the unspecified address go to loopback.
    own == to
        || own.is_ipv4() == to.is_ipv4()
            && (to.is_unspecified() && own.is_loopback() || own.is_unspecified() && is_of_this_machine(to))
}

/// Returns true if the address can be bound, so it is one of this machine. Called only if the port is ours, so rarely.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Why an address is out of reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    /// The IP address is not allowed.
    #[error("{0} is not where discovered endpoints may be (see `discover.allow`)")]
    Ip(IpAddr),
    /// The Unix socket is not allowed.
    #[error("unix:{} is not where discovered endpoints may be (see `discover.allow`)", .0.display())]
    Unix(PathBuf),
    /// The proxy itself listens there.
    #[error("{0} is this proxy itself")]
    Ourselves(Address),
}

/// The addresses that discovered endpoints may have.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// The allowed ranges.
    pub places: Places,
    /// The proxy's own addresses, which are never allowed.
    pub own: Own,
}

impl Reach {
    /// Judges whether a connection may go to this address.
    ///
    /// # Errors
    /// Fails if not, and says why.
    pub fn judge(&self, address: &Address) -> Result<(), OutOfReach> {
        match address {
            Address::Tcp(to) if !self.places.have_ip(to.ip()) => Err(OutOfReach::Ip(to.ip())),
            Address::Unix(path) if !self.places.have_unix(path) => Err(OutOfReach::Unix(path.clone())),
            ours if self.own.has(ours) => Err(OutOfReach::Ourselves(ours.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[test]
    fn we_are_where_we_listen_and_nowhere_else() {
        let own = Own::default();
        let is_ours = |own: &Own, address: &str| own.has(&address.parse().unwrap());
        assert!(!is_ours(&own, "127.0.0.1:80"));
        own.set(
            ["127.0.0.1:9902", "0.0.0.0:8080", "[::]:8081", "unix:/run/w.sock"].map(|at| at.parse().unwrap()).to_vec(),
        );
        for (address, is) in [
            ("127.0.0.1:9902", true),
            ("[::ffff:127.0.0.1]:9902", true),
            ("0.0.0.0:9902", true),
            ("127.0.0.1:9903", false),
            ("127.0.0.2:9902", false),
            ("[::1]:9902", false),
            ("127.0.0.1:8080", true),
            ("127.8.8.8:8080", true),
            // TEST-NET-1 (RFC 5737) is an address of no machine.
            ("192.0.2.1:8080", false),
            ("[::1]:8080", false),
            ("[::1]:8081", true),
            ("127.0.0.1:8081", false),
            ("unix:/run/w.sock", true),
            ("unix:/run/v.sock", false),
        ] {
            assert_eq!(is_ours(&own, address), is, "{address}");
        }
    }

    #[test]
    fn another_name_of_our_socket_is_ours_too() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, other) = (dir.path().join("a.sock"), dir.path().join("b.sock"));
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::hard_link(&socket, &other).unwrap();
        let own = Own::default();
        own.set(vec![Address::Unix(socket)]);
        let reach = Reach { places: Places::Only(vec!["unix".parse().unwrap()]), own };
        assert_eq!(reach.judge(&Address::Unix(other.clone())), Err(OutOfReach::Ourselves(Address::Unix(other))));
    }
}
