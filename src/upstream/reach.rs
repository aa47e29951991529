//! Where connections to discovered endpoints may lead.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::net::listener::{Address, FileId};
use crate::policy::reach::Places;

/// Where we listen ourselves, at the moment.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<ArcSwap<Vec<Address>>>);

impl Own {
    /// Everything that we listen on.
    pub fn set(&self, addresses: Vec<Address>) {
        self.0.store(Arc::new(addresses));
    }

    /// Returns true if a connection to this address reaches us.
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

/// Returns true if what listens at `own` gets what goes to `to`.
fn is_taken_in(own: IpAddr, to: IpAddr) -> bool {
    let (own, to) = (own.to_canonical(), to.to_canonical());
    // To no address in particular: to loopback.
    own == to
        || own.is_ipv4() == to.is_ipv4()
            && (to.is_unspecified() && own.is_loopback() || own.is_unspecified() && is_of_this_machine(to))
}

/// Only an address of this machine can be bound. Asked for where the port is ours, and so hardly ever.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Why a place is out of reach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    /// It is not among those that are allowed.
    #[error("{0} is not where discovered endpoints may be (see `discover.allow`)")]
    Ip(IpAddr),
    /// The same of a Unix socket.
    #[error("unix:{} is not where discovered endpoints may be (see `discover.allow`)", .0.display())]
    Unix(PathBuf),
    /// We listen there.
    #[error("{0} is this proxy itself")]
    Ourselves(Address),
}

/// What may be reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Where endpoints may be.
    pub places: Places,
    /// Where we are, and they may not be.
    pub own: Own,
}

impl Reach {
    /// Whether a connection may lead there.
    ///
    /// # Errors
    /// Why not.
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
            // TEST-NET-1 (RFC 5737) is no address of any machine.
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
