//! All URLs from which keys are fetched: one task each, whatever number of routes names it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::jwks::RemoteKeys;
use super::metrics::Metrics;
use crate::config::{ClientTls, HttpUrl};
use crate::upstream::connect::Connector;

/// The sources of keys that are in use. Clones share them.
#[derive(Clone, Debug)]
pub struct KeySources {
    all: Arc<Mutex<Vec<Source>>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Source {
    url: HttpUrl,
    written: Option<Box<ClientTls>>,
    keys: Weak<RemoteKeys>,
}

impl KeySources {
    /// Creates a table without sources.
    pub fn new(metrics: Metrics) -> KeySources {
        KeySources { all: Arc::default(), metrics }
    }

    /// Returns the source of this URL, which is reached by `connector`: the one in use, or one that still has to be started
    /// ([`RemoteKeys::start`]). `written` is how the file says TLS should be; if only a file that it names has changed, the
    /// new source begins with the keys of the old one.
    pub fn of(&self, url: &HttpUrl, written: Option<&ClientTls>, connector: Connector) -> Arc<RemoteKeys> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|source| source.keys.strong_count() > 0);
        let same = all.iter_mut().find(|source| source.url == *url && source.written.as_deref() == written);
        let before = same.as_ref().and_then(|source| source.keys.upgrade());
        if let Some(before) = before.as_ref().filter(|before| before.is_reached_by(&connector)) {
            return Arc::clone(before);
        }
        let known = before.map(|before| before.current()).unwrap_or_default();
        let keys = Arc::new(RemoteKeys::new(url.clone(), connector, known, self.metrics.source(url)));
        let weak = Arc::downgrade(&keys);
        match same {
            Some(source) => source.keys = weak,
            None => all.push(Source { url: url.clone(), written: written.cloned().map(Box::new), keys: weak }),
        }
        keys
    }
}
