//! Looks a name up by the system: getaddrinfo, with all sources of /etc/nsswitch.conf. It reports no TTL.

use std::io;
use std::net::ToSocketAddrs;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::known::{LookupAnswer, LookupError};

/// How long its answers are valid.
const TTL: Duration = Duration::from_secs(5);

/// Messages of glibc and musl for a name that does not exist, or has no address; there is no code. Any other means that
/// the look-up failed.
const NOT_FOUND: [&str; 3] =
    ["Name or service not known", "No address associated with hostname", "Name does not resolve"];

/// Looks `name` up on one of the runtime's few blocking threads; waits if none is free.
pub(super) async fn ask(name: &str) -> Result<LookupAnswer, LookupError> {
    let host = name.to_owned();
    // Its order is by preference already.
    let found = spawn_blocking(move || (host.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>)).await;
    match found {
        Ok(Ok(addresses)) if addresses.is_empty() => {
            Err(LookupError::NotFound(format!("{name} has no address").into()))
        }
        Ok(Ok(addresses)) => Ok(LookupAnswer { addresses, alike: 1, ttl: TTL }),
        Ok(Err(error)) => Err(trouble(&error)),
        Err(_) => Err(LookupError::Failed("the process is shutting down".into())),
    }
}

fn trouble(error: &io::Error) -> LookupError {
    let text = error.to_string();
    match NOT_FOUND.iter().any(|not_found| text.contains(not_found)) {
        true => LookupError::NotFound(text.into()),
        false => LookupError::Failed(text.into()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_machine_knows_itself_and_no_name_that_cannot_be() {
        let answer = ask("localhost").await.unwrap();
        assert!(answer.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 0));
        assert!(ask("nowhere.invalid").await.is_err());
        assert!(ask("").await.is_err());
    }

    #[test]
    fn only_whoever_says_that_there_is_no_such_name_is_believed_so() {
        let of = |text: &str| trouble(&io::Error::other(format!("failed to lookup address information: {text}")));
        assert!(matches!(of("Name or service not known"), LookupError::NotFound(_)));
        assert!(matches!(of("Name does not resolve"), LookupError::NotFound(_)));
        assert!(matches!(of("Temporary failure in name resolution"), LookupError::Failed(_)));
    }
}
