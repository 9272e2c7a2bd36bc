//! tunneld's floors, lowest first: words (`addr`, `failure`, `prompt`), `config`, `session`, `forward`,
//! `tunnel`, `supervisor`, `control`. Imports run downward only. [`run`] is the order of start and stop.

pub mod backoff;
pub mod check;
pub mod control;
mod daemon;

pub mod dynamic;
pub mod failure;
pub mod forward;
mod hooks;
pub mod known_hosts;
pub mod log;
pub mod prompt;

pub mod reload;
pub mod session;
pub mod state_file;
pub mod supervisor;
pub mod tunnel;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunneld_platform::subprocess::TokioPrograms;
use tunneld_proto::endpoint::{self, Endpoint, Listener};
use tunneld_proto::paths::{self, Env};

use control::Context;
use daemon::Daemon;
use log::Log;
use reload::ReloadHandle;
use reload::watcher::Watcher;
use state_file::StateFile;
use supervisor::Supervisor;
use tunneld_config::load::{Loaded, Loader};
use tunneld_config::model::Tunnel;
use tunneld_platform::signals::{Signal, Signals};

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration directory.
    pub config_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The log filter.
    pub log: Option<String>,
    /// The log file.
    pub log_file: Option<PathBuf>,
}

/// Where the configuration is.
///
/// # Errors
/// Where no directory can be told.
pub fn config_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    paths::config_dir(given, &Env::from_process())
        .map_err(|error| with_hint(&error, error.hint()))
        .context("cannot tell the configuration directory")
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What keeps it from beginning: another daemon, an unsafe place, a log that cannot be written.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (log, filter_given) = start_log(&options)?;
    let mut signals = Signals::take().context("cannot take the signals over")?;
    let listener = listen(options.socket.as_deref())?;
    let dir = config_dir(options.config_dir.as_deref())?;

    // Before the first reading, so that what changes meanwhile is seen.
    let mut watcher = Watcher::new(&dir);
    // ssh's own file, which tunnels may take their options from.
    watcher.also(std::env::home_dir().map(|home| home.join(".ssh/config")));
    let loader = Loader::new(
        dir.clone(),
        tunneld_config::env::Env::from_process(),
        Arc::new(TokioPrograms),
    );
    let mut loader = loader.dir_required(options.config_dir.is_some());
    let store = Arc::new(StateFile::open(listener.endpoint().beside("state.json")));
    let reading = async {
        let first = reload::load(&mut loader).await;
        let made = reload::bring_back(&store, &loader, &[]).await;
        (first, made)
    };
    let Some((first, made)) = unless_stopped(&mut signals, reading).await else {
        tracing::info!("stopped before the configuration was read");
        return Ok(());
    };
    if let (false, Some(filter)) = (filter_given, &first.daemon.log)
        && let Err(error) = log.set_filter(filter)
    {
        tracing::warn!("[daemon] log: {error:#}");
    }

    let mut tasks = JoinSet::new();
    let supervisor = Supervisor::start(first.daemon.max_concurrent_connects, &mut tasks);
    let level = (!filter_given).then(|| log.clone());
    let (reloader, reloading) = ReloadHandle::new(
        dir,
        loader,
        &first,
        level,
        store.clone(),
        supervisor.clone(),
    );
    let context = Arc::new(Context {
        supervisor,
        reloader,
        store,
        log,
        socket: listener.endpoint().to_string(),
        notes: listener.endpoint().notes().to_vec(),
        since: jiff::Timestamp::now(),
        clients: AtomicUsize::new(0),
        stopping: CancellationToken::new(),
        stopped: CancellationToken::new(),
    });
    begin(&context, first, made).await;
    let mut daemon = Daemon { context, tasks };
    daemon.serve(listener, reloading, watcher);
    daemon.ready().await;
    daemon.watch(&mut signals).await;
    daemon.stop().await;
    Ok(())
}

/// What comes of `work`; none where a signal says stop before.
async fn unless_stopped<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        // A reload is under way already.
        while signals.next().await != Signal::Stop {}
    };
    tokio::select! {
        done = work => Some(done),
        () = stopped => None,
    }
}

/// The log, and whether its filter was given on the command line or in the environment.
fn start_log(options: &Options) -> anyhow::Result<(Log, bool)> {
    let file = options.log_file.as_deref();
    if let Some(filter) = &options.log {
        return Ok((Log::start(filter, file)?, true));
    }
    let inherited = std::env::var("RUST_LOG")
        .ok()
        .filter(|filter| !filter.is_empty());
    match inherited.map(|filter| (log::parse(&filter).map(drop), filter)) {
        Some((Ok(()), filter)) => Ok((Log::start(&filter, file)?, true)),
        Some((Err(error), _)) => {
            let log = Log::start(log::DEFAULT_FILTER, file)?;
            tracing::warn!("RUST_LOG is left unread: {error:#}");
            Ok((log, false))
        }
        None => Ok((Log::start(log::DEFAULT_FILTER, file)?, false)),
    }
}

fn listen(given: Option<&Path>) -> anyhow::Result<Listener> {
    let endpoint = Endpoint::resolve(given, &Env::from_process())
        .map_err(|error| with_hint(&error, error.hint()))?;
    for note in endpoint.notes() {
        tracing::warn!("{note}");
    }
    endpoint::listen(&endpoint).map_err(|error| with_hint(&error, &error.hint()))
}

/// One error of the words, its causes and its hint.
fn with_hint(error: &dyn std::error::Error, hint: &str) -> anyhow::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    anyhow::anyhow!("{text}\n  hint: {hint}")
}

/// The first tunnels.
async fn begin(context: &Context, first: Loaded, made: Vec<Tunnel>) {
    let Context {
        supervisor, store, ..
    } = context;
    supervisor.set_desired(store.desired()).await;
    let count = first.tunnels.len();
    if first.faults.is_empty() {
        let known: Vec<&str> = first
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        store.unwant_all_but(&known);
    }
    if let Err(error) = supervisor.apply(first.tunnels).await {
        tracing::error!("cannot start the tunnels: {error}");
    }
    for tunnel in made {
        let name = tunnel.name.clone();
        if supervisor.add(tunnel).await.is_err() {
            // The configuration has one of that name by now, and goes first.
            store.forget_made(&name);
        }
    }
    tracing::info!(
        "tunneld {} runs: {count} tunnels from {}, commands at {}",
        tunneld_proto::version::VERSION,
        context.reloader.dir().display(),
        context.socket,
    );
}
