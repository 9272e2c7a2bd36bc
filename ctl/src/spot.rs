//! A tunnel made on the spot: ssh's own flags become the keys of `[tunnel.NAME]`.

use std::path::Path;

use clap::Args;
use serde_json::Value;
use tunneld_proto::message::Add;

use crate::exit::Exit;
use crate::options;
use crate::silent::Silent;

/// ssh's flags, and what the new tunnel is called.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "A tunnel made on the spot")]
pub(crate) struct Spot {
    /// Forward a port or socket from here, as ssh -L
    #[arg(short = 'L', value_name = "[BIND:]PORT:HOST:HOSTPORT")]
    local: Vec<String>,
    /// Forward a port or socket from there, as ssh -R
    #[arg(short = 'R', value_name = "[BIND:]PORT[:HOST:HOSTPORT]")]
    remote: Vec<String>,
    /// Serve SOCKS proxying, as ssh -D
    #[arg(short = 'D', value_name = "[BIND:]PORT")]
    dynamic: Vec<String>,
    /// Jump hosts, as ssh -J
    #[arg(short = 'J', value_name = "DEST[,DEST]")]
    jump: Option<String>,
    /// A private key file
    #[arg(short = 'i', value_name = "FILE")]
    identity: Vec<String>,
    /// The SSH port
    #[arg(short = 'p', value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The user
    #[arg(short = 'l', value_name = "USER")]
    login: Option<String>,
    /// Any option of ssh_config that tunneld knows
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// IPv4 alone
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 alone
    #[arg(short = '6')]
    ipv6: bool,
    /// Compress
    #[arg(short = 'C')]
    compress: bool,
    /// Let other machines use the forwards
    #[arg(short = 'g')]
    gateway: bool,
    /// The ssh_config to read alone, or none
    #[arg(short = 'F', value_name = "FILE")]
    config: Option<String>,
    /// The local address to dial from
    #[arg(short = 'b', value_name = "ADDR")]
    bind_address: Option<String>,
    /// The interface to dial from
    #[arg(short = 'B', value_name = "NAME")]
    bind_interface: Option<String>,
    /// The ciphers, best first
    #[arg(short = 'c', value_name = "CIPHERS")]
    ciphers: Option<String>,
    /// The MACs, best first
    #[arg(short = 'm', value_name = "MACS")]
    macs: Option<String>,
    /// Kerberos, which is told to be impossible
    #[arg(short = 'K', hide = true)]
    kerberos: bool,
    /// A token, which is told to be the agent's
    #[arg(short = 'I', hide = true, value_name = "LIBRARY")]
    token: Option<String>,
    #[command(flatten)]
    silent: Silent,
    /// What it is called [default: the host]
    #[arg(long)]
    name: Option<String>,
    /// Write it to the configuration
    #[arg(long)]
    save: bool,
}

impl Spot {
    /// Whether any of it was given: then the names are one destination.
    pub(crate) fn is_given(&self) -> bool {
        let lists = [
            &self.local,
            &self.remote,
            &self.dynamic,
            &self.identity,
            &self.option,
        ];
        let flags = [
            self.ipv4,
            self.ipv6,
            self.compress,
            self.gateway,
            self.kerberos,
            self.save,
        ];
        let texts = [
            &self.jump,
            &self.login,
            &self.name,
            &self.config,
            &self.bind_address,
            &self.bind_interface,
            &self.ciphers,
            &self.macs,
            &self.token,
        ];
        lists.iter().any(|list| !list.is_empty())
            || flags.contains(&true)
            || texts.iter().any(|text| text.is_some())
            || self.port.is_some()
            || self.silent.is_given()
    }

