//! A client host and a server host, as two network namespaces joined by a veth pair, so that tests can take the
//! link down, drop packets and change addresses. The daemon runs on the client host. Root is required.
//!
//! The namespaces have no names: each exists as long as the process that holds it, which ends with the test.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use crate::process::{Process, run_tool};
use crate::wait::{LONG, within};

/// The address of the server host.
pub const SERVER_IP: &str = "10.213.7.1";
/// The address of the client host.
pub const CLIENT_IP: &str = "10.213.7.2";
/// The name of the client host's end of the veth pair.
pub const CLIENT_INTERFACE: &str = "client0";
/// The name of the server host's end of the veth pair.
pub const SERVER_INTERFACE: &str = "server0";

/// The two hosts, removed on drop.
pub struct TwoHosts {
    client: Process,
    server: Process,
}

impl TwoHosts {
    /// Creates the two hosts and the link between them. `None` if the user is not root and has chosen to skip
    /// such tests, see [`crate::root`].
    ///
    /// # Errors
    /// If the user is not root, or `ip` fails.
    pub async fn new() -> Result<Option<Self>> {
        if !crate::root::available("create network namespaces")? {
            return Ok(None);
        }
        let hosts = Self {
            client: namespace_holder().await?,
            server: namespace_holder().await?,
        };
        let (client, server) = (hosts.client.pid(), hosts.server.pid());
        run(&words(&format!(
            "ip link add {CLIENT_INTERFACE} netns {client} type veth peer name {SERVER_INTERFACE} netns {server}"
        )))
        .await?;
        for line in set_up(CLIENT_IP, CLIENT_INTERFACE) {
            hosts.run_on_client(&line).await?;
        }
        for line in set_up(SERVER_IP, SERVER_INTERFACE) {
            hosts.run_on_server(&line).await?;
        }
        Ok(Some(hosts))
    }

    /// The command prefix that runs a command on the client host.
    pub fn client_prefix(&self) -> Vec<String> {
        enter_prefix(&self.client)
    }

    /// The command prefix that runs a command on the server host.
    pub fn server_prefix(&self) -> Vec<String> {
        enter_prefix(&self.server)
    }

    /// Runs a command on the client host and returns its stdout. Its words are separated by single spaces.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run_on_client(&self, line: &str) -> Result<String> {
        run(&[self.client_prefix(), words(line)].concat()).await
    }

    /// Runs a command on the server host and returns its stdout. Its words are separated by single spaces.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run_on_server(&self, line: &str) -> Result<String> {
        run(&[self.server_prefix(), words(line)].concat()).await
    }

    /// Drops every packet between the hosts silently: neither side gets a reset or an ICMP error.
    ///
    /// # Errors
    /// If `nft` fails.
    pub async fn drop_all_packets(&self) -> Result<()> {
        self.drop_matching("iifname != lo").await
    }

    /// Drops every packet of the TCP connection from the client host's `port` silently.
    ///
    /// # Errors
    /// If `nft` fails.
    pub async fn drop_connection(&self, port: u16) -> Result<()> {
        self.run_on_server(&drop_rule(&format!("tcp sport {port}")))
            .await?;
        self.run_on_client(&drop_rule(&format!("tcp dport {port}")))
            .await?;
        Ok(())
    }

    /// Drops the incoming packets of both hosts that match `condition`, in nft's syntax.
    ///
    /// # Errors
    /// If `nft` fails.
    pub async fn drop_matching(&self, condition: &str) -> Result<()> {
        self.run_on_server(&drop_rule(condition)).await?;
        self.run_on_client(&drop_rule(condition)).await?;
        Ok(())
    }

    /// Removes every rule that drops packets.
    ///
    /// # Errors
    /// If `nft` fails.
    pub async fn stop_dropping(&self) -> Result<()> {
        self.run_on_server("nft flush ruleset").await?;
        self.run_on_client("nft flush ruleset").await?;
        Ok(())
    }

    /// Creates a socket on the client host. It stays there and can be used from this process.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `create` fails.
    pub fn client_socket<T: Send + 'static>(
        &self,
        create: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.client.pid()))?;
        // On a separate thread, which ends afterwards: a namespace is entered per thread, and a thread of the
        // runtime would stay in it.
        let socket = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            create()
        });
        Ok(socket
            .join()
            .map_err(|_| anyhow!("the thread panicked"))??)
    }
}

fn set_up(ip: &str, interface: &str) -> [String; 3] {
    [
        "ip link set lo up".to_owned(),
        format!("ip addr add {ip}/24 dev {interface}"),
        format!("ip link set {interface} up"),
    ]
}

fn drop_rule(condition: &str) -> String {
    format!(
        "nft add table inet fault ; add chain inet fault in {{ type filter hook input priority 0 ; }} ; \
         add rule inet fault in {condition} drop"
    )
}

fn words(line: &str) -> Vec<String> {
    match line.strip_prefix("nft ") {
        // nft joins its arguments and parses the text itself; `;` and braces must arrive unchanged.
        Some(rest) => vec!["nft".to_owned(), rest.to_owned()],
        None => line.split(' ').map(str::to_owned).collect(),
    }
}

fn enter_prefix(holder: &Process) -> Vec<String> {
    let net = format!("--net=/proc/{}/ns/net", holder.pid());
    ["nsenter".to_owned(), net, "--".to_owned()].into()
}

async fn run(words: &[String]) -> Result<String> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run_tool(program, &arguments).await
}

/// Starts a process that holds a new network namespace. It ends with the test, even if the test is killed.
async fn namespace_holder() -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "sleep",
        "infinity",
    ]);
    let process = Process::start("namespace holder", command)?;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
    let (own, pid) = (namespace("self")?, process.pid().to_string());
    // unshare prints nothing when it is done: the namespace of its process changes.
    let entered = async {
        while namespace(&pid)? == own {
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
