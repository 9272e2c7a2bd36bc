//! One system call fails and the life of the daemon goes on. See `tunneld_tests::torture`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tunneld_tests::torture::{Injection, Stage, Verdict, plan, run};

/// Failures that stand for their kind: descriptors, names, files, threads, listeners, events, the network. None of them makes
/// a server count a failed login, which would make the life wait for half a minute.
const SMOKE: &[&str] = &[
    "socket:error=EMFILE:when=1",
    "socket:error=ENOBUFS:when=3",
    "bind:error=EADDRNOTAVAIL:when=2",
    "accept4:error=EMFILE:when=1",
    "connect:error=ENETUNREACH:when=1",
    "openat:error=EIO:when=30",
    "recvfrom:error=ECONNRESET:when=5",
    "statx:error=EIO:when=6",
    "epoll_ctl:error=ENOMEM:when=9",
    "clone3:error=EAGAIN:when=2",
    // The thread of the configuration's watcher.
    "clone3:error=EAGAIN:when=3",
    "rename:error=ENOSPC:when=1",
    "inotify_add_watch:error=ENOSPC:when=1",
    "pipe2:error=EMFILE:when=1",
    "fsync:error=EIO:when=1",
    "socketpair:error=EMFILE:when=1",
    "getdents64:error=EIO:when=1",
];

/// Lives of the smoke set at once. A life mostly waits, so two cores play several at full speed.
const SMOKE_JOBS: usize = 6;
/// How long the smoke set may take.
const SMOKE_LIMIT: Duration = Duration::from_secs(40);

fn variable(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_goes_on_after_one_failure_of_each_kind() -> Result<()> {
    let stage = Arc::new(Stage::start().await?);
    let injections = SMOKE.iter().map(|text| text.parse::<Injection>());
    let injections = injections.collect::<Result<Vec<_>>>()?;
    let tally = run(stage, injections, SMOKE_JOBS, SMOKE_LIMIT).await?;
    assert_eq!(tally.failure(), None, "{tally:#?}");
    assert_eq!((tally.not_played, tally.not_hit), (0, 0), "{tally:#?}");
    Ok(())
}

/// The whole run: `tests/run --torture`. Takes hours of computing; `TUNNELD_TORTURE_*` are the script's options.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: tests/run --torture runs it"]
async fn a_life_goes_on_after_every_failure() -> Result<()> {
    let stage = Arc::new(Stage::start().await?);
    let base = stage.play(None).await?;
    assert_eq!(base.verdict, Verdict::Right, "{:?}", base.folder);
    let injections = match std::env::var("TUNNELD_TORTURE_REPLAY") {
        Ok(one) => vec![one.parse()?],
        Err(_) => {
            let max = u32::try_from(variable("TUNNELD_TORTURE_PER_CALL", 60))?;
            plan(&base.trace, max)?
        }
    };
    let count = injections.len();
    let jobs = usize::try_from(variable("TUNNELD_TORTURE_JOBS", 4))?;
    let limit = Duration::from_secs(variable("TUNNELD_TORTURE_SECONDS", 4 * 3600));
    let tally = run(stage, injections, jobs, limit).await?;
    println!("{count} lives planned: {tally:#?}");
    assert_eq!(tally.failure(), None);
    Ok(())
}
