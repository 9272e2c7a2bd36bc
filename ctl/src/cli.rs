//! The command line. Its doc comments are the `--help` texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::adhoc::AdHocArgs;
use crate::commands::proxy_env::Shell;
use crate::time::{Since, parse_duration, parse_since};

/// Controls tunneld: starts, stops and shows SSH tunnels.
#[derive(Debug, Parser)]
#[command(
    name = "tunnelctl",
    version,
    max_term_width = 100,
    infer_subcommands = false
)]
#[command(
    after_help = "Exit codes: 0 success, 1 the tunnel failed, 2 wrong usage or configuration, 3 not up, \
                        4 no such tunnel, 5 no daemon, 6 timed out, 7 incompatible version."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    /// The daemon's control socket [default: $TUNNELD_SOCKET, else in the user's runtime directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The configuration directory [default: $TUNNELD_CONFIG_DIR, else ~/.config/tunneld]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Output format
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) color: Color,
    /// Print only errors and warnings
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Print more messages
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For humans
    #[default]
    Table,
    /// For programs
    Json,
}

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

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start tunnels and wait until they are up; starts the daemon if none is running
    #[command(alias = "start")]
    Up(Box<Up>),
    /// Stop tunnels
    #[command(alias = "stop")]
    Down(Down),
    /// Stop tunnels and start them again
    Restart(Restart),
    /// Show the state of tunnels
    #[command(aliases = ["list", "ls"])]
    Status(Status),
    /// Show the log
    Logs(Logs),
    /// Show events as they happen
    Events,
    /// Answer open prompts; without a terminal each line of stdin is one answer
    Answer(Answer),
    /// Check the configuration, without a daemon
    Check,
    /// Make the daemon read the configuration again
    Reload,
    /// Connect stdin and stdout to HOST:PORT through a tunnel
    Connect(Connect),
    /// Open the web page: all tunnels, their rates, questions and log
    Web(Web),
    /// Open a browser with its own profile that reaches web pages through a tunnel
    Browse(Browse),
    /// Run a program with a tunnel up and the proxy variables set
    Exec(Box<Exec>),
    /// Print the proxy variables of a tunnel for a shell: eval "$(tunnelctl env NAME)"
    Env(EnvArgs),
    /// Print the proxy auto-configuration file for browsers, made from proxy_for
    Pac(Pac),
    /// Print the metrics, for example for node_exporter's textfile collector
    Metrics(Metrics),
    /// Make tunnels of what other programs saved: ssh, PuTTY, MobaXterm, browser add-ons, units
    Import(ImportArgs),
    /// Stop the daemon and all tunnels
    Shutdown,
    /// Run a program in a new session (internal)
    #[command(hide = true, name = "run-detached")]
    RunDetached {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Names, or patterns with * ? [a-z]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Tunnels with this tag
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// All tunnels
    #[arg(long, conflicts_with_all = ["names", "tag"])]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Wait {
    /// How long to wait until they are up; time for answering prompts does not count
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_value = "30s", default_missing_value = "30s", value_parser = parse_duration)]
    pub(crate) wait: Duration,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
}

impl Wait {
    /// Returns the time limit; `None` for no waiting.
    pub(crate) fn limit(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.wait)
    }
}

/// Arguments of `up`.
#[derive(Debug, Args)]
#[command(override_usage = "tunnelctl up [OPTIONS] [NAME]...\n       \
                            tunnelctl up [OPTIONS] [-L|-R|-D FORWARD]... [SSH OPTIONS] DEST")]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) ad_hoc: AdHocArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Also remove tunnels that were added on the command line; configured ones are only stopped
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Names, or patterns with * ? [a-z]; a single name shows all details
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Tunnels with this tag
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Keep running and show every change
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only entries of this tunnel
    pub(crate) name: Option<String>,
    /// Keep running and show new entries
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only newer entries: 10m, 2h, or a time such as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub(crate) since: Option<Since>,
}

#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// Only prompts of this tunnel
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The tunnel
    pub(crate) name: String,
    /// The target, as seen from the SSH server
    #[arg(value_name = "HOST:PORT", value_parser = parse_target)]
    pub(crate) target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Parses `host:22`, `[::1]:22`, and `::1:22`, which ssh makes of `%h:%p`.
fn parse_target(text: &str) -> Result<Target, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("the port is missing: write HOST:PORT")?;
    let port = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => return Err(format!("{port:?} is not a port number (1 to 65535)")),
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

#[derive(Debug, Args)]
pub(crate) struct Browse {
    /// The tunnel
    pub(crate) name: String,
    /// The page to open, such as master.internal:8088/cluster
    pub(crate) url: Option<String>,
    /// Reach localhost pages of the far side too: localhost then means the SSH server
    #[arg(long)]
    pub(crate) far_localhost: bool,
    /// Keep the browser's profile (history, cookies) for the next time
    #[arg(long)]
    pub(crate) keep_profile: bool,
    /// The browser program [default: $BROWSER if it is a known browser, else the first one found]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) browser: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "tunnelctl exec NAME -- PROGRAM [ARGUMENT]...\n       \
                            tunnelctl exec [-L|-R|-D FORWARD]... [SSH OPTIONS] DEST -- PROGRAM [ARGUMENT]..."
)]
pub(crate) struct Exec {
    /// The tunnel, or with ssh's flags the destination
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) ad_hoc: AdHocArgs,
    /// Put the password of a proxy with proxy_user into the program's environment, where root and your other programs can
    /// read it
    #[arg(long)]
    pub(crate) with_proxy_password: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// The tunnel
    pub(crate) name: String,
    /// The shell that reads the lines
    #[arg(long, value_enum, default_value_t)]
    pub(crate) shell: Shell,
    /// Also JAVA_TOOL_OPTIONS; every Java program then prints a line about it
    #[arg(long)]
    pub(crate) java: bool,
    /// Also GIT_SSH_COMMAND, for git over SSH
    #[arg(long)]
    pub(crate) git: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Web {
    /// Print the address, with a key for one use, instead of opening a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Write the metrics to a file, which is replaced in one step, instead of printing them
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Pac {
    /// Write the file instead of printing it
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

/// A file that `import` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Hosts with forwards [default file: ~/.ssh/config]
    SshConfig,
    /// PuTTY: an export of the registry (.reg), or ~/.putty/sessions
    Putty,
    /// MobaXterm.ini, or a .mxtsessions file
    Mobaxterm,
    /// FoxyProxy's export: .json, or .xml of version 4
    Foxyproxy,
    /// SwitchyOmega's backup (.bak), or a rule list
    Switchyomega,
    /// A systemd unit that runs ssh, autossh or sshuttle
    Unit,
    /// A launchd agent that runs ssh, autossh or sshuttle
    Launchd,
}

#[derive(Debug, Args)]
#[command(override_usage = "tunnelctl import [OPTIONS] FORMAT [FILE]\n       \
                            tunnelctl import [OPTIONS] -- ssh|autossh|sshuttle ARGUMENT...")]
pub(crate) struct ImportArgs {
    /// What the file is
    #[arg(
        value_enum,
        required_unless_present = "command",
        conflicts_with = "command"
    )]
    pub(crate) format: Option<ImportFormat>,
    /// The file; - for stdin
    #[arg(conflicts_with = "command")]
    pub(crate) file: Option<PathBuf>,
    /// Add the tunnels to the configuration instead of printing them
    #[arg(long)]
    pub(crate) write: bool,
    /// Name of the tunnel, if there is one
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A command line of ssh, autossh or sshuttle
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[cfg(test)]
mod tests;
