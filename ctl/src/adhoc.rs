//! Ad-hoc tunnels: translates the flags of ssh(1) to the keys of `[tunnel.NAME]`.

use std::path::Path;

use clap::Args;
use serde_json::Value;
use tunneld_proto::message::Add;

use crate::exit::Exit;
use crate::ignored_flags::IgnoredFlags;
use crate::options;
use crate::services;

/// The flags of ssh that `tunnelctl up` accepts, and the name of the new tunnel.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Ad-hoc tunnel")]
pub(crate) struct AdHocArgs {
    /// Forward a local port or socket, as ssh -L
    #[arg(short = 'L', value_name = "[BIND:]PORT:HOST:HOSTPORT")]
    local: Vec<String>,
    /// Forward a port or socket of the server, as ssh -R
    #[arg(short = 'R', value_name = "[BIND:]PORT[:HOST:HOSTPORT]")]
    remote: Vec<String>,
    /// Start a SOCKS proxy, as ssh -D
    #[arg(short = 'D', value_name = "[BIND:]PORT")]
    dynamic: Vec<String>,
    /// Jump hosts, as ssh -J
    #[arg(short = 'J', value_name = "DEST[,DEST]")]
    jump: Option<String>,
    /// Private key file
    #[arg(short = 'i', value_name = "FILE")]
    identity: Vec<String>,
    /// SSH port
    #[arg(short = 'p', value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// User name on the server
    #[arg(short = 'l', value_name = "USER")]
    login: Option<String>,
    /// Option in the syntax of ssh_config
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    ipv6: bool,
    /// Enable compression
    #[arg(short = 'C')]
    compress: bool,
    /// Allow other machines to use the forwards
    #[arg(short = 'g')]
    gateway: bool,
    /// Read only this ssh_config file; "none" to read none
    #[arg(short = 'F', value_name = "FILE")]
    config: Option<String>,
    /// Local address to connect from
    #[arg(short = 'b', value_name = "ADDR")]
    bind_address: Option<String>,
    /// Network interface to connect from
    #[arg(short = 'B', value_name = "NAME")]
    bind_interface: Option<String>,
    /// Ciphers, in order of preference
    #[arg(short = 'c', value_name = "CIPHERS")]
    ciphers: Option<String>,
    /// MACs, in order of preference
    #[arg(short = 'm', value_name = "MACS")]
    macs: Option<String>,
    /// Kerberos login: not supported, a note says so
    #[arg(short = 'K', hide = true)]
    kerberos: bool,
    /// PKCS#11 token: not supported, a note refers to the agent
    #[arg(short = 'I', hide = true, value_name = "LIBRARY")]
    token: Option<String>,
    #[command(flatten)]
    ignored: IgnoredFlags,
    /// Name of the tunnel [default: the host]
    #[arg(long)]
    name: Option<String>,
    /// Save the tunnel in the configuration
    #[arg(long)]
    save: bool,
}

