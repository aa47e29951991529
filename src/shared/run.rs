//! The thread of a store: connects, sends what waits, and connects again.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Cmd, Value};
use tokio::runtime::Builder;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::answer::{Away, Question, Verdict};
use super::connection::{Connection, Scripts, Sender, StoreError, list, number, run as script, text};
use super::deny_list::{DenyError, Order, Ordered};
use super::holdings::Telling;
use super::link::{Link, Queues};
use crate::base::{clock, random};
use crate::policy::clients::ClientDigest;
use crate::policy::denied::{DENIED_MAX, Denied, DeniedEntry, DeniedFull};
use crate::telemetry::log_limiter::{LinePermit, LogLimiter};
use crate::telemetry::panics::{self, PanicSite};

/// The most questions in one batch, and the most batches on their way.
const BATCH_MAX: usize = 128;
const BATCHES_MAX: usize = 8;

/// The most counts that are told at once, and how often they are.
const TELL_MAX: usize = 256;
const TELL_EVERY: Duration = Duration::from_millis(50);

/// How long what an instance has told holds after its last sign of life.
const LEASE: Duration = Duration::from_secs(10);

/// How often there is a sign of life, which also tells whether the list of denied subjects has changed: within a second it must
/// be in force everywhere.
const BEAT_EVERY: Duration = Duration::from_millis(250);

/// How long counts are kept in the store after they were told, and how often all of them are told anew.
const KEPT: Duration = Duration::from_secs(3600);
const TELL_ALL_EVERY: Duration = Duration::from_secs(1200);

/// The time to connect, log in and load scripts.
const OPEN: Duration = Duration::from_secs(2);

/// The least time of an answer that nobody waits for.
const BACKGROUND_MIN: Duration = Duration::from_secs(1);

/// Waits between attempts to connect: twice as long each time, up to a bound.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(3);

/// A connection that has lasted as long is a good one.
const GOOD: Duration = Duration::from_secs(5);

/// The most entries that are given back at once.
const GIVE_BACK_MAX: usize = 256;

/// Starts the thread.
pub(super) fn spawn(link: Arc<Link>, queues: Queues) {
    let thread = std::thread::Builder::new().name("shared-store".into());
    let started = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        thread.spawn(move || {
            let queues = Mutex::new(queues);
            runtime.block_on(panics::keep(PanicSite::Control, "the shared store", || async {
                link.run(&mut *queues.lock().await).await;
            }));
            link.ended.send_replace(true);
            // A look-up of a name may hang.
            runtime.shutdown_background();
        })
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for the shared store: it is not asked");
    }
}

/// What was done on a connection.
enum Did {
    /// Questions were answered.
    Questions,
    /// Counts were told.
    Told,
    /// A change of the list was made or refused.
    Order,
    /// A sign of life.
    Beat(BeatAnswer),
    /// The list was read.
    List(u64, HashMap<Box<str>, DeniedEntry>),
    /// Entries were given back.
    GaveBack,
}

type Work = FuturesUnordered<Pin<Box<dyn Future<Output = Result<Did, StoreError>> + Send>>>;

/// The answer to a sign of life.
struct BeatAnswer {
    /// The last one was still known.
    was_there: bool,
    version: u64,
    millis: u64,
}

