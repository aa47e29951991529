//! Compiles a configuration file into a snapshot and listeners: resolves names, reads certificates, builds tables, fetches
//! metric handles.
//!
//! It succeeds as a whole or not at all. Mistakes that the file alone cannot show (a missing certificate, a key that does not
//! match) are all reported together, each at its position in the file.

mod auth;
mod connector;
mod discovery;
mod health;
mod listener;
mod pages;
mod route;
mod shared;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

pub use auth::KeyFiles;
pub use listener::{CompiledListener, address, address_rules};
pub use pages::Pages;
pub use route::CompiledRoute;
pub use upstream::{CompiledUpstream, EvictionPolicy, RebalanceRule, UpstreamTasks};

use super::context::CompileContext;
use crate::auth::Keys;
use crate::base::error_chain::error_chain;
use crate::config::{self, AdminToken, Config, ConfigErrors, Finding, KeyPath, Loaded, OnUpgrade, Source};
use crate::proxy::snapshot::Snapshot;
use crate::route::RouteTable;
use crate::session::access_log::AccessLog;
use crate::shared::SharedStore;
use crate::tls::certificates::{self, CertificateScan, Part};

/// How long to wait for the first answer of a store.
const STORE_WAIT: Duration = Duration::from_secs(3);

/// A configuration ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// The listeners, in the order of the file.
    pub listeners: Vec<CompiledListener>,
    /// The routes, by name.
    pub routes: BTreeMap<String, CompiledRoute>,
    /// The upstreams, by name.
    pub upstreams: BTreeMap<String, CompiledUpstream>,
    /// The files that routes send.
    pub pages: Pages,
    /// The files of keys that verify credentials.
    pub key_files: KeyFiles,
    /// What limits and lists are shared by, if they are.
    pub store: Option<Arc<SharedStore>>,
    /// The tokens of the admin API; empty if it needs none.
    pub tokens: Vec<AdminToken>,
    /// The certificates that were read, until they are committed.
    pub certificates: Option<CertificateScan>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// Compiles a configuration. Parts that are the same as in `previous`, files that they name included, are taken from there.
///
/// # Errors
/// All mistakes, each at its position in the file.
pub fn compile(
    loaded: &Loaded,
    context: &CompileContext,
    previous: Option<&Compiled>,
) -> Result<Compiled, ConfigErrors> {
    let file = &loaded.file;
    let log = context.access_log(file);
    let certificates = context
        .families
        .certificates
        .prepare(SystemTime::now())
        .connections_may_move(matches!(file.on_upgrade, OnUpgrade::Move(_)));
    let source = &loaded.source;
    let connect_times = connect_times(file);
    let mut compiler = Compiler {
        context,
        source,
        previous,
        log,
        certificates,
        connect_times,
        pages: Pages::new(),
        key_files: KeyFiles::new(),
        store: None,
        errors: vec![],
        warnings: vec![],
    };
    compiler.store = file.shared.as_ref().and_then(|shared| compiler.store_of(shared));
    let upstreams: BTreeMap<String, CompiledUpstream> =
        file.upstreams.iter().map(|(name, upstream)| (name.clone(), compiler.upstream(file, name, upstream))).collect();
    let mut table = vec![];
    let mut routes = BTreeMap::new();
    for (index, written) in file.routes.iter().enumerate() {
        let Some(compiled) = compiler.route(file, index, written, &upstreams) else { continue };
        table.push((written.matches.clone(), written.paths, compiled.action.clone()));
        routes.insert(written.name.clone(), compiled);
    }
    let denied = Arc::clone(&context.shared.denied);
    let snapshot = Arc::new(Snapshot { table: RouteTable::new(table), denied });
    let listeners = file.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| compiler.listener(index, listener, &snapshot)).collect();
    let tokens = file.admin.as_ref().map_or_else(Vec::new, |admin| compiler.tokens(admin));
    let pages = std::mem::take(&mut compiler.pages);
    let key_files = std::mem::take(&mut compiler.key_files);
    let store = compiler.store.take();
    let (certificates, warnings) = compiler.finish()?;
    Ok(Compiled {
        listeners,
        routes,
        upstreams,
        pages,
        key_files,
        store,
        tokens,
        certificates: Some(certificates),
        warnings,
    })
}

/// The most mistakes that are reported.
const FINDINGS_MAX: usize = 50;

/// Whether a check reads the files that a configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChecks {
    /// They are read, as for a start.
    Inside,
    /// They are not touched: whoever sent the text must not learn which files exist here.
    Nowhere,
}

