//! Where passwords are checked: on threads of their own, a few at once.
//!
//! A check takes 50 to 100 ms and more of a processor, which no worker has to give. So each runs on a thread of its own, of a low
//! priority: a flood of wrong passwords takes little from workers that are busy. At most half of the processors check at once.
//! Whoever comes in between waits in order, for a bounded time, and not more than a bounded number do; others get
//! [`BasicDenial::Busy`], and so does an address that has many there already. Equal credentials that come at once are checked
//! once, and those that were right are remembered for some minutes, in memory and as a keyed hash only. Wrong ones never are.

mod remembered;

use std::fmt;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use self::remembered::{Fingerprint, Remembered};
use super::together::{Together, Work};
use crate::base::random;
use crate::base::time::MonotonicTime;
use crate::policy::basic::{BasicDenial, Credentials, Password, PasswordHash, Users};
use crate::policy::clients::{ClientCounts, ClientKey, ClientPlace};

/// How long a request waits for its check, and the check itself: a client that opens a WebSocket gives up after some 10 s.
const WAIT: Duration = Duration::from_secs(5);
/// The most that wait or are checked. At the cost 10, one thread gets through 50 to 100 of them in `WAIT`.
const UNDER_WAY_MAX: usize = 256;
/// The most of one address, so that whoever guesses leaves places to others, and a wait that is not too long.
const OF_CLIENT_MAX: u32 = 32;
/// The most that are remembered, in some 300 KiB.
const REMEMBERED_MAX: usize = 4096;
/// How long: a page and what it loads, and the next page.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// The niceness of a thread that checks: beside a busy worker it gets a tenth of a processor.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// As long as what HMAC-SHA-256 gives.
const KEY_BYTES: usize = 32;
/// bcrypt needs 5 KiB.
const STACK_BYTES: usize = 256 << 10;

/// What came of a check; `None` if there was no thread for it.
type Verdict = Option<bool>;
type CheckPassword = dyn Fn(&PasswordHash, &Password) -> bool + Send + Sync;

/// What bounds the checks.
#[derive(Clone, Copy, Debug)]
struct Limits {
    at_once: usize,
    under_way: usize,
    of_client: u32,
    wait: Duration,
    remembered: usize,
}

/// Checks passwords; one for all routes of a process.
pub struct BasicVerifier(Arc<Inner>);

struct Inner {
    /// Of this process, so that nothing that is remembered tells anybody anything.
    key: Key,
    limits: Limits,
    turns: Arc<Semaphore>,
    /// How many of each address are under way.
    clients: Arc<ClientCounts>,
    client_key: RandomState,
    remembered: Mutex<Remembered>,
    /// Those that wait or are checked.
    under_way: Arc<Together<Fingerprint, Verdict>>,
    check: Box<CheckPassword>,
}

impl BasicVerifier {
    /// Makes one that uses half of these processors.
    pub fn new(processors: usize) -> BasicVerifier {
        let at_once = (processors / 2).max(1);
        let limits = Limits {
            at_once,
            under_way: UNDER_WAY_MAX,
            of_client: OF_CLIENT_MAX,
            wait: WAIT,
            remembered: REMEMBERED_MAX,
        };
        BasicVerifier::with(limits, Box::new(PasswordHash::verify))
    }

    fn with(limits: Limits, check: Box<CheckPassword>) -> BasicVerifier {
        BasicVerifier(Arc::new(Inner {
            key: Key::new(HMAC_SHA256, &random::bytes::<KEY_BYTES>()),
            limits,
            turns: Arc::new(Semaphore::new(limits.at_once)),
            clients: Arc::default(),
            client_key: RandomState::new(),
            remembered: Mutex::new(Remembered::new(limits.remembered)),
            under_way: Arc::default(),
            check,
        }))
    }

    /// Checks credentials against a file of users; `client` is the address that they come from, if it is known. Returns the
    /// name of the user. Cancel-safe: whoever leaves gives its place to the next.
    ///
    /// # Errors
    /// If there is no such user, if the password is wrong, or if it could not be checked in time.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn verify(
        &self,
        users: &Users,
        credentials: &Credentials,
        client: Option<IpAddr>,
        now: MonotonicTime,
    ) -> Result<Box<str>, BasicDenial> {
        let hash = users.hash_of(credentials.user());
        let verdict = match self.0.standing(credentials, hash, client, now) {
            Ok(check) => timeout(self.0.limits.wait, check).await.unwrap_or(None),
            Err(known) => known,
        };
        match verdict {
            Some(true) => Ok(credentials.user().into()),
            Some(false) => Err(BasicDenial::Wrong),
            None => Err(BasicDenial::Busy),
        }
    }
}

impl fmt::Debug for BasicVerifier {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "BasicVerifier({:?})", self.0.limits)
    }
}

impl Inner {
    /// Begins to check credentials, or joins a check of the same.
    ///
    /// # Errors
    /// What is known without one: that they are right, or that there is no place.
    fn standing(
        self: &Arc<Inner>,
        credentials: &Credentials,
        hash: PasswordHash,
        client: Option<IpAddr>,
        now: MonotonicTime,
    ) -> Result<Work<Verdict>, Verdict> {
        let print = Fingerprint::of(&self.key, credentials, &hash);
        let joined = self.under_way.join(print, |under_way| {
            if self.remembered().has(&print, now) {
                return Err(Some(true));
            }
            if under_way >= self.limits.under_way {
                return Err(None);
            }
            let place = client.map(|client| self.enter(client).ok_or(None)).transpose()?;
            Ok(check(Arc::clone(self), print, hash, credentials.password(), place, now))
        });
        joined.map(|(check, _)| check)
    }

    fn enter(&self, client: IpAddr) -> Option<ClientPlace> {
        self.clients.enter(ClientKey::Address(Some(client)).hash(&self.client_key), self.limits.of_client)
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        // A panic cannot leave it half changed.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a turn and checks a password; the client's place is held meanwhile.
async fn check(
    inner: Arc<Inner>,
    print: Fingerprint,
    hash: PasswordHash,
    password: Password,
    _place: Option<ClientPlace>,
    now: MonotonicTime,
) -> Verdict {
    let turn = Arc::clone(&inner.turns).acquire_owned().await.ok()?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        lower_priority();
        let is_right = (inner.check)(&hash, &password);
        if is_right {
            // Also if nobody waits any more.
            inner.remembered().keep(print, now + REMEMBERED_FOR, now);
        }
        drop(turn);
        let _ = tell.send(is_right);
    };
    thread::Builder::new().name("password".to_owned()).stack_size(STACK_BYTES).spawn(work).ok()?;
    told.await.ok()
}

/// Lowers the priority of this thread. Where that is refused it runs as the others do.
#[cfg(target_os = "linux")]
fn lower_priority() {
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Elsewhere it would be the priority of the process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests;