    /// The call that makes the tunnel, and what was asked for and cannot be honoured; relative files are taken from
    /// `cwd`.
    pub(crate) fn add(
        &self,
        names: &[String],
        cwd: Option<&Path>,
    ) -> Result<(Add, Vec<String>), Exit> {
        let [dest] = names else {
            let given = if names.is_empty() {
                "none was given"
            } else {
                "several were given"
            };
            return Err(
                Exit::usage(format!("ssh's flags want one destination, and {given}"))
                    .hint("tunnelctl up -L 8088:localhost:80 user@host"),
            );
        };
        let mut spec = options::Spec::new(cwd);
        let dest = Dest::parse(dest)?;
        spec.set(
            "host",
            Value::String(dest.without(self.login.is_some(), self.port.is_some())),
        );
        for (key, text) in [
            ("user", &self.login),
            ("proxy_jump", &self.jump),
            ("bind_address", &self.bind_address),
            ("bind_interface", &self.bind_interface),
            ("ciphers", &self.ciphers),
            ("macs", &self.macs),
        ] {
            if let Some(text) = text {
                spec.set(key, text.as_str().into());
            }
        }
        if let Some(port) = self.port {
            spec.set("port", port.into());
        }
        for (given, family) in [(self.ipv4, "inet"), (self.ipv6, "inet6")] {
            if given {
                spec.set("address_family", family.into());
            }
        }
        for (given, key) in [
            (self.compress, "compression"),
            (self.gateway, "gateway_ports"),
        ] {
            if given {
                spec.set(key, true.into());
            }
        }
        for file in &self.identity {
            spec.push_path("identity_file", file);
        }
        for (key, forwards) in [
            ("local_forward", &self.local),
            ("remote_forward", &self.remote),
            ("dynamic_forward", &self.dynamic),
        ] {
            for forward in forwards {
                spec.push(key, forward);
            }
        }
        self.options(&mut spec)?;
        spec.expand_host_name(dest.host);
        let name = self.name.clone().unwrap_or_else(|| dest.name());
        check_name(&name)?;
        let (keys, notes) = spec.into_parts();
        let add = Add {
            name,
            spec: Value::Object(keys),
            save: self.save,
        };
        Ok((add, notes))
    }

    /// `-o`, and the flags that are short for it.
    fn options(&self, spec: &mut options::Spec<'_>) -> Result<(), Exit> {
        match self.config.as_deref() {
            Some("none") => spec.set("ssh_config", false.into()),
            Some(file) => spec.option(&format!("ssh_config={file}"))?,
            None => {}
        }
        if self.kerberos {
            spec.option("GSSAPIAuthentication=yes")?;
        }
        if let Some(library) = &self.token {
            spec.option(&format!("PKCS11Provider={library}"))?;
        }
        self.option
            .iter()
            .try_for_each(|option| spec.option(option))
    }
}