/// Checks whether a configuration compiles, and returns the warnings. It builds nothing: routes, listeners and endpoints with
/// their counters take far more memory than the file.
///
/// # Errors
/// All mistakes, each at its position in the file.
pub fn examine(loaded: &Loaded, file_checks: FileChecks) -> Result<Vec<String>, ConfigErrors> {
    let file = &loaded.file;
    let context = CompileContext::for_check();
    let certificates = context
        .families
        .certificates
        .prepare(SystemTime::now())
        .connections_may_move(matches!(file.on_upgrade, OnUpgrade::Move(_)));
    let mut compiler = Compiler {
        context: &context,
        source: &loaded.source,
        previous: None,
        log: AccessLog::off(),
        certificates,
        connect_times: HashMap::new(),
        pages: Pages::new(),
        key_files: KeyFiles::new(),
        store: None,
        errors: vec![],
        warnings: vec![],
    };
    for (name, upstream) in &file.upstreams {
        compiler.examine_upstream(name, upstream, file_checks);
    }
    if file_checks == FileChecks::Inside {
        for (index, listener) in file.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                let path = KeyPath::root().key("listeners").index(index).key("tls");
                compiler.server_tls(&path, &listener.name, tls, &listener.protocols());
            }
        }
        for (index, route) in file.routes.iter().enumerate() {
            compiler.pages_of(index, route);
            compiler.auth_sources(index, route);
        }
        file.admin.iter().for_each(|admin| drop(compiler.tokens(admin)));
        file.shared.iter().for_each(|shared| drop(compiler.store_of(shared)));
    } else if !file.files().is_empty() {
        let message = "the files that this names were not looked at: a text that is sent must not reveal which files exist \
                       (`wsluice check` looks)";
        compiler.warnings.push(message.to_owned());
    }
    let (_, warnings) = compiler.finish()?;
    Ok(warnings)
}

/// Returns the time to connect to each upstream. Each route has its own; pooled connections are shared by routes and get the
/// longest.
fn connect_times(file: &Config) -> HashMap<&str, Duration> {
    let mut times: HashMap<&str, Duration> = HashMap::new();
    for route in &file.routes {
        let Some(upstream) = &route.upstream else { continue };
        let longest = times.entry(upstream).or_default();
        *longest = route.timeouts.connect.duration().max(*longest);
    }
    times
}

impl Compiled {
    /// Starts fetching the keys that routes need, where it is not done yet.
    pub fn fetch_keys(&self) {
        for keys in self.routes.values().filter_map(|route| route.auth.keys.as_ref()) {
            if let Keys::Remote(remote) = keys {
                remote.start();
            }
        }
    }

    /// Begins to share what is to be shared. Returns when it is known whether the store answers, or after a while: without its list
    /// of denied subjects they would be let in.
    pub async fn start_sharing(&self, context: &CompileContext, before: Option<&Arc<SharedStore>>) {
        if let Some(before) = before
            && self.store.as_ref().is_none_or(|store| !Arc::ptr_eq(store, before))
        {
            before.stop().await;
        }
        match &self.store {
            Some(store) => {
                store.start();
                let _ = timeout(STORE_WAIT, store.settled()).await;
            }
            None => context.shared.denied.leave(),
        }
    }

    /// Returns the listener of this name.
    pub fn listener(&self, name: &str) -> Option<&CompiledListener> {
        self.listeners.iter().find(|listener| listener.written.name == name)
    }
}

struct Compiler<'a> {
    context: &'a CompileContext,
    source: &'a Source,
    previous: Option<&'a Compiled>,
    log: AccessLog,
    certificates: CertificateScan,
    connect_times: HashMap<&'a str, Duration>,
    pages: Pages,
    key_files: KeyFiles,
    store: Option<Arc<SharedStore>>,
    errors: Vec<Finding>,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    /// Reports an error at `path` and returns `None`, so that the compilation goes on and finds all of them.
    fn ok_or_report<T>(&mut self, path: &KeyPath, result: Result<T, impl std::error::Error + 'static>) -> Option<T> {
        result.map_err(|error| self.report(path, error_chain(&error))).ok()
    }

    /// Reports a mistake at `path`, up to the limit.
    fn report(&mut self, path: &KeyPath, message: impl Into<String>) {
        if self.errors.len() < FINDINGS_MAX {
            self.errors.push(self.source.error(path, message, None));
        }
    }

    /// Like [`ok_or_report`](Self::ok_or_report), for several errors with a position each.
    fn ok_or_report_all<T>(
        &mut self,
        result: Result<T, certificates::Errors>,
        place: impl Fn(Part) -> KeyPath,
    ) -> Option<T> {
        let errors = match result {
            Ok(built) => return Some(built),
            Err(errors) => errors,
        };
        for (part, error) in errors {
            self.ok_or_report::<()>(&place(part), Err(error));
        }
        None
    }

    fn tokens(&mut self, admin: &config::Admin) -> Vec<AdminToken> {
        admin.tokens().unwrap_or_else(|problem| {
            let path = KeyPath::root().key("admin").key("token_file");
            self.report(&path, problem);
            vec![]
        })
    }

    /// Returns the certificates that were read and all warnings, or the mistakes.
    fn finish(self) -> Result<(CertificateScan, Vec<String>), ConfigErrors> {
        let Compiler { source, certificates, errors, mut warnings, .. } = self;
        if !errors.is_empty() {
            return Err(ConfigErrors::new(source, errors));
        }
        warnings.extend_from_slice(certificates.warnings());
        warnings.extend(certificates.refused().iter().map(ToString::to_string));
        Ok((certificates, warnings))
    }
}