impl Link {
    /// Keeps a connection until nobody asks any more, or it is told to end.
    async fn run(self: &Arc<Link>, queues: &mut Queues) {
        let limiter = LogLimiter::default();
        let (mut failures, mut is_away, mut last_instance) = (0_u32, false, None);
        let server = self.written.url.server();
        self.metrics.set_up(false);
        loop {
            let began = Instant::now();
            let opened = tokio::select! {
                biased;
                () = self.is_stopped() => return,
                opened = self.open(&mut last_instance) => opened,
            };
            let ended = match opened {
                Ok(mut open) => {
                    self.set_up(true);
                    if std::mem::take(&mut is_away)
                        && let Some(LinePermit { suppressed }) = limiter.line(clock::now())
                    {
                        tracing::info!(server, suppressed, "the shared store answers again");
                    }
                    let served = open.serve(queues).await;
                    self.set_up(false);
                    if served.is_ok() {
                        return open.leave().await;
                    }
                    served
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            self.settled.send_replace(true);
            self.metrics.failed(error.away);
            if !std::mem::replace(&mut is_away, true)
                && let Some(LinePermit { suppressed }) = limiter.line(clock::now())
            {
                let on_failure = format!("{:?}", self.written.on_failure).to_lowercase();
                tracing::warn!(server, reason = error.away.label(), %error, on_failure, suppressed, "the shared store is away");
            }
            failures = if began.elapsed() > GOOD { 0 } else { failures.saturating_add(1) };
            let wait = WAIT_MIN.saturating_mul(1 << failures.min(10)).min(WAIT_MAX);
            let until = Instant::now() + wait.mul_f64(0.5 + 0.5 * fastrand::f64());
            if !self.wait(queues, until, error.away).await {
                return;
            }
        }
    }

    async fn is_stopped(&self) {
        let _ = self.stopped.subscribe().wait_for(|is_stopped| *is_stopped).await;
    }

    /// Whether it answers; from the first time on it is known.
    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
        self.metrics.set_up(is_up);
        self.settled.send_replace(true);
    }

    /// Answers that the store is away until this moment. Returns false if nobody asks any more.
    async fn wait(&self, queues: &mut Queues, until: Instant, away: Away) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                () = self.is_stopped() => return false,
                question = queues.questions.recv() => match question {
                    Some(Question { reply, .. }) => drop(reply.send(Err(away))),
                    None => return false,
                },
                Some(order) = queues.orders.recv() => drop(order.done.send(Err(DenyError::Away(away)))),
            }
        }
    }

    /// Connects. The store is up when it has taken a sign of life in the time of a question, and the list was read.
    async fn open(self: &Arc<Link>, last_instance: &mut Option<String>) -> Result<OpenStore, StoreError> {
        let connection = Connection::open(&self.connector, &self.written.url, Instant::now() + OPEN).await?;
        let instance: String = random::bytes::<12>().iter().map(|byte| format!("{byte:02x}")).collect();
        let telling = self.holdings.begin_telling();
        let store = OpenStore { link: Arc::clone(self), ask: self.ask(&connection, &instance, telling), connection };
        // What the last connection has told is told anew by this one.
        if let Some(last) = last_instance.replace(instance) {
            let mut forget = redis::cmd("DEL");
            forget.arg(store.ask.key("alive:", &last));
            timeout(OPEN, store.connection.sender().send(&[forget])).await.map_err(|_| StoreError::late())??;
        }
        let limit = self.written.timeout.duration();
        let beat = timeout(limit, store.ask.clone().beat()).await.map_err(|_| StoreError::late())??;
        self.denied.set_clock(beat.millis);
        let mut is_settled = false;
        while let Did::List(version, theirs) = store.ask.clone().list().await? {
            match self.settle(version, theirs, is_settled) {
                Some((missing, known)) => drop(store.ask.clone().give_back(missing, known).await?),
                None => break,
            }
            is_settled = true;
        }
        Ok(store)
    }

    fn ask(self: &Arc<Link>, connection: &Connection, instance: &str, telling: Telling) -> AskStore {
        AskStore {
            link: Arc::clone(self),
            sender: connection.sender(),
            scripts: connection.scripts.clone(),
            instance: instance.into(),
            telling: Arc::new(telling),
            prefix: self.written.prefix.as_str().into(),
        }
    }

    /// Takes in the list of the store, or returns what it has lost and has to get back: at most once.
    fn settle(
        &self,
        version: u64,
        theirs: HashMap<Box<str>, DeniedEntry>,
        is_settled: bool,
    ) -> Option<(Vec<(String, DeniedEntry)>, u64)> {
        let known = self.denied.newest();
        if !is_settled && known.is_none_or(|known| version < known) {
            let missing: Vec<_> =
                self.denied.entries().into_iter().filter(|(subject, _)| !theirs.contains_key(&**subject)).collect();
            if !missing.is_empty() {
                let count = missing.len();
                tracing::info!(count, "subjects that the shared store does not know of are denied there, too");
                return Some((missing, known.unwrap_or(1).max(1)));
            }
        }
        self.denied.replace(Denied::new(theirs), version);
        None
    }
}

/// A store that answers.
struct OpenStore {
    link: Arc<Link>,
    connection: Connection,
    ask: AskStore,
}

