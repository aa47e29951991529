//! Checks the way to an upstream: queue, admission and affinity cookie, where they could not work or would do
//! nothing.

use super::Checker;
use crate::config::read::key::KeyPath;
use crate::config::read::locate::Aim;
use crate::config::schema::admission::{Admission, QueueConfig};
use crate::config::schema::sticky::{CookieSameSite, CookieSecure, StickyConfig};
use crate::config::schema::upstream::UpstreamConfig;
use crate::config::value::TimeSpan;

impl Checker<'_, '_> {
    pub(super) fn entry(&mut self, path: &KeyPath, name: &str, upstream: &UpstreamConfig) {
        if let Some(queue) = &upstream.queue {
            self.queue(&path.key("queue"), name, queue, upstream);
        }
        if let Some(admission) = &upstream.admission {
            self.admission(&path.key("admission"), name, admission);
        }
        if let Some(sticky) = &upstream.sticky {
            self.sticky(&path.key("sticky"), sticky);
        }
    }

    fn queue(&mut self, path: &KeyPath, name: &str, queue: &QueueConfig, upstream: &UpstreamConfig) {
        if queue.length == 0 {
            self.error(&path.key("length"), "no client could wait").help("remove `queue` for no waiting");
        }
        self.not_zero(&path.key("wait"), queue.wait, "nobody waits");
        self.leaves_time(&path.key("wait"), name, queue.wait);
        let unbounded = upstream.endpoints.iter().all(|endpoint| endpoint.max_connections.is_none());
        if unbounded && !upstream.endpoints.is_empty() && self.written.has_own(path) {
            let message = "no endpoint has `max_connections`, so nobody ever waits for one";
            self.warn(path, message).at_key().help("add it to the endpoints, or remove this");
        }
    }

    fn admission(&mut self, path: &KeyPath, name: &str, admission: &Admission) {
        if admission.burst == Some(0) {
            self.error(&path.key("burst"), "no handshake would pass").help("write at least 1");
        }
        self.leaves_time(&path.key("wait"), name, admission.wait);
    }

    /// Checks that a handshake has time left after the wait.
    fn leaves_time(&mut self, path: &KeyPath, upstream: &str, wait: TimeSpan) {
        let routes = &self.file.routes;
        let there = self.routes_to.get(upstream).map_or(&[][..], Vec::as_slice);
        let Some(&index) = there.iter().find(|index| routes[**index].timeouts.handshake <= wait) else { return };
        let handshake = KeyPath::root().key("routes").index(index).key("timeouts").key("handshake");
        let message =
            "a handshake that waits so long has no time left: the route's `timeouts.handshake` counts the wait";
        let help = format!("write less than {}", routes[index].timeouts.handshake);
        self.warn(path, message).help(help).involving(handshake);
    }

    fn sticky(&mut self, path: &KeyPath, sticky: &StickyConfig) {
        let name = path.key("cookie");
        // RFC 6265 §4.1.1: a token.
        let good = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if sticky.cookie.is_empty() || !sticky.cookie.chars().all(good) {
            let shown = self.written.show(&name, &sticky.cookie);
            let help = "use letters, digits, `_` and `-`";
            self.error(&name, format!("`{shown}` is not the name of a cookie")).help(help);
        }
        match (sticky.secrets.is_empty(), &sticky.secrets_file) {
            (true, None) => {
                let help = "add `secrets: [\"${NAME}\"]`, with what `openssl rand -hex 32` gives in the environment";
                self.error(path, "there is no secret to sign the cookie with").at_key().help(help);
            }
            (false, Some(_)) => {
                let message = "the secrets are written here and in a file";
                let secrets = path.key("secrets");
                self.error(&path.key("secrets_file"), message).at_key().help("keep one of the two").involving(secrets);
            }
            (true, Some(file)) => self.file_name(&path.key("secrets_file"), file),
            (false, None) => {}
        }
        if !sticky.path.starts_with('/') || sticky.path.contains(|c: char| c == ';' || !(' '..='~').contains(&c)) {
            let at = path.key("path");
            let shown = self.written.show(&at, &sticky.path);
            self.error(&at, format!("`{shown}` is not the path of a cookie")).help("write `/`, or `/` and a path");
        }
        if let Some(max_age) = sticky.max_age
            && max_age < TimeSpan::from_secs(1)
        {
            let help = "write a duration of at least `1s`, or remove it";
            self.error(&path.key("max_age"), "browsers would drop the cookie at once").help(help);
        }
        let secure = path.key("secure");
        let secure_only = [("__Secure-", false), ("__Host-", true)];
        let prefix = secure_only.into_iter().find(|(prefix, _)| sticky.cookie.starts_with(prefix));
        let mut insecure = |message: String, involved: KeyPath| {
            // The key is often not written: then the section is shown.
            let has = self.written.has(&secure);
            let issue = self.error(if has { &secure } else { path }, message);
            issue.aim = if has { Aim::Value } else { Aim::Key };
            issue.help("write `secure: always`").involving(involved);
        };
        if sticky.secure != CookieSecure::Always {
            if sticky.same_site == CookieSameSite::None {
                insecure("browsers refuse `same_site: none` without `secure: always`".into(), path.key("same_site"));
            }
            if let Some((prefix, _)) = prefix {
                insecure(format!("browsers refuse a cookie `{prefix}…` without `secure: always`"), name.clone());
            }
        }
        if sticky.path != "/" && prefix.is_some_and(|(_, whole_host)| whole_host) {
            let message = "browsers refuse a cookie `__Host-…` with another path than `/`";
            self.error(&path.key("path"), message).help("remove it").involving(name);
        }
    }
}
