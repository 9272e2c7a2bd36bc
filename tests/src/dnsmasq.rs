//! A private dnsmasq: a real resolver for the far side of DNS forwards, with fixed records.

use anyhow::Result;
use tokio::process::Command;

use crate::process::{Log, Process};
use crate::wait::LONG;

/// The number of strings of the TXT records of `big.lab.test`, of 200 bytes each.
pub const BIG_STRINGS: usize = 40;

/// A running dnsmasq that knows the domain `lab.test` and nothing else: `www` has the addresses 192.0.2.80 and
/// 2001:db8::80, `big` a TXT of 8000 bytes. `n0` to `n999` have the addresses 10.9.0.0 and up.
pub struct Dnsmasq {
    port: u16,
    process: Process,
}

impl Dnsmasq {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_at(crate::ports::free()?).await
    }

    /// Starts it on this port of 127.0.0.1, for UDP and TCP.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_at(port: u16) -> Result<Self> {
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
            "--local=/test/",
            "--host-record=www.lab.test,192.0.2.80,2001:db8::80",
        ]);
        command.arg(format!("--port={port}"));
        let string = format!(",{}", "x".repeat(200));
        for _ in 0..BIG_STRINGS / 4 {
            command.arg(format!("--txt-record=big.lab.test{}", string.repeat(4)));
        }
        for n in 0..1000 {
            let (high, low) = (n / 256, n % 256);
            command.arg(format!("--host-record=n{n}.lab.test,10.9.{high}.{low}"));
        }
        let process = Process::start("dnsmasq", command)?;
        process.log().wait("started, version", LONG).await?;
        Ok(Self { port, process })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log, with a line for each query.
    pub fn log(&self) -> &Log {
        self.process.log()
    }
}
