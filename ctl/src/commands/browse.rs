//! `tunnelctl browse`: a browser with its own profile that reaches web pages through a tunnel.

use std::path::{Path, PathBuf};

use tunneld_proto::status::TunnelStatus;

use super::bring_up::{bring_up, proxy_address, take_down};
use super::browser::{Browser, Family, Setup, Traffic, checked_url, firefox_preferences};
use super::resolve::no_proxy;
use crate::cli::Browse;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// Brings the tunnel up, opens the browser, and waits until it is closed. Then the profile is removed, unless it is to be
/// kept, and the tunnel stopped if it was down before.
pub(crate) async fn run(context: &Context, args: &Browse) -> Result<(), Exit> {
    // Before anything is started: wrong usage must have no effect.
    let url = match &args.url {
        Some(url) => Some(checked_url(url).map_err(Exit::usage)?),
        None => None,
    };
    let browser = find(args.browser.as_deref())?;
    let mut client = context.connect_or_start().await?;
    let tunnel = bring_up(context, &mut client, &args.name).await?;
    let browsed = browse(context, args, &browser, url.as_deref(), &tunnel.status).await;
    if tunnel.was_down {
        take_down(context, &mut client, &args.name).await;
    }
    browsed
}

fn find(program: Option<&Path>) -> Result<Browser, Exit> {
    let env = |name| std::env::var_os(name);
    match program {
        Some(program) => {
            let found = Browser::find(Some(program.as_os_str()), env("PATH").as_deref());
            found
                .filter(|found| found.program.file_name() == program.file_name())
                .ok_or_else(|| {
                    Exit::usage(format!("{} is not a browser that tunnelctl can set up", program.display()))
                        .hint("name Chromium, Chrome, Edge, Brave, Vivaldi or Firefox")
                })
        }
        None => Browser::find(env("BROWSER").as_deref(), env("PATH").as_deref()).ok_or_else(|| {
            Exit::new(FAILED, "no browser was found")
                .hint("install Chromium or Firefox, or name one: --browser PROGRAM; for other programs see: tunnelctl env --help")
        }),
    }
}

async fn browse(
    context: &Context,
    args: &Browse,
    browser: &Browser,
    url: Option<&str>,
    status: &TunnelStatus,
) -> Result<(), Exit> {
    let proxy = proxy_address(status).ok_or_else(|| no_proxy(&args.name))?;
    let profile = Profile::new(context, args)?;
    let setup = Setup {
        profile: profile.path(),
        proxy: &proxy,
        traffic: if status.proxy_for.is_empty() {
            Traffic::All
        } else {
            Traffic::ByPac
        },
        far_localhost: args.far_localhost,
        url,
    };
    if browser.family == Family::Firefox {
        std::fs::write(setup.profile.join("user.js"), firefox_preferences(&setup))?;
    }
    context.ui.info(format!(
        "opening {} through {}; close the browser to end this command",
        browser.program.display(),
        args.name
    ));
    if let Some(user) = &status.proxy_user {
        context.ui.info(format!(
            "the browser asks for the login of the proxy: the user name is {user}, the password what \
             proxy_user_password_command prints"
        ));
    }
    let mut command = tokio::process::Command::new(&browser.program);
    command.args(browser.arguments(&setup)).kill_on_drop(true);
    let ended = command.status().await.map_err(|err| {
        Exit::new(
            FAILED,
            format!("starting {} failed", browser.program.display()),
        )
        .caused_by(&err)
        .hint("name another browser: --browser PROGRAM")
    })?;
    if ended.success() {
        return Ok(());
    }
    let failed = Exit::new(
        FAILED,
        format!("{} ended with an error: {ended}", browser.program.display()),
    );
    Err(match browser.family {
        Family::Chromium if is_root() => {
            failed.hint("Chromium does not run as root: run tunnelctl as an ordinary user")
        }
        _ => failed.hint(
            "see its messages above; it needs a graphical session (DISPLAY or WAYLAND_DISPLAY)",
        ),
    })
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// The folder of the browser's profile.
enum Profile {
    /// Removed on drop.
    Temporary(tempfile::TempDir),
    /// The same one each time.
    Kept(PathBuf),
}

impl Profile {
    fn new(context: &Context, args: &Browse) -> Result<Self, Exit> {
        let failed = |err: std::io::Error| {
            Exit::new(FAILED, "creating the browser's profile failed")
                .caused_by(&err)
                .hint("check the free space and the permissions of the temporary directory")
        };
        if !args.keep_profile {
            let temporary = tempfile::Builder::new()
                .prefix("tunneld-browser-")
                .tempdir();
            return temporary.map(Self::Temporary).map_err(failed);
        }
        let home = context.env.home.as_ref().ok_or_else(|| {
            Exit::usage("HOME is not set, so there is no place for a kept profile")
        })?;
        let folder = home.join(".local/share/tunneld/browser").join(&args.name);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Self::Kept(folder))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(folder) => folder,
        }
    }
}