impl AdHocArgs {
    /// Returns whether any flag of ssh was given; then the NAME argument is the destination.
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
            || self.ignored.is_given()
    }

    /// Builds the parameters of `tunnel.add`, and one note per option that tunneld does not support.
    ///
    /// `names` holds the destination, and perhaps a command, which is ignored. Relative file names are resolved against `cwd`.
    pub(crate) fn to_add(
        &self,
        names: &[String],
        cwd: Option<&Path>,
    ) -> Result<(Add, Vec<String>), Exit> {
        let [destination, remote_command @ ..] = names else {
            return Err(
                Exit::usage("ssh's flags need one destination, but none was given")
                    .hint("tunnelctl up -L 8088:localhost:80 user@host"),
            );
        };
        let destination = Destination::parse(destination)?;
        let mut spec = options::Spec::new(cwd);
        self.set_destination(&mut spec, &destination);
        self.set_flags(&mut spec);
        self.push_lists(&mut spec)?;
        // Last, because the first value of a key counts: a flag wins over the same setting by -o.
        self.set_options(&mut spec)?;
        spec.expand_host_name(destination.host);
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| destination.tunnel_name());
        check_name(&name)?;
        let (keys, mut notes) = spec.into_parts();
        if !remote_command.is_empty() {
            // As in a command line pasted from a script: `ssh -L … host sleep 60`.
            notes.push(format!(
                "ignored: {}; a tunnel has one destination and runs no command",
                remote_command.join(" ")
            ));
        }
        let add = Add {
            name,
            spec: Value::Object(keys),
            save: self.save,
        };
        Ok((add, notes))
    }

    fn set_destination(&self, spec: &mut options::Spec<'_>, destination: &Destination<'_>) {
        let host = destination.without(self.login.is_some(), self.port.is_some());
        spec.set("host", host.into());
        if let Some(user) = &self.login {
            spec.set("user", user.as_str().into());
        }
        if let Some(port) = self.port {
            spec.set("port", port.into());
        }
    }

    /// Sets the keys of the flags that may be given once.
    fn set_flags(&self, spec: &mut options::Spec<'_>) {
        for (key, text) in [
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
        for (given, key, value) in [
            (self.ipv4, "address_family", Value::from("inet")),
            (self.ipv6, "address_family", Value::from("inet6")),
            (self.compress, "compression", Value::from(true)),
            (self.gateway, "gateway_ports", Value::from(true)),
        ] {
            if given {
                spec.set(key, value);
            }
        }
    }

    /// Adds the values of the flags that may be given more than once.
    fn push_lists(&self, spec: &mut options::Spec<'_>) -> Result<(), Exit> {
        for file in &self.identity {
            spec.push_path("identity_file", file);
        }
        for (flag, key, forwards) in [
            ("-L", "local_forward", &self.local),
            ("-R", "remote_forward", &self.remote),
            ("-D", "dynamic_forward", &self.dynamic),
        ] {
            for forward in forwards {
                if forward.starts_with("*:") && flag != "-R" && !self.gateway {
                    let exit = Exit::usage(format!(
                        "{flag} {forward} listens on all addresses of this machine"
                    ));
                    return Err(
                        exit.hint("add -g if other machines shall use it; else leave out *:")
                    );
                }
                spec.push(key, &services::with_numbers(forward));
            }
        }
        Ok(())
    }

    /// Applies `-o`, and the flags that are short for an option.
    fn set_options(&self, spec: &mut options::Spec<'_>) -> Result<(), Exit> {
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

/// The parts of `[user@]host[:port]`, as written.
#[derive(Debug, PartialEq, Eq)]
struct Destination<'a> {
    user: Option<&'a str>,
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Destination<'a> {
    fn parse(text: &'a str) -> Result<Self, Exit> {
        // ssh accepts URIs, too (ssh(1)).
        let bare = text
            .strip_prefix("ssh://")
            .unwrap_or(text)
            .trim_end_matches('/');
        let (user, rest) = match bare.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, bare),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // Several colons without brackets: an IPv6 address without a port.
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, Some(port)),
            _ => (rest, None),
        };
        if host.is_empty() || user == Some("") || bare.starts_with('-') {
            return Err(Exit::usage(format!("{text:?} is not a destination"))
                .hint("write [user@]host[:port], or a Host alias of ~/.ssh/config"));
        }
        Ok(Self { user, host, port })
    }

    /// Returns the destination without the parts that a flag replaces.
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

    /// Derives a valid tunnel name from the host.
    fn tunnel_name(&self) -> String {
        let name: String = self
            .host
            // The brackets of an IPv6 address are not part of its name.
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
        Exit::usage(format!("{name:?} is not a valid tunnel name")).hint(
            "choose one with --name: 1 to 64 characters of A-Z a-z 0-9 . _ - that do not start with -",
        ),
    )
}

#[cfg(test)]
mod tests;
