//! host_command: a program that prints the host to connect to.

use secrecy::ExposeSecret as _;
use tunneld_proto::status::Phase;
use tunneld_proto::text;

use super::Dial;
use crate::failure::{Failure, FailureKind};
use crate::session::connect_limiter::Work;
use tunneld_platform::subprocess;

/// Longest host name that DNS allows, in bytes.
const HOST_NAME_LIMIT: usize = 255;

impl Dial<'_> {
    /// Runs host_command within `connect_timeout`, which counts again for the connection.
    pub(super) async fn ask_host_command(&self) -> Result<String, Failure> {
        let deadline = self.connect_deadline();
        self.take_work_slot(Work::Program, &deadline).await;
        self.enter(Phase::HostCommand);
        let host = run_host_command(&self.route.host_command);
        deadline.run("host_command", host).await
    }
}

/// Runs host_command and returns the host that it prints in its first line.
async fn run_host_command(argv: &[String]) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(FailureKind::HostCommand, format!("host_command: {why}"))
            .hint("run the command by hand: its first line of output must be the host")
    };
    let output = subprocess::first_line(argv).await.map_err(failed)?;
    let host = output.expose_secret().trim();
    // `aws --output text` prints None and `jq -r` prints null while a machine has no address yet.
    if matches!(host, "None" | "null") {
        return Err(failed(format!(
            "it printed {host}: the host does not exist yet"
        )));
    }
    // The host goes into a ProxyCommand's command line: only what cannot be an option or shell syntax is accepted.
    let forbidden = |c: char| !(c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    if host.is_empty()
        || host.len() > HOST_NAME_LIMIT
        || host.starts_with('-')
        || host.contains(forbidden)
    {
        return Err(failed(format!(
            "it printed {:?}, which is not a host name or address",
            text::escape(host)
        )));
    }
    Ok(host.to_owned())
}