impl OpenStore {
    /// Sends what waits until nobody asks any more.
    async fn serve(&mut self, queues: &mut Queues) -> Result<(), StoreError> {
        let OpenStore { link, connection, ask } = self;
        let mut work = Work::new();
        let (mut batches, mut is_ordering, mut is_beating, mut is_telling) = (0, false, false, false);
        let (mut is_listing, mut is_settled) = (false, false);
        let every = |span| {
            let mut ticks = interval(span);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut beats, mut tells, mut all) = (every(BEAT_EVERY), every(TELL_EVERY), every(TELL_ALL_EVERY));
        all.reset();
        let mut batch = vec![];
        loop {
            tokio::select! {
                biased;
                Some(did) = work.next(), if !work.is_empty() => match did? {
                    Did::Questions => batches -= 1,
                    Did::Told => is_telling = false,
                    Did::Order => is_ordering = false,
                    Did::Beat(BeatAnswer { was_there, version, millis }) => {
                        is_beating = false;
                        link.denied.set_clock(millis);
                        if !was_there {
                            tracing::debug!("the shared store has lost what it was told: it is told anew");
                            ask.telling.tell_all();
                        }
                        if link.denied.version() != Some(version) && !is_listing {
                            (is_listing, is_settled) = (true, false);
                            work.push(Box::pin(ask.clone().list()));
                        }
                    }
                    Did::List(version, theirs) => match link.settle(version, theirs, is_settled) {
                        Some((missing, known)) => work.push(Box::pin(ask.clone().give_back(missing, known))),
                        None => is_listing = false,
                    },
                    Did::GaveBack => {
                        is_settled = true;
                        work.push(Box::pin(ask.clone().list()));
                    }
                },
                () = link.is_stopped() => return Ok(()),
                () = connection.broken() => return Err(StoreError::new(Away::Unreachable, "the connection was closed")),
                _ = beats.tick(), if !is_beating => {
                    is_beating = true;
                    let beat = ask.clone().beat();
                    let limit = ask.background();
                    work.push(Box::pin(async move {
                        Ok(Did::Beat(timeout(limit, beat).await.map_err(|_| StoreError::late())??))
                    }));
                }
                count = queues.questions.recv_many(&mut batch, BATCH_MAX), if batches < BATCHES_MAX => {
                    if count == 0 {
                        return Ok(());
                    }
                    batches += 1;
                    work.push(Box::pin(ask.clone().questions(std::mem::take(&mut batch))));
                }
                Some(order) = queues.orders.recv(), if !is_ordering => {
                    is_ordering = true;
                    work.push(Box::pin(ask.clone().order(order)));
                }
                _ = all.tick() => ask.telling.tell_all(),
                _ = tells.tick(), if !is_telling => {
                    if link.holdings.has_changed() {
                        is_telling = true;
                        // A crowd is told without pauses.
                        tells.reset_immediately();
                        work.push(Box::pin(ask.clone().tell()));
                    }
                }
            }
        }
    }

    /// Takes back all that was told.
    async fn leave(self) {
        let mut forget = redis::cmd("DEL");
        forget.arg(self.ask.key("alive:", &self.ask.instance));
        let _ = timeout(self.ask.background(), self.connection.sender().send(&[forget])).await;
    }
}

/// What is needed to ask.
#[derive(Clone)]
struct AskStore {
    link: Arc<Link>,
    sender: Sender,
    scripts: Scripts,
    instance: Arc<str>,
    telling: Arc<Telling>,
    prefix: Arc<str>,
}

