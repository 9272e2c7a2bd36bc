//! A private dnsmasq: a real resolver for the far side of DNS forwards, with fixed records.

use anyhow::Result;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::LONG;

/// The number of strings of the TXT records of `big.lab.test`, of 200 bytes each.
pub const BIG_STRINGS: usize = 40;

/// A running dnsmasq that knows the domain `lab.test` and nothing else: `www` has the addresses 192.0.2.80 and
/// 2001:db8::80, `big` a TXT of 8000 bytes. `n0` to `n999` have the addresses 10.9.0.0 and up.
pub struct Dnsmasq {
    port: u16,
    _process: Process,
}

impl Dnsmasq {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        let port = crate::ports::free()?;
        let mut command = command(port);
        command.args([
            "--local=/test/",
            "--host-record=www.lab.test,192.0.2.80,2001:db8::80",
        ]);
        let string = format!(",{}", "x".repeat(200));
        for _ in 0..BIG_STRINGS / 4 {
            command.arg(format!("--txt-record=big.lab.test{}", string.repeat(4)));
        }
        for n in 0..1000 {
            let (high, low) = (n / 256, n % 256);
            command.arg(format!("--host-record=n{n}.lab.test,10.9.{high}.{low}"));
        }
        Self::run(port, command).await
    }

    /// Starts one that has no records and asks `server`, on 127.0.0.1, about `domain` alone: the resolver of a machine.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_forwarder(domain: &str, server: u16) -> Result<Self> {
        let port = crate::ports::free()?;
        let mut command = command(port);
        command.arg(format!("--server=/{domain}/127.0.0.1#{server}"));
        Self::run(port, command).await
    }

    async fn run(port: u16, command: Command) -> Result<Self> {
        let process = Process::start("dnsmasq", command)?;
        process.log().wait("started, version", LONG).await?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Returns the command of one that listens on this port of 127.0.0.1, for UDP and TCP, and reads no file.
fn command(port: u16) -> Command {
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--log-facility=-",
        "--log-queries",
    ]);
    command.arg(format!("--port={port}"));
    command
}
