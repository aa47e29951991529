//! Startup: puts the first configuration in force, on new sockets or those of the process before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch as latest;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::active_config::ActiveConfig;
use super::background::{EvictionStates, start_discovery, start_tasks};
use super::compile::{Compiled, compile};
use super::context::CompileContext;
use super::evict::denied;
use super::evict::drains::Drains;
use super::known;
use super::listeners::{self, AdminEndpoint, Bindings, Listeners};
use super::reload::{Loader, commit_certificates};
use super::upgrades::Upgrades;
use super::{ControlHandle, Controller, ProcessOrigin, REQUESTS_MAX, ReloadError, watchdog as watchdog_task};
use crate::config::{Finding, Loaded};
use crate::handover::{Activated, Predecessors, PreparedSuccessor};
use crate::server::accepting;
use crate::telemetry::panics::{self, PanicSite};

/// What the rest of the process gets once the first configuration is in force.
#[derive(Debug)]
pub struct Started {
    /// The handle of the controller.
    pub handle: ControlHandle,
    /// The address of the admin listener, now and after each change.
    pub admin: latest::Receiver<Option<AdminEndpoint>>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The first configuration, built but not in force: nothing of it can be noticed from outside yet.
struct Built {
    compiled: Compiled,
    listeners: Listeners,
    bound: Bindings,
    admin: Option<AdminEndpoint>,
    tasks: BTreeMap<String, JoinSet<()>>,
}

impl Built {
    async fn new(loaded: &Loaded, context: &CompileContext, mut listeners: Listeners) -> Result<Built, ReloadError> {
        let mut compiled = compile(loaded, context, None)?;
        let bound = listeners.bind(&compiled, None)?;
        let admin = listeners.bind_admin(&loaded.file, &compiled, None)?;
        context.own.set(listeners.all_addresses(&bound, [admin.as_ref()]));
        let mut tasks = BTreeMap::new();
        compiled.fetch_keys();
        compiled.start_sharing(context, None).await;
        start_discovery(&mut compiled, &mut tasks, &context.ending).await;
        Ok(Built { compiled, listeners, bound, admin, tasks })
    }
}

impl Controller {
    /// Puts the first configuration in force: binds the listeners, waits a while for the first endpoints of upstreams that
    /// discover theirs (without them all requests would get 503; clients that connect meanwhile wait in the backlog), and
    /// lets the workers accept. `loader` reads the configuration again for a reload.
    ///
    /// A process that takes over from another one prepares all this, and accepts only when the other one tells it to.
    ///
    /// # Errors
    /// See [`ReloadError`]; no socket is left listening.
    pub async fn start(
        loaded: Loaded,
        loader: Option<Loader>,
        context: CompileContext,
        workers: Vec<mpsc::UnboundedSender<accepting::AcceptCommand>>,
        origin: ProcessOrigin,
    ) -> Result<(Controller, Started), ReloadError> {
        let ProcessOrigin { successor, sockets, succession, notifier, watchdog, cancelled } = origin;
        let (prepared, inheritance) = match successor {
            Some(successor) => {
                let (prepared, inheritance) = successor.receive_offer().await?;
                (Some(prepared), inheritance)
            }
            None => (None, sockets),
        };
        let built =
            Built::new(&loaded, &context, Listeners::new(workers, inheritance, context.wait_limits.workers)).await;
        let (built, mut activated) = match (built, prepared) {
            (Ok(built), Some(prepared)) => (built, Some(await_takeover(prepared, cancelled).await?)),
            (Ok(built), None) => (built, None),
            (Err(refused), prepared) => {
                if let Some(prepared) = prepared {
                    prepared.refuse(&refused.to_string()).await;
                }
                return Err(refused);
            }
        };
        let Built { mut compiled, mut listeners, mut bound, mut admin, mut tasks } = built;
        if let Some(activated) = &mut activated {
            activated.predecessors().show(&context.states, &context.families.handover);
        }
        listeners::take_charge(listeners::all_sockets(&mut bound, &mut admin))?;
        let mut evictions = EvictionStates::new();
        for (name, upstream) in &mut compiled.upstreams {
            start_tasks(upstream, tasks.entry(name.clone()).or_default(), &context, &[], &mut evictions);
        }
        let known = activated.as_mut().map(Activated::take_known).unwrap_or_default();
        known::take_standings(&known, &compiled);
        known::take_denied(&known, &context.shared.denied);
        listeners.open(bound, &compiled).await;
        let (mut drains, drains_seen) = Drains::new(Arc::clone(&context.sessions));
        known::take_drains(&known, &mut drains, &compiled, &mut listeners, &context).await;
        let (inherited, unwanted) = listeners.finish_inheritance();
        context.families.handover.inherited(inherited);
        let predecessors = match activated {
            Some(activated) => {
                context.families.handover.upgraded(activated.upgrades());
                activated.confirm(unwanted).await
            }
            None => {
                for address in unwanted.left() {
                    tracing::warn!(%address, "closing a socket of the service manager: no listener uses its address");
                }
                Predecessors::default()
            }
        };
        commit_certificates(&context, &mut compiled);
        known::take_tickets(&known, &context.families.certificates);
        let warnings = std::mem::take(&mut compiled.warnings);
        // Whoever loaded it has logged the first.
        let warned = loaded.warnings.iter().map(Finding::summary).chain(warnings.iter().cloned()).collect();
        let in_force = Arc::new(ArcSwap::from_pointee(ActiveConfig::new(loaded, &compiled, &listeners)));
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (admin, admin_seen) = latest::channel(admin);
        let (successor, successor_seen) = latest::channel(None);
        let (moved, moved_seen) = latest::channel(false);
        let certificates = context.families.certificates.clone();
        let handle = ControlHandle {
            requests: sender,
            in_force: Arc::clone(&in_force),
            drains: drains_seen,
            certificates,
            successor: successor_seen,
            moved: moved_seen,
            handovers: context.families.handover.clone(),
        };
        let metrics = context.families.control.clone();
        let (states, handovers) = (context.states.clone(), context.families.handover.clone());
        let upgrades = Upgrades::new(succession, predecessors, states, handovers);
        let notifier = Arc::new(notifier);
        let watchdog = watchdog.map(|span| watchdog_task::run(Arc::clone(&notifier), span, context.pulse.clone()));
        let mut closing_denied = JoinSet::new();
        let (list, sessions) = (Arc::clone(&context.shared.denied), Arc::clone(&context.sessions));
        closing_denied.spawn(async move {
            let run = || denied::run(&list, &sessions);
            panics::keep(PanicSite::Control, "closing sessions of denied subjects", run).await;
        });
        let control = Controller {
            context,
            metrics,
            loader,
            pending_reload: None,
            hanging: Arc::default(),
            queued: VecDeque::new(),
            checks: JoinSet::new(),
            check_permit: Arc::new(Semaphore::new(1)),
            requests,
            warned,
            in_force,
            compiled,
            listeners,
            tasks,
            admin,
            drains,
            evictions,
            sweeps: BTreeMap::new(),
            reload_interrupted: false,
            upgrades,
            successor,
            moved: Arc::new(moved),
            notifier,
            watchdog: watchdog.into_iter().collect(),
            report: JoinSet::new(),
            closing_denied,
        };
        control.record_in_force();
        control.notify_ready();
        Ok((control, Started { handle, admin: admin_seen, warnings }))
    }
}

/// Waits until the old process hands over, unless this process must end before.
async fn await_takeover(
    prepared: PreparedSuccessor,
    cancelled: Option<latest::Receiver<bool>>,
) -> Result<Activated, ReloadError> {
    let cancellation = async {
        let is_cancelled = match cancelled {
            Some(mut cancelled) => cancelled.wait_for(|is_cancelled| *is_cancelled).await.is_ok(),
            None => false,
        };
        // The sender is gone: nothing can cancel any more.
        if !is_cancelled {
            std::future::pending().await
        }
    };
    tokio::select! {
        // Once the old process has handed over, this one takes over, and ends as usual.
        biased;
        activated = prepared.ready() => Ok(activated?),
        () = cancellation => Err(ReloadError::Ending),
    }
}