/// `[user@]host[:port]` in its parts, as they were written.
#[derive(Debug, PartialEq, Eq)]
struct Dest<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Dest<'a> {
    fn parse(text: &'a str) -> Result<Self, Exit> {
        let bare = text
            .strip_prefix("ssh://")
            .unwrap_or(text)
            .trim_end_matches('/');
        let (user, rest) = match bare.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, bare),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // Several colons without brackets are an IPv6 address.
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, Some(port)),
            _ => (rest, None),
        };
        if host.is_empty() || user == Some("") || bare.starts_with('-') {
            return Err(Exit::usage(format!("{text:?} is no destination"))
                .hint("write [user@]host[:port], or a Host of ~/.ssh/config"));
        }
        Ok(Self { user, host, port })
    }

    /// The destination without what a flag says instead.
    fn without(&self, user: bool, port: bool) -> String {
        let mut text = String::new();
        if let Some(name) = self.user.filter(|_| !user) {
            text.push_str(name);
            text.push('@');
        }
        text.push_str(self.host);
        if let Some(number) = self.port.filter(|_| !port) {
            text.push(':');
            text.push_str(number);
        }
        text
    }

    /// A tunnel's name made of the host.
    fn name(&self) -> String {
        let name: String = self
            .host
            .trim_matches(['[', ']'])
            .chars()
            .map(|c| if is_name_char(c) { c } else { '-' })
            .take(64)
            .collect();
        name.trim_start_matches('-').to_owned()
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn check_name(name: &str) -> Result<(), Exit> {
    if !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('-')
        && name.chars().all(is_name_char)
    {
        return Ok(());
    }
    Err(
        Exit::usage(format!("{name:?} is no name for a tunnel")).hint(
            "give one with --name: at most 64 of the characters A-Z a-z 0-9 . _ -, no - in front",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use serde_json::json;

    fn add(args: &[&str]) -> Result<Add, Exit> {
        let cli = Cli::try_parse_from([&["tunnelctl", "up"], args].concat()).unwrap();
        let Command::Up(up) = cli.command else {
            unreachable!()
        };
        assert!(up.spot.is_given());
        let made = up.spot.add(&up.which.names, Some(Path::new("/here")));
        made.map(|(add, _)| add)
    }

    #[test]
    fn sshs_flags_become_keys() {
        let got = add(&[
            "-NfL",
            "8088:localhost:80",
            "-L",
            "/tmp/s:/run/s",
            "-R9000:localhost:9",
            "-D",
            "1080",
            "-J",
            "a,b@c:7",
            "-i",
            "key.pem",
            "-i",
            "~/k",
            "-p",
            "2222",
            "-l",
            "me",
            "-4C",
            "-o",
            "ServerAliveInterval=15",
            "--save",
            "you@db.example.org:22",
        ]);
        let got = got.unwrap();
        assert_eq!((got.name.as_str(), got.save), ("db.example.org", true));
        assert_eq!(
            got.spec,
            json!({
                "host": "db.example.org", "user": "me", "port": 2222, "proxy_jump": "a,b@c:7", "address_family": "inet",
                "compression": true, "identity_file": [Path::new("/here").join("key.pem").display().to_string(), "~/k"],
                "local_forward": ["8088:localhost:80", "/tmp/s:/run/s"], "remote_forward": ["9000:localhost:9"],
                "dynamic_forward": ["1080"], "server_alive_interval": "15",
            })
        );
    }

    #[test]
    fn what_people_paste_from_ssh_is_taken() {
        let spec = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            add(&words).unwrap().spec
        };
        let wanted = json!({"host": "u@h", "local_forward": ["1:a:2"]});
        for line in [
            "-fNT -L 1:a:2 u@h",
            "-qfnNT -L 1:a:2 u@h",
            "-vvv -N -L 1:a:2 u@h -N",
            "-AXYaxkMy -tt -S /s -e none -E /l -L 1:a:2 u@h",
            "-o BatchMode=yes -oLogLevel=ERROR -o ControlMaster=no -oControlPath=none -L1:a:2 u@h",
        ] {
            assert_eq!(spec(line), wanted, "{line}");
        }
        assert_eq!(
            spec(
                "-b 10.0.0.1 -B eth0 -c aes128-ctr -m hmac-sha2-256 -F cfg -o HostName=%h.example h"
            ),
            json!({"host": "h", "host_name": "h.example", "bind_address": "10.0.0.1", "bind_interface": "eth0",
                "ciphers": "aes128-ctr", "macs": "hmac-sha2-256", "ssh_config": Path::new("/here").join("cfg").display().to_string()})
        );
        assert_eq!(spec("-F none h"), json!({"host": "h", "ssh_config": false}));
    }

    #[test]
    fn a_destination_keeps_what_no_flag_replaces() {
        let host = |args: &[&str]| add(args).unwrap().spec.get("host").cloned().unwrap();
        assert_eq!(host(&["-D1", "me@h:7"]), "me@h:7");
        assert_eq!(host(&["-D1", "-p", "8", "me@h:7"]), "me@h");
        assert_eq!(host(&["-D1", "ssh://me@[::1]:7/"]), "me@[::1]:7");
        assert_eq!(host(&["-D1", "-l", "you", "::1"]), "::1");
        assert_eq!(
            add(&["-D1", "me@[fe80::1%eth0]:7"]).unwrap().name,
            "fe80--1-eth0"
        );
        assert_eq!(add(&["-D1", "--name", "x", "h"]).unwrap().name, "x");
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for args in [
            &["-D1"][..],
            &["-D1", "a", "b"],
            &["-D1", "@h"],
            &["-D1", ""],
            &["-D1", "--name", "a b", "h"],
            &["-D1", "::"],
        ] {
            assert_eq!(add(args).unwrap_err().code, 2, "{args:?}");
        }
    }
}