impl AskStore {
    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}{name}", self.prefix)
    }

    fn client_key(&self, kind: &str, client: ClientDigest) -> String {
        let digest: String = client.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.key(kind, &digest)
    }

    fn list_keys(&self) -> [String; 2] {
        [self.key("denied", ""), self.key("denied:version", "")]
    }

    fn background(&self) -> Duration {
        self.link.written.timeout.duration().max(BACKGROUND_MIN)
    }

    async fn within(self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
        let limit = self.background();
        timeout(limit, self.sender.send(&commands)).await.map_err(|_| StoreError::late())?
    }

    /// Counts are read when the batch goes out, in the same poll.
    async fn questions(self, mut batch: Vec<Question>) -> Result<Did, StoreError> {
        batch.retain(|question| !question.reply.is_closed());
        if batch.is_empty() {
            return Ok(Did::Questions);
        }
        let commands: Vec<Cmd> = batch.iter().map(|question| self.question(question)).collect();
        let limit = self.link.written.timeout.duration();
        let answers = timeout(limit, self.sender.send(&commands)).await.map_err(|_| StoreError::late())??;
        for (question, answer) in batch.into_iter().zip(answers) {
            let _ = question.reply.send(Ok(verdict(answer)?));
        }
        Ok(Did::Questions)
    }

    fn question(&self, question: &Question) -> Cmd {
        let ask = &question.ask;
        let micros = |span: Duration| u64::try_from(span.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let interval = ask.pace.map_or(0, |pace| micros(pace.interval()));
        // A whole number of slots, so that rounding takes none away.
        let slots = ask.pace.map_or(0, |pace| pace.burst());
        let most = ask.sessions.map_or(-1, i64::from);
        let keys = [self.client_key("rate:", ask.client), self.client_key("held:", ask.client)];
        let mut command = script(&self.scripts.enter, &keys);
        command.arg(interval).arg(interval.saturating_mul(slots)).arg(most).arg(&*self.instance);
        command.arg(self.link.holdings.count(ask.client)).arg(self.key("alive:", "")).arg(millis(KEPT));
        command
    }

    async fn tell(self) -> Result<Did, StoreError> {
        let changed = self.telling.take_changed(TELL_MAX);
        if changed.is_empty() {
            return Ok(Did::Told);
        }
        let keys: Vec<String> = changed.iter().map(|(client, _)| self.client_key("held:", *client)).collect();
        let mut command = script(&self.scripts.tell, &keys);
        let counts: Vec<u32> = changed.iter().map(|(_, count)| *count).collect();
        command.arg(&*self.instance).arg(millis(KEPT)).arg(counts);
        self.within(vec![command]).await?;
        Ok(Did::Told)
    }

    async fn beat(self) -> Result<BeatAnswer, StoreError> {
        let keys = [self.key("alive:", &self.instance), self.key("denied:version", "")];
        let mut command = script(&self.scripts.beat, &keys);
        command.arg(millis(LEASE));
        let answer = first(self.sender.send(&[command]).await?)?;
        match list(answer)?.as_slice() {
            [was, version, millis] => {
                Ok(BeatAnswer { was_there: number(was)? > 0, version: number(version)?, millis: number(millis)? })
            }
            _ => Err(StoreError::new(Away::Error, "a sign of life has another answer")),
        }
    }

    async fn list(self) -> Result<Did, StoreError> {
        let command = script(&self.scripts.list, &self.list_keys());
        let mut answer = list(first(self.within(vec![command]).await?)?)?.into_iter();
        let version = answer.next().map_or(Ok(0), |version| number(&version))?;
        let mut entries = HashMap::new();
        while let (Some(subject), Some(entry)) = (answer.next(), answer.next()) {
            // What others have written there is none of ours.
            if let (Ok(subject), Some(entry)) =
                (text(subject), text(entry).ok().as_deref().and_then(DeniedEntry::from_text))
            {
                entries.insert(subject.into(), entry);
            }
        }
        Ok(Did::List(version, entries))
    }

    async fn give_back(self, missing: Vec<(String, DeniedEntry)>, known: u64) -> Result<Did, StoreError> {
        for part in missing.chunks(GIVE_BACK_MAX) {
            let commands = part.iter().map(|(subject, entry)| self.deny(subject, entry, known)).collect();
            self.clone().within(commands).await?;
        }
        Ok(Did::GaveBack)
    }

    fn deny(&self, subject: &str, entry: &DeniedEntry, known: u64) -> Cmd {
        let mut command = script(&self.scripts.deny, &self.list_keys());
        command.arg(subject).arg(entry.to_text()).arg(DENIED_MAX).arg(known);
        command
    }

    async fn order(self, order: Order) -> Result<Did, StoreError> {
        let Order { subject, entry, done } = order;
        let command = match &entry {
            Some(entry) => self.deny(&subject, entry, 0),
            None => {
                let mut command = script(&self.scripts.allow, &self.list_keys());
                command.arg(&*subject);
                command
            }
        };
        let answer = self.within(vec![command]).await.and_then(first).and_then(list);
        let answer = answer.and_then(|answer| match answer.as_slice() {
            [said, version] => Ok((number(said)?, number(version)?)),
            _ => Err(StoreError::new(Away::Error, "a change of the list has another answer")),
        });
        let (reply, did) = match (answer, entry) {
            (Ok((1, _)), Some(_)) => (Err(DenyError::Full(DeniedFull)), Ok(Did::Order)),
            (Ok((_, version)), Some(_)) => (Ok(Ordered { has_changed: true, version }), Ok(Did::Order)),
            (Ok((count, version)), None) => (Ok(Ordered { has_changed: count > 0, version }), Ok(Did::Order)),
            (Err(error), _) => (Err(DenyError::Away(error.away)), Err(error)),
        };
        let _ = done.send(reply);
        did
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn first(answers: Vec<Value>) -> Result<Value, StoreError> {
    answers.into_iter().next().ok_or_else(|| StoreError::new(Away::Error, "there is no answer"))
}

fn verdict(answer: Value) -> Result<Verdict, StoreError> {
    match list(answer)?.as_slice() {
        [Value::Int(0), _] => Ok(Verdict::Allowed),
        [Value::Int(1), wait] => Ok(Verdict::TooFast(Duration::from_micros(number(wait)?))),
        [Value::Int(2), _] => Ok(Verdict::TooMany),
        _ => Err(StoreError::new(Away::Error, "a question has another answer")),
    }
}
