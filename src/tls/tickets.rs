//! The keys that encrypt a listener's tickets.
//!
//! A ticket is a session that the client keeps for us (RFC 8446 §4.6.1): a nonce, and the session under AES-256-GCM. Keys
//! change every six hours, and each is accepted for another six, so a stolen key opens half a day of handshakes. rustls
//! has such keys, but does not give them away: these can be written down, so that clients resume their sessions with
//! the next process, too.
//!
//! The nonce is random. That is good for 2³² tickets of a key (NIST SP 800-38D §8.3), which is 200,000 a second.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::Error;
use rustls::server::ProducesTickets;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use serde::{Deserialize, Serialize};

use super::error::TlsError;
use super::state::SecretBytes;

/// How long a key encrypts tickets, and then how long it still opens them, in seconds.
const PERIOD: u64 = 6 * 60 * 60;
/// The length of a key.
const KEY: usize = 32;

/// The keys that encrypt a listener's tickets. They outlive its certificates: earlier clients can also resume after a
/// renewal.
///
/// A client with a ticket is not asked for a certificate. So listeners with different requirements must not share keys,
/// and a listener whose requirements change needs new ones: otherwise a ticket of one opens the other.
#[derive(Debug, Clone)]
pub struct TicketKeys(Arc<Keyring>);

impl TicketKeys {
    /// Creates new keys, which rotate every six hours; each is accepted for another six.
    ///
    /// # Errors
    /// Fails if the system has no randomness.
    pub fn new() -> Result<TicketKeys, TlsError> {
        Ok(TicketKeys::by_clock(Arc::new(DefaultTimeProvider))?)
    }

    fn by_clock(clock: Arc<dyn TimeProvider>) -> Result<TicketKeys, Error> {
        let now = seconds(&*clock).ok_or(Error::FailedToGetCurrentTime)?;
        let keys = Keys { current: TicketKey::random()?, previous: None, until: now.saturating_add(PERIOD) };
        Ok(TicketKeys(Arc::new(Keyring { clock, keys: RwLock::new(keys) })))
    }

    /// Returns what rustls encrypts tickets with.
    pub(super) fn ticketer(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.0) as _
    }

    /// Writes the keys down.
    pub(super) fn state(&self) -> TicketKeysState {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        TicketKeysState {
            format: TicketFormat::First,
            current: keys.current.secret.clone(),
            previous: keys.previous.as_ref().map(|key| key.secret.clone()),
            until: keys.until,
        }
    }

    /// Goes on with the keys of another process; tickets of the own ones are no longer accepted. Returns false, and
    /// changes nothing, if the state is not valid.
    pub(super) fn adopt(&self, state: &TicketKeysState) -> bool {
        let TicketKeysState { format: TicketFormat::First, current, previous, until } = state;
        let previous = previous.as_ref().map(TicketKey::of);
        let (Some(current), Some(now), Some(previous)) =
            (TicketKey::of(current), seconds(&*self.0.clock), previous.map_or(Some(None), |key| key.map(Some)))
        else {
            return false;
        };
        // A clock that was ahead must not keep a key for longer.
        let until = (*until).min(now.saturating_add(PERIOD));
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Keys { current, previous, until };
        true
    }
}

/// Ticket keys written down. They open the tickets of up to twelve hours; they are wiped when dropped, and not shown.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Clone, PartialEq))]
pub(super) struct TicketKeysState {
    format: TicketFormat,
    current: SecretBytes,
    previous: Option<SecretBytes>,
    /// When the current one stops to encrypt, in seconds since 1970.
    until: u64,
}

/// What the fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum TicketFormat {
    First,
}

/// The keys of a moment, and the clock that ends it.
struct Keyring {
    clock: Arc<dyn TimeProvider>,
    keys: RwLock<Keys>,
}

struct Keys {
    current: TicketKey,
    previous: Option<TicketKey>,
    /// When the current one stops to encrypt, in seconds since 1970.
    until: u64,
}

struct TicketKey {
    secret: SecretBytes,
    cipher: LessSafeKey,
}

fn seconds(clock: &dyn TimeProvider) -> Option<u64> {
    Some(clock.current_time()?.as_secs())
}

impl TicketKey {
    fn random() -> Result<TicketKey, Error> {
        let mut secret = SecretBytes(vec![0; KEY]);
        aws_lc_rs::rand::fill(&mut secret.0).map_err(|_| Error::FailedToGetRandomBytes)?;
        TicketKey::of(&secret).ok_or(Error::EncryptError)
    }

