//! What may stand on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::spot::Spot;
use crate::time::{Since, parse_duration, parse_since};

/// Commands tunneld: starts, stops and shows SSH tunnels.
#[derive(Debug, Parser)]
#[command(
    name = "tunnelctl",
    version,
    max_term_width = 100,
    infer_subcommands = false
)]
#[command(
    after_help = "Exit: 0 done, 1 the tunnel did not do it, 2 usage or configuration, 3 not up, \
                        4 no such tunnel, 5 no daemon, 6 timed out, 7 protocol version."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    /// The daemon's control socket [default: $TUNNELD_SOCKET, else the user's own]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The configuration directory [default: $TUNNELD_CONFIG_DIR, else ~/.config/tunneld]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// The form of what is printed
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) color: Color,
    /// Say nothing but errors
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Say more
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start tunnels and wait until they are up; starts the daemon where none runs
    Up(Box<Up>),
    /// Stop tunnels
    Down(Down),
    /// Stop tunnels and start them again
    Restart(Restart),
    /// Show how tunnels stand
    Status(Status),
    /// Show the log
    Logs(Logs),
    /// Show what happens, as it happens
    Events,
    /// Answer waiting prompts; without a terminal each answer is a line of stdin
    Answer(Answer),
    /// Prove the configuration, without a daemon
    Check,
    /// Have the daemon read the configuration again
    Reload,
    /// Join stdin and stdout to HOST:PORT through a tunnel's session
    Connect(Connect),
    /// Stop the daemon, and with it every tunnel
    Shutdown,
    /// Run a program in a session of its own
    #[command(hide = true, name = "run-detached")]
    RunDetached {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<std::ffi::OsString>,
    },
}

/// Which tunnels are meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Which {
    /// Names, or patterns with * ? [a-z]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Tunnels that bear this tag
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Every tunnel
    #[arg(long, conflicts_with_all = ["names", "tag"])]
    pub(crate) all: bool,
}

/// How long is waited.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wait {
    /// How long to wait until they are up; time spent on prompts does not count
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_value = "30s", default_missing_value = "30s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
}

impl Wait {
    /// The limit; none for no waiting.
    pub(crate) fn limit(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.wait)
    }
}

/// `up`.
#[derive(Debug, Args)]
#[command(override_usage = "tunnelctl up [OPTIONS] [NAME]...\n       \
                            tunnelctl up [OPTIONS] [-L|-R|-D FORWARD]... [SSH OPTIONS] DEST")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) spot: Spot,
}

/// `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Forget those that were made on the command line; configured ones are only stopped
    #[arg(long)]
    pub(crate) remove: bool,
}

/// `restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Names, or patterns with * ? [a-z]; one name alone gives every detail
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Tunnels that bear this tag
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Go on showing every change
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only what is about this tunnel
    pub(crate) name: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is younger: 10m, 2h, or a time such as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub(crate) since: Option<Since>,
}

/// `answer`.
#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// Only prompts of this tunnel
    pub(crate) name: Option<String>,
}

/// `connect`.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The tunnel
    pub(crate) name: String,
    /// Where to, as the far end sees it
    #[arg(value_name = "HOST:PORT", value_parser = parse_target)]
    pub(crate) target: Target,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The host, without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

/// `host:22`, `[::1]:22`, and `::1:22` as ssh's `%h:%p` writes it.
fn parse_target(text: &str) -> Result<Target, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("the port is missing: write HOST:PORT")?;
    let port = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => return Err(format!("{port:?} is no port: 1 to 65535")),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() || host.contains(['[', ']']) {
        return Err("the host is missing: write HOST:PORT".into());
    }
    Ok(Target {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["tunnelctl"], args].concat())
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn waits_are_told_in_sshs_time_grammar() {
        let wait = |args: &[&str]| match parse(args).unwrap().command {
            Command::Up(up) => up.wait.limit(),
            _ => unreachable!(),
        };
        assert_eq!(wait(&["up", "db"]), Some(Duration::from_secs(30)));
        assert_eq!(wait(&["up", "--wait", "db"]), Some(Duration::from_secs(30)));
        assert_eq!(
            wait(&["up", "--wait=1m30s", "db"]),
            Some(Duration::from_secs(90))
        );
        assert_eq!(wait(&["up", "--no-wait", "db"]), None);
        assert!(parse(&["up", "--wait=soon", "db"]).is_err());
    }

    #[test]
    fn global_options_stand_anywhere() {
        let cli = parse(&["status", "--output", "json", "--color=never", "-q"]).unwrap();
        assert_eq!(
            (cli.global.output, cli.global.color),
            (Output::Json, Color::Never)
        );
        assert_eq!(cli.global.quiet, 1);
        assert!(
            parse(&["--socket", "/s", "down", "--all"])
                .unwrap()
                .global
                .socket
                .is_some()
        );
    }

    #[test]
    fn names_and_all_exclude_each_other() {
        assert_eq!(parse(&["down", "--all", "db"]).unwrap_err().exit_code(), 2);
        assert_eq!(parse(&["up", "--bogus"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn targets_may_be_ipv6() {
        let target = |text| parse_target(text).map(|target| (target.host, target.port));
        assert_eq!(target("db.internal:5432"), Ok(("db.internal".into(), 5432)));
        assert_eq!(target("[::1]:22"), Ok(("::1".into(), 22)));
        assert_eq!(target("::1:22"), Ok(("::1".into(), 22)));
        for bad in ["db", "db:0", "db:70000", ":22", "[]:22", "db:ssh"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
