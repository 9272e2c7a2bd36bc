//! The daemon: [`run`] starts everything in order and stops it in order.
//!
//! Modules by layer, lowest first; imports run downward only. Words without effects: `backoff`, `failure`, `prompt`.
//! Bytes and sessions: `session` (SSH), `dynamic` (SOCKS), `forward`. Tunnels: `tunnel`, `supervisor`. Around them:
//! `state_file`, `log`, `reload`, `hooks`, `control`, `check`.

pub mod backoff;
pub mod check;
pub mod control;
mod daemon;

pub mod dynamic;
pub mod failure;
pub mod forward;
mod happy_eyeballs;
mod hooks;
pub mod log;
pub mod pac;
pub mod paths;
pub mod prompt;

pub mod reload;
pub mod session;
pub mod state_file;
pub mod supervisor;
pub mod tunnel;
pub mod web;
mod web_page;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunneld_proto::endpoint::{self, Endpoint, Listener};
use tunneld_proto::paths::Env;

use control::ControlContext;
use daemon::Daemon;
use log::Log;
use paths::{config_dir, with_hint};
use reload::watcher::Watcher;
use reload::{ConfigReader, ReloadContext, ReloadTask};
use state_file::StateFile;
use supervisor::Supervisor;
use tunneld_config::load::Loaded;
use tunneld_config::model::Tunnel;
use tunneld_platform::signals::{Signal, Signals};

/// Options of the command line. `None` means the default.
#[derive(Debug, Clone, Default)]
pub struct DaemonOptions {
    /// Configuration directory.
    pub config_dir: Option<PathBuf>,
    /// Control socket: a path, on Windows the name of a pipe.
    pub socket: Option<PathBuf>,
    /// Log filter; it has precedence over `RUST_LOG` and the configuration.
    pub log: Option<String>,
    /// Log file, instead of the journal or standard error.
    pub log_file: Option<PathBuf>,
}

/// Runs the daemon until a signal or `daemon.shutdown` stops it.
///
/// # Errors
/// What prevents the start: another daemon on the same socket, an unsafe folder of the socket, a log that cannot be
/// written. Errors of the configuration do not: they are reported in the status.
pub async fn run(options: DaemonOptions) -> anyhow::Result<()> {
    let (log, filter_fixed) = start_log(&options)?;
    let mut signals = Signals::install().context("cannot install the signal handlers")?;
    // The socket is bound before the configuration is read: a second daemon ends here, before it does anything, and
    // clients that connect early wait in the backlog instead of failing while `ssh -G` runs.
    let listener = listen(options.socket.as_deref())?;
    let dir = config_dir(options.config_dir.as_deref())?;
    if options.log_file.is_some() {
        tunneld_platform::process::release_stderr();
    }

    let state_file = Arc::new(StateFile::open(listener.endpoint().beside("state.json")));
    let reading = FirstReading::read(&dir, options.config_dir.is_some(), &state_file);
    let Some(first) = or_shutdown(&mut signals, reading).await else {
        tracing::info!("stopped before the configuration was read");
        return Ok(());
    };
    let FirstReading {
        watcher,
        reader,
        loaded,
        ad_hoc,
    } = first;
    if let (false, Some(filter)) = (filter_fixed, &loaded.daemon.log)
        && let Err(error) = log.set_filter(filter)
    {
        tracing::warn!("[daemon] log: {error:#}");
    }

    let mut tasks = JoinSet::new();
    let supervisor = Supervisor::start(
        loaded.daemon.max_concurrent_connects,
        state_file.clone(),
        &mut tasks,
    );
    let (daemon_config, daemon_config_in_force) = watch::channel(loaded.daemon.clone());
    let reload = ReloadContext {
        daemon: daemon_config,
        dir,
        reader,
        log: (!filter_fixed).then(|| log.clone()),
        state_file: state_file.clone(),
        supervisor: supervisor.clone(),
    };
    let (reloader, reload_task) = ReloadTask::new(reload, &loaded);
    // Few requests wait: each is a person who opens the page.
    let (web, web_requests) = mpsc::channel(4);
    let web_folder = Some(listener.endpoint().state_dir().to_owned());
    let context = Arc::new(ControlContext {
        web,
        supervisor,
        reloader,
        state_file,
        log,
        socket: listener.endpoint().to_string(),
        notes: listener.endpoint().notes().to_vec(),
        started_at: jiff::Timestamp::now(),
        client_count: AtomicUsize::new(0),
        stopping: CancellationToken::new(),
        stopped: CancellationToken::new(),
    });
    // The supervisor has the tunnels before the first client is accepted: no client sees an empty list.
    start_tunnels(&context, loaded, ad_hoc).await;
    let mut daemon = Daemon { context, tasks };
    daemon.serve(listener, reload_task, watcher);
    daemon.serve_http(daemon_config_in_force);
    daemon.serve_web_page(web_requests, web_folder);
    daemon.notify_ready().await;
    daemon.run_until_stop(&mut signals).await;
    daemon.stop().await;
    Ok(())
}

