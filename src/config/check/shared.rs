//! Checks what instances share: a store that is not there, and settings without effect.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::schema::shared::OnSharedFailure;

/// How long a question may take.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(5);

/// The longest prefix of keys.
const PREFIX_BYTES_MAX: usize = 64;

/// More instances than anybody has.
const INSTANCES_MAX: u32 = 10_000;

impl Checker<'_, '_> {
    pub(super) fn shared(&mut self) {
        let Some(shared) = &self.file.shared else { return };
        let section = KeyPath::root().key("shared");
        let Some(redis) = &shared.redis else {
            self.error(&section, "this shares nothing").help("add `redis: { url: \"redis://127.0.0.1:6379\" }`");
            return;
        };
        let path = section.key("redis");
        if !cfg!(feature = "redis") {
            let message = "this wsluice was built without Redis (cargo feature `redis`)";
            self.error(&path, message).at_key().help("remove `shared`; limits then hold for each instance alone");
        }
        redis.tls.iter().for_each(|tls| self.client_tls(&path.key("tls"), tls));
        if !redis.url.is_tls {
            let involved = self.written.original(&path.key("url"));
            if redis.tls.is_some() {
                let help = "write `rediss://` in `url`, or remove it";
                self.warn(&path.key("tls"), "the URL uses no TLS").at_key().help(help).involving(involved);
            }
            if redis.url.password.is_some() && !redis.url.is_local() {
                let message = "whoever is between here and this server can read its password";
                self.warn(&path.key("url"), message).help("write `rediss://`");
            }
        }
        let at = path.key("prefix");
        if redis.prefix.len() > PREFIX_BYTES_MAX || redis.prefix.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let message = format!("a prefix has no spaces, and at most {PREFIX_BYTES_MAX} bytes");
            self.error(&at, message).help("write one such as `wsluice:`");
        }
        if !TIMEOUT.contains(&redis.timeout.duration()) {
            self.error(&path.key("timeout"), "a question may take from 5ms to 5s").help("write `100ms`");
        }
        let at = path.key("instances");
        if !(1..=INSTANCES_MAX).contains(&redis.instances) {
            let message = format!("there are from 1 to {INSTANCES_MAX} instances");
            self.error(&at, message).help("write how many there are");
        } else if redis.instances > 1 && redis.on_failure != OnSharedFailure::Local {
            let involved = self.written.original(&path.key("on_failure"));
            self.warn(&at, "this has no effect without `on_failure: local`")
                .at_key()
                .help("remove it")
                .involving(involved);
        }
    }
}