    fn of(secret: &SecretBytes) -> Option<TicketKey> {
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret.0).ok()?);
        Some(TicketKey { secret: secret.clone(), cipher })
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = vec![0; NONCE_LEN + plain.len()];
        let (nonce, body) = ticket.split_first_chunk_mut::<NONCE_LEN>()?;
        aws_lc_rs::rand::fill(nonce).ok()?;
        body.copy_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.cipher.seal_in_place_separate_tag(nonce, Aad::empty(), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.cipher.open_in_place(nonce, Aad::empty(), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl Keyring {
    /// Calls `with` with the keys of now, after changing them if it is time. `None` if there is no clock, or no
    /// randomness for a new key: then there are no tickets, and handshakes are full.
    fn with_keys<R>(&self, with: impl FnOnce(&Keys) -> Option<R>) -> Option<R> {
        let now = seconds(&*self.clock)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if now < keys.until {
            return with(&keys);
        }
        drop(keys);
        let next = TicketKey::random().ok()?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        if now >= keys.until {
            let before = std::mem::replace(&mut keys.current, next);
            // After a day without clients the last key is as old as one that was thrown away.
            keys.previous = (now - keys.until < PERIOD).then_some(before);
            keys.until = now.saturating_add(PERIOD);
        }
        with(&keys)
    }
}

impl ProducesTickets for Keyring {
    fn enabled(&self) -> bool {
        true
    }

    /// What clients are told; a ticket may be refused earlier, but never later.
    fn lifetime(&self) -> u32 {
        2 * PERIOD as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.with_keys(|keys| keys.current.seal(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.with_keys(|keys| keys.current.open(ticket).or_else(|| keys.previous.as_ref()?.open(ticket)))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::test_certificates::Clock;
    use super::*;

    fn keys_at_noon() -> (Arc<Clock>, TicketKeys) {
        let clock = Arc::new(Clock::at(2030, 1, 1));
        let keys = TicketKeys::by_clock(Arc::clone(&clock) as _).unwrap();
        (clock, keys)
    }

    #[test]
    fn a_ticket_opens_under_its_key_and_the_next_and_no_longer() {
        let (clock, keys) = keys_at_noon();
        let keyring = keys.ticketer();
        let ticket = keyring.encrypt(b"session").unwrap();
        assert_ne!(ticket, keyring.encrypt(b"session").unwrap());
        clock.turn(5);
        let later = keyring.encrypt(b"later").unwrap();
        assert_eq!(keyring.decrypt(&ticket).unwrap(), b"session");
        clock.turn(6);
        assert_eq!(keyring.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(keyring.decrypt(&later).unwrap(), b"later");
        let newest = keyring.encrypt(b"newest").unwrap();
        clock.turn(6);
        assert_eq!((keyring.decrypt(&ticket), keyring.decrypt(&later)), (None, None));
        assert_eq!(keyring.decrypt(&newest).unwrap(), b"newest");
        // Nobody has come for long.
        clock.turn(12);
        assert_eq!(keyring.decrypt(&newest), None);
        assert_eq!(u64::from(keyring.lifetime()), 2 * PERIOD);
    }

    #[test]
    fn what_is_no_ticket_opens_as_nothing() {
        let (_, keys) = keys_at_noon();
        let keyring = keys.ticketer();
        let ticket = keyring.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[at] ^= 1;
            assert_eq!(keyring.decrypt(&altered), None, "{at}");
            assert_eq!(keyring.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_eq!(keys_at_noon().1.ticketer().decrypt(&ticket), None);
    }

    #[test]
    fn another_process_opens_the_tickets_and_changes_keys_at_the_same_time() {
        let (clock, keys) = keys_at_noon();
        let first = keys.ticketer().encrypt(b"first").unwrap();
        clock.turn(7);
        let second = keys.ticketer().encrypt(b"second").unwrap();
        let written = serde_json::to_string(&keys.state()).unwrap();
        let state: TicketKeysState = serde_json::from_str(&written).unwrap();
        assert!(state == keys.state());

        let other = TicketKeys::by_clock(Arc::clone(&clock) as _).unwrap();
        assert_eq!(other.ticketer().decrypt(&second), None);
        clock.turn(1);
        assert!(other.adopt(&state));
        assert_eq!(other.ticketer().decrypt(&first).unwrap(), b"first");
        assert_eq!(keys.ticketer().decrypt(&other.ticketer().encrypt(b"new").unwrap()).unwrap(), b"new");
        clock.turn(5);
        assert_eq!(other.ticketer().decrypt(&first), None);
        assert_eq!(other.ticketer().decrypt(&second).unwrap(), b"second");
        // The keys differ from here.
        assert_eq!(keys.ticketer().decrypt(&other.ticketer().encrypt(b"new").unwrap()), None);
    }

    #[test]
    fn a_bad_state_changes_nothing_and_none_keeps_a_key_for_longer() {
        let (clock, keys) = keys_at_noon();
        let ticket = keys.ticketer().encrypt(b"session").unwrap();
        type Change = fn(&mut TicketKeysState);
        let changes: [Change; 2] =
            [|state| state.current.0.truncate(16), |state| state.previous = Some(SecretBytes::default())];
        for change in changes {
            let mut bad = keys_at_noon().1.state();
            change(&mut bad);
            assert!(!keys.adopt(&bad));
        }
        assert_eq!(keys.ticketer().decrypt(&ticket).unwrap(), b"session");
        let mut state = keys.state();
        state.until = u64::MAX;
        assert!(keys.adopt(&state));
        clock.turn(12);
        assert_eq!(keys.ticketer().decrypt(&ticket), None);
        assert!(!format!("{:?}", state).contains(&format!("{:?}", &state.current.0[..4])[1..9]));
    }
}