/// Configuration as it is when the daemon starts.
struct FirstReading {
    watcher: Watcher,
    reader: ConfigReader,
    loaded: Loaded,
    /// Ad-hoc tunnels of an earlier daemon, from the state file.
    ad_hoc: Vec<Tunnel>,
}

impl FirstReading {
    /// Reads the configuration. With `explicit_dir`, the user named the directory, so that it must exist.
    async fn read(dir: &Path, explicit_dir: bool, state_file: &StateFile) -> Self {
        // Created before the reading, so that a change during the reading is noticed afterwards.
        let mut watcher = Watcher::new(dir);
        // Tunnels take options from ssh's own configuration.
        watcher.add_files(std::env::home_dir().map(|home| home.join(".ssh/config")));
        let mut reader = ConfigReader::new(dir.to_owned(), |loader| {
            loader.dir_required(explicit_dir).keep_copies()
        });
        let loaded = reader.read_first().await;
        let ad_hoc = reader.restore_ad_hoc(state_file, &[]).await;
        Self {
            watcher,
            reader,
            loaded,
            ad_hoc,
        }
    }
}

/// Returns the result of `work`. `None` if a stop signal arrives first.
async fn or_shutdown<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    let stop_signal = async {
        // SIGHUP has nothing to do: the configuration is being read already.
        while signals.next().await != Signal::Stop {}
    };
    tokio::select! {
        done = work => Some(done),
        () = stop_signal => None,
    }
}

/// Starts the log. Also returns whether its filter is fixed by the command line or `RUST_LOG`, so that the
/// configuration does not change it.
fn start_log(options: &DaemonOptions) -> anyhow::Result<(Log, bool)> {
    let file = options.log_file.as_deref();
    if let Some(filter) = &options.log {
        return Ok((Log::start(filter, file)?, true));
    }
    let inherited = std::env::var("RUST_LOG")
        .ok()
        .filter(|filter| !filter.is_empty());
    match inherited.map(|filter| (log::parse_filter(&filter).map(drop), filter)) {
        Some((Ok(()), filter)) => Ok((Log::start(&filter, file)?, true)),
        // A bad --log is an error of the command line. RUST_LOG may be meant for other programs.
        Some((Err(error), _)) => {
            let log = Log::start(log::DEFAULT_FILTER, file)?;
            tracing::warn!("RUST_LOG is ignored: {error:#}");
            Ok((log, false))
        }
        None => Ok((Log::start(log::DEFAULT_FILTER, file)?, false)),
    }
}

fn listen(explicit: Option<&Path>) -> anyhow::Result<Listener> {
    let endpoint = Endpoint::resolve(explicit, &Env::from_process())
        .map_err(|error| with_hint(&error, error.hint()))?;
    for note in endpoint.notes() {
        tracing::warn!("{note}");
    }
    endpoint::listen(&endpoint).map_err(|error| with_hint(&error, &error.hint()))
}

/// Gives the first configuration and the ad-hoc tunnels of an earlier daemon to the supervisor.
async fn start_tunnels(context: &ControlContext, loaded: Loaded, ad_hoc: Vec<Tunnel>) {
    let ControlContext {
        supervisor,
        state_file,
        ..
    } = context;
    let count = loaded.tunnels.len();
    // With faults, a configured tunnel may only be missing because its file does not parse: keep what is known of it.
    if loaded.faults.is_empty() {
        let configured: Vec<&str> = loaded
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        state_file.retain_desired(&configured);
    }
    if let Err(error) = supervisor.apply(loaded.tunnels).await {
        tracing::error!("cannot start the tunnels: {error}");
    }
    for tunnel in ad_hoc {
        let name = tunnel.name.clone();
        if supervisor.restore(tunnel).await.is_err() {
            // The configuration has a tunnel of that name now, which has precedence.
            state_file.remove_ad_hoc(&name);
        }
    }
    tracing::info!(
        "tunneld {} runs: {count} tunnels from {}, control socket {}",
        tunneld_proto::version::VERSION,
        context.reloader.dir().display(),
        context.socket,
    );
}
