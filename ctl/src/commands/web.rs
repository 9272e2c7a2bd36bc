//! `tunnelctl web`: opens the web page of the daemon in the user's browser, already logged in.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::Stdio;

use tunneld_proto::message::{WebOpened, method};

use crate::cli::Web;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// Programs that open a file in the user's browser, the best first.
const OPENERS: &[&str] = if cfg!(target_os = "macos") {
    &["open"]
} else if cfg!(windows) {
    &["explorer"]
} else {
    &["xdg-open", "sensible-browser", "x-www-browser"]
};

/// Opens the page, or prints its address with `--no-browser`. Starts the daemon if none runs.
pub(crate) async fn run(context: &Context, args: &Web) -> Result<(), Exit> {
    let mut client = context.connect_or_start().await?;
    let opened: WebOpened = client
        .call(method::WEB_OPEN, &serde_json::Value::Null)
        .await?;
    if context.ui.json {
        return context.ui.json(&opened);
    }
    if args.no_browser {
        writeln!(std::io::stdout().lock(), "{}", opened.url)?;
        context.ui.info(
            "open this address within a minute; it works once, and gives control of your tunnels",
        );
        return Ok(());
    }
    // Never the address itself: the key in it would be an argument that every user of this machine can read.
    let Some(file) = opened.file else {
        return Err(Exit::new(
            FAILED,
            "the daemon could not write the file that opens the page",
        )
        .hint("run: tunnelctl web --no-browser, and open the address yourself"));
    };
    open(&file)?;
    context.ui.info(
        "opening the page in the browser; if it does not appear, run: tunnelctl web --no-browser",
    );
    Ok(())
}

/// Starts the first opener that exists. It may be a browser that runs on, so it is not waited for.
fn open(file: &str) -> Result<(), Exit> {
    let preferred = std::env::var_os("BROWSER").filter(|program| !program.is_empty());
    let openers = OPENERS.iter().map(OsString::from);
    for program in preferred.into_iter().chain(openers) {
        let started = std::process::Command::new(&program)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if started.is_ok() {
            return Ok(());
        }
    }
    Err(
        Exit::new(FAILED, "no program was found that opens a browser")
            .hint("set BROWSER, or run: tunnelctl web --no-browser, and open the address yourself"),
    )
}
