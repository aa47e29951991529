//! The start of the process: the first configuration, on sockets of its own or of the process before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::active_config::ActiveConfig;
use super::background::{EvictionStates, attend, discover};
use super::compile::{Compiled, compile};
use super::context::CompileContext;
use super::evict::drains::Drains;
use super::listeners::{self, AdminEndpoint, Bindings, Openings};
use super::reload::{Loader, commit};
use super::upgrades::Upgrades;
use super::{ControlHandle, Controller, ORDERS_MAX, ProcessOrigin, ReloadError, alive};
use crate::config::Loaded;
use crate::handover::{Activated, Predecessors, PreparedSuccessor};
use crate::server::accepting;

/// What runs with the first configuration.
#[derive(Debug)]
pub struct Started {
    /// The way to it.
    pub handle: ControlHandle,
    /// Where the admin listener is to be.
    pub door: latest::Receiver<Option<AdminEndpoint>>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The first configuration, with all that it needs to be put in force, and nothing that could be noticed from outside.
struct Built {
    compiled: Compiled,
    openings: Openings,
    bound: Bindings,
    admin: Option<AdminEndpoint>,
    tasks: BTreeMap<String, JoinSet<()>>,
}

impl Built {
    async fn new(loaded: &Loaded, context: &CompileContext, mut openings: Openings) -> Result<Built, ReloadError> {
        let mut compiled = compile(loaded, context, None)?;
        let bound = openings.bind(&compiled, None)?;
        let admin = openings.bind_admin(&loaded.file, &compiled, None)?;
        context.own.set(openings.where_we_are(&bound, [admin.as_ref()]));
        let mut tasks = BTreeMap::new();
        discover(&mut compiled, &mut tasks, &context.ending).await;
        Ok(Built { compiled, openings, bound, admin, tasks })
    }
}

impl Controller {
    /// Puts the first configuration in force: binds, waits a while for the first endpoints of all upstreams that are told
    /// theirs (a proxy without them would only have 503 to give; clients that come meanwhile wait in the listeners'
    /// backlog), and has the workers accept. `loader` reads it again.
    ///
    /// A process that is to take over does all but the last, and that only when it is told to.
    ///
    /// # Errors
    /// See [`ReloadError`]; nothing is left listening then.
    pub async fn start(
        loaded: Loaded,
        loader: Option<Loader>,
        context: CompileContext,
        workers: Vec<mpsc::UnboundedSender<accepting::AcceptCommand>>,
        origin: ProcessOrigin,
    ) -> Result<(Controller, Started), ReloadError> {
        let ProcessOrigin { successor, sockets, succession, notifier, watchdog, given_up } = origin;
        let (heir, inheritance) = match successor {
            Some(successor) => {
                let (heir, inheritance) = successor.inventory().await?;
                (Some(heir), inheritance)
            }
            None => (None, sockets),
        };
        let built = Built::new(&loaded, &context, Openings::new(workers, inheritance, context.patience.workers)).await;
        let (built, mut promoted) = match (built, heir) {
            (Ok(built), Some(heir)) => (built, Some(promotion(heir, given_up).await?)),
            (Ok(built), None) => (built, None),
            (Err(refused), heir) => {
                if let Some(heir) = heir {
                    heir.refuse(&refused.to_string()).await;
                }
                return Err(refused);
            }
        };
        let Built { mut compiled, mut openings, mut bound, mut admin, mut tasks } = built;
        if let Some(promoted) = &mut promoted {
            promoted.predecessors().show(&context.lives, &context.families.handover);
        }
        listeners::take_charge(listeners::all(&mut bound, &mut admin))?;
        let mut evictions = EvictionStates::new();
        for (name, upstream) in &mut compiled.upstreams {
            attend(upstream, tasks.entry(name.clone()).or_default(), &context, &[], &mut evictions);
        }
        openings.open(bound, &compiled).await;
        let (inherited, unwanted) = openings.settle_inheritance();
        context.families.handover.inherited(inherited);
        let predecessors = match promoted {
            Some(promoted) => {
                context.families.handover.upgraded(promoted.upgrades());
                promoted.taken(unwanted).await
            }
            None => {
                for address in unwanted.left() {
                    tracing::warn!(%address, "closing a socket of the service manager: no listener is there");
                }
                Predecessors::default()
            }
        };
        commit(&context, &mut compiled);
        let warnings = std::mem::take(&mut compiled.warnings);
        let in_force = Arc::new(ArcSwap::from_pointee(ActiveConfig::new(loaded, &compiled, &openings)));
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (door, door_seen) = latest::channel(admin);
        let (drains, drains_seen) = Drains::new(Arc::clone(&context.sessions));
        let (successor, successor_seen) = latest::channel(None);
        let certificates = context.families.certificates.clone();
        let handle = ControlHandle {
            orders: sender,
            in_force: Arc::clone(&in_force),
            drains: drains_seen,
            certificates,
            successor: successor_seen,
            handovers: context.families.handover.clone(),
        };
        let metrics = context.families.control.clone();
        let (lives, handovers) = (context.lives.clone(), context.families.handover.clone());
        let upgrades = Upgrades::new(succession, predecessors, lives, handovers);
        let notifier = Arc::new(notifier);
        let watchdog = watchdog.map(|span| alive::run(Arc::clone(&notifier), span, context.pulse.clone()));
        let control = Controller {
            context,
            metrics,
            loader,
            reading: None,
            hanging: Arc::default(),
            behind: VecDeque::new(),
            checks: JoinSet::new(),
            checking: Arc::new(Semaphore::new(1)),
            orders,
            in_force,
            compiled,
            openings,
            tasks,
            door,
            drains,
            evictions,
            sweeps: BTreeMap::new(),
            is_suspect: false,
            upgrades,
            successor,
            notifier,
            watchdog: watchdog.into_iter().collect(),
            report: JoinSet::new(),
        };
        control.tell_in_force();
        control.say_ready();
        Ok((control, Started { handle, door: door_seen, warnings }))
    }
}

/// Waits for the word to take over, unless this process is told to end before.
async fn promotion(
    heir: PreparedSuccessor,
    given_up: Option<latest::Receiver<bool>>,
) -> Result<Activated, ReloadError> {
    let is_given_up = async {
        let is_so = match given_up {
            Some(mut given_up) => given_up.wait_for(|is_so| *is_so).await.is_ok(),
            None => false,
        };
        // Otherwise nobody can tell any more.
        if !is_so {
            std::future::pending().await
        }
    };
    tokio::select! {
        // Who has the word takes over, and ends as others do.
        biased;
        promoted = heir.ready() => Ok(promoted?),
        () = is_given_up => Err(ReloadError::Ending),
    }
}
