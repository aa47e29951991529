//! The text of all metrics, shared by concurrent scrapes.
//!
//! With many routes it takes milliseconds to write and megabytes to hold. So it is written on a blocking thread, one at a
//! time, and all scrapes that asked before it was begun share it.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::Registry;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use crate::base::clock;
use crate::base::time::MonotonicTime;
use crate::telemetry::exposition;

/// The most scrapes that may wait: a scraper or two, each with a spare.
const WAITING_MAX: usize = 16;

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum NoText {
    /// Too many scrapes wait already.
    #[error("too many scrapes at once")]
    Crowded,
    /// A metric family breaks the format, which is a bug.
    #[error("the metrics cannot be written")]
    Broken(#[source] prometheus::Error),
    /// The writing thread panicked.
    #[error("the metrics could not be written to their end")]
    Failed,
}

/// Writes the text for all scrapes.
#[derive(Debug)]
pub struct Scrapes {
    registry: Registry,
    turns: Semaphore,
    /// When the text was begun, while it may be shared.
    last: Arc<Mutex<Option<(MonotonicTime, Bytes)>>>,
}

impl Scrapes {
    /// Creates it for `registry`.
    pub fn new(registry: Registry) -> Scrapes {
        Scrapes { registry, turns: Semaphore::new(WAITING_MAX), last: Arc::default() }
    }

    /// Returns the text of all metrics, not older than this call.
    ///
    /// # Errors
    /// See [`NoText`].
    pub async fn text(&self) -> Result<Bytes, NoText> {
        let _turn = self.turns.try_acquire().map_err(|_| NoText::Crowded)?;
        let asked = clock::now();
        let mut last = Arc::clone(&self.last).lock_owned().await;
        let is_shared = self.turns.available_permits() + 1 < WAITING_MAX;
        if let Some((begun, text)) = &*last
            && *begun > asked
        {
            let text = text.clone();
            if !is_shared {
                *last = None;
            }
            return Ok(text);
        }
        let registry = self.registry.clone();
        // Even if the scraper has gone meanwhile, no other text is begun before this one is done.
        let written = spawn_blocking(move || {
            let begun = clock::now();
            let text = Bytes::from(exposition::encode(&registry).map_err(NoText::Broken)?);
            *last = is_shared.then(|| (begun, text.clone()));
            Ok(text)
        });
        written.await.unwrap_or(Err(NoText::Failed))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test ends where it fails")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::IntCounter;
    use prometheus::core::{Collector, Desc};
    use prometheus::proto::MetricFamily;

    use super::*;

    /// Counts how often it is collected, slowly.
    struct Slow(Arc<AtomicUsize>, IntCounter);

    impl Collector for Slow {
        fn desc(&self) -> Vec<&Desc> {
            self.1.desc()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.1.collect()
        }
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_a_text_that_is_not_older_than_his_question() {
        let (registry, asked) = (Registry::new(), Arc::new(AtomicUsize::new(0)));
        registry.register(Box::new(Slow(Arc::clone(&asked), IntCounter::new("a", "A.").unwrap()))).unwrap();
        let scrapes = Arc::new(Scrapes::new(registry));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..WAITING_MAX + 4 {
            let scrapes = Arc::clone(&scrapes);
            all.spawn(async move { scrapes.text().await });
        }
        let answers = all.join_all().await;
        let crowded = answers.iter().filter(|answer| matches!(answer, Err(NoText::Crowded))).count();
        assert_eq!((crowded, answers.len()), (4, WAITING_MAX + 4));
        let before = asked.load(Ordering::Relaxed);
        assert!((1..=2).contains(&before), "{before}");
        scrapes.text().await.unwrap();
        scrapes.text().await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), before + 2, "each later one asks anew");
        assert!(scrapes.last.lock().await.is_none(), "nothing is kept that nobody waits for");
    }
}
