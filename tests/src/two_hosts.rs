//! Two hosts that are network namespaces and a cable between them: links go down, packets are lost, addresses change.
//!
//! The namespaces have no names: they go with the processes that hold them, and these with the test.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use crate::process::Process;
use crate::wait::{LONG, within};

/// The two hosts. Only root can make them.
pub struct Net {
    near: Process,
    far: Process,
}

/// The address of the far host.
pub const FAR: &str = "10.213.7.1";
/// The address of the near host.
pub const NEAR: &str = "10.213.7.2";
/// The near host's end of the cable.
pub const CABLE: &str = "near0";

impl Net {
    /// Two hosts with a cable; none, and told so, where the user is not root.
    ///
    /// # Errors
    /// Where the system declines.
    pub async fn new() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can make network namespaces");
            return Ok(None);
        }
        let net = Self {
            near: holder().await?,
            far: holder().await?,
        };
        let (near, far) = (net.near.pid(), net.far.pid());
        run(&words(&format!(
            "ip link add {CABLE} netns {near} type veth peer name far0 netns {far}"
        )))
        .await?;
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {NEAR}/24 dev {CABLE}"),
            format!("ip link set {CABLE} up"),
        ] {
            net.near(&line).await?;
        }
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {FAR}/24 dev far0"),
            "ip link set far0 up".to_owned(),
        ] {
            net.far(&line).await?;
        }
        Ok(Some(net))
    }

    /// What goes before a command that runs on the near host.
    pub fn on_near(&self) -> Vec<String> {
        inside(&self.near)
    }

    /// What goes before a command that runs on the far host.
    pub fn on_far(&self) -> Vec<String> {
        inside(&self.far)
    }

    /// Runs a command, its words parted by spaces, on the near host.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn near(&self, line: &str) -> Result<String> {
        run(&[self.on_near(), words(line)].concat()).await
    }

    /// Runs a command, its words parted by spaces, on the far host.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn far(&self, line: &str) -> Result<String> {
        run(&[self.on_far(), words(line)].concat()).await
    }

    /// Lets no packet pass the cable any more; nobody is told.
    ///
    /// # Errors
    /// Where nft fails.
    pub async fn black_hole(&self) -> Result<()> {
        self.drop_what("iifname != lo").await
    }

    /// Lets no packet of the TCP connection from the near host's `port` pass any more; nobody is told.
    ///
    /// # Errors
    /// Where nft fails.
    pub async fn forget_flow(&self, port: u16) -> Result<()> {
        self.far(&rule(&format!("tcp sport {port}"))).await?;
        self.near(&rule(&format!("tcp dport {port}"))).await?;
        Ok(())
    }

    /// Drops what `matches`, a condition of nft, at either end of the cable.
    ///
    /// # Errors
    /// Where nft fails.
    pub async fn drop_what(&self, matches: &str) -> Result<()> {
        self.far(&rule(matches)).await?;
        self.near(&rule(matches)).await?;
        Ok(())
    }

    /// Takes away all that was dropped.
    ///
    /// # Errors
    /// Where nft fails.
    pub async fn heal(&self) -> Result<()> {
        self.far("nft flush ruleset").await?;
        self.near("nft flush ruleset").await?;
        Ok(())
    }

    /// Makes a socket on the near host; it may be used from anywhere.
    ///
    /// # Errors
    /// Where the host cannot be entered, or the socket cannot be made.
    pub fn near_socket<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let host = std::fs::File::open(format!("/proc/{}/ns/net", self.near.pid()))?;
        // A thread of its own: it is in the namespace for the rest of its life.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))?;
            make()
        });
        Ok(made.join().map_err(|_| anyhow!("the thread panicked"))??)
    }
}

fn rule(matches: &str) -> String {
    format!(
        "nft add table inet fault ; add chain inet fault in {{ type filter hook input priority 0 ; }} ; \
         add rule inet fault in {matches} drop"
    )
}

fn words(line: &str) -> Vec<String> {
    match line.strip_prefix("nft ") {
        // It parses its line itself.
        Some(rest) => vec!["nft".to_owned(), rest.to_owned()],
        None => line.split(' ').map(str::to_owned).collect(),
    }
}

fn inside(holder: &Process) -> Vec<String> {
    let net = format!("--net=/proc/{}/ns/net", holder.pid());
    ["nsenter".to_owned(), net, "--".to_owned()].into()
}

async fn run(words: &[String]) -> Result<String> {
    let (program, arguments) = words.split_first().context("a command")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    crate::keys::run(program, &arguments).await
}

/// A process that holds a new network namespace, and ends with the test whatever becomes of that.
async fn holder() -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "sleep",
        "infinity",
    ]);
    let process = Process::start("host", command)?;
    let place = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    let (ours, pid) = (place("self")?, process.pid().to_string());
    let entered = async {
        while place(&pid)? == ours {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    within(LONG, "a network namespace", entered).await??;
    ensure!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the namespace is gone"
    );
    Ok(process)
}
