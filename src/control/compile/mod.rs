//! File → snapshot and listeners: names resolved, certificates read, tables built, metric handles fetched.
//!
//! Whole or not at all: every mistake that only the world outside the file can tell (a certificate that is not there, a
//! key that does not fit) is reported together, at its place in the file, and nothing is built then.

mod discovery;
mod health;
mod listener;
mod route;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use listener::{CompiledListener, address};
pub use route::CompiledRoute;
pub use upstream::{CompiledUpstream, EvictionPolicy, RebalanceRule, UpstreamTasks};

use super::context::CompileContext;
use crate::config::{self, AdminToken, Config, ConfigErrors, Finding, KeyPath, Loaded, Source};
use crate::proxy;
use crate::proxy::snapshot::Snapshot;
use crate::route::RouteTable;
use crate::session::access_log::AccessLog;
use crate::tls::TlsError;
use crate::tls::certificates::{self, CertificateScan, Part};

/// A configuration ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// In the order of the file.
    pub listeners: Vec<CompiledListener>,
    /// By name.
    pub routes: BTreeMap<String, CompiledRoute>,
    /// By name.
    pub upstreams: BTreeMap<String, CompiledUpstream>,
    /// What opens the API of the admin listener, if it is not open.
    pub tokens: Vec<AdminToken>,
    /// What was read of certificates, until it is committed.
    pub certificates: Option<CertificateScan>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Builds all of it. What is the same as in `previous`, the files that it names included, is taken from there.
///
/// # Errors
/// Everything that is wrong, at its place in the file.
pub fn compile(
    loaded: &Loaded,
    context: &CompileContext,
    previous: Option<&Compiled>,
) -> Result<Compiled, ConfigErrors> {
    let file = &loaded.file;
    let log = context.access_log(file);
    let certificates = context.families.certificates.prepare(SystemTime::now());
    let source = &loaded.source;
    let connect_times = connect_times(file);
    let mut compiler =
        Compiler { context, source, previous, log, certificates, connect_times, errors: vec![], warnings: vec![] };
    let upstreams: BTreeMap<String, CompiledUpstream> =
        file.upstreams.iter().map(|(name, upstream)| (name.clone(), compiler.upstream(file, name, upstream))).collect();
    let mut table = vec![];
    let mut routes = BTreeMap::new();
    for written in &file.routes {
        // `config::check` has already complained about a name that is not there.
        let Some(CompiledUpstream { upstream, .. }) = upstreams.get(&written.upstream) else { continue };
        let route = compiler.route(file, written, upstream);
        table.push((written.matches.clone(), written.paths, Arc::clone(&route)));
        routes.insert(written.name.clone(), CompiledRoute { written: written.clone(), route });
    }
    let snapshot = Arc::new(Snapshot { table: RouteTable::new(table) });
    let listeners = file.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| compiler.listener(index, listener, &snapshot)).collect();
    let tokens = file.admin.as_ref().map_or_else(Vec::new, |admin| compiler.tokens(admin));
    let (certificates, warnings) = compiler.finish()?;
    Ok(Compiled { listeners, routes, upstreams, tokens, certificates: Some(certificates), warnings })
}

/// How many mistakes are told, as in a file.
const FINDINGS_MAX: usize = 50;

/// Whether files that a configuration names are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChecks {
    /// They are read as they would be to run it.
    Inside,
    /// Not even whether they exist: whoever sent the text may not ask that of this machine.
    Nowhere,
}

/// Says whether it can be built, as [`compile`] does, and builds nothing: routes, listeners and endpoints with their counters
/// take far more room than the file.
///
/// # Errors
/// Everything that is wrong, at its place in the file.
pub fn examine(loaded: &Loaded, look: FileChecks) -> Result<Vec<String>, ConfigErrors> {
    let file = &loaded.file;
    let context = CompileContext::for_check();
    let certificates = context.families.certificates.prepare(SystemTime::now());
    let mut compiler = Compiler {
        context: &context,
        source: &loaded.source,
        previous: None,
        log: AccessLog::off(),
        certificates,
        connect_times: HashMap::new(),
        errors: vec![],
        warnings: vec![],
    };
    for (name, upstream) in &file.upstreams {
        compiler.examine_upstream(name, upstream, look);
    }
    if look == FileChecks::Inside {
        for (index, listener) in file.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                let path = KeyPath::root().key("listeners").index(index).key("tls");
                compiler.server_tls(&path, &listener.name, tls);
            }
        }
        file.admin.iter().for_each(|admin| drop(compiler.tokens(admin)));
    } else if !file.files().is_empty() {
        let message = "the files that this names were not looked at: who sends a text is not told which files there are \
                       (`wsluice check` looks)";
        compiler.warnings.push(message.to_owned());
    }
    let (_, warnings) = compiler.finish()?;
    Ok(warnings)
}

/// How long it may take to connect to each upstream. Each route has its own time; connections of the pool are shared by
/// routes and take the longest.
fn connect_times(file: &Config) -> HashMap<&str, Duration> {
    let mut times: HashMap<&str, Duration> = HashMap::new();
    for route in &file.routes {
        let longest = times.entry(&route.upstream).or_default();
        *longest = route.timeouts.connect.duration().max(*longest);
    }
    times
}

impl Compiled {
    /// The listener of this name.
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
    errors: Vec<Finding>,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    /// Notes a failure at `path`; `None` keeps the compilation going, to find all of them.
    fn ok_or_report<T>(&mut self, path: &KeyPath, result: Result<T, TlsError>) -> Option<T> {
        result.map_err(|error| self.report(path, proxy::outcome::chain(&error))).ok()
    }

    /// Notes what is wrong at `path`, while somebody reads on.
    fn report(&mut self, path: &KeyPath, message: impl Into<String>) {
        if self.errors.len() < FINDINGS_MAX {
            self.errors.push(self.source.error(path, message, None));
        }
    }

    /// The same of what has several parts, each with a place of its own.
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

    /// The certificates that were read, and all warnings.
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
