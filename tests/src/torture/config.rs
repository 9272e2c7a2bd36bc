//! The configuration of a life: four tunnels, one for each way to reach a server and to log in.

use anyhow::{Context as _, Result};

use super::actor::Actor;

/// The password of the server that asks for one.
pub(super) const PASSWORD: &str = "correct horse";

/// The ports of one life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) local: u16,
    pub(super) dynamic: u16,
    pub(super) remote: u16,
    pub(super) added: u16,
    pub(super) by_alias: u16,
    pub(super) by_command: u16,
    pub(super) by_password: u16,
}

impl Ports {
    pub(super) fn free() -> Result<Self> {
        // Distinct: a port is free until the daemon binds it.
        let mut distinct = std::collections::BTreeSet::new();
        while distinct.len() < 7 {
            distinct.insert(crate::ports::free()?);
        }
        let mut ports = distinct.into_iter();
        let mut next = || ports.next().context("seven ports");
        Ok(Self {
            local: next()?,
            dynamic: next()?,
            remote: next()?,
            added: next()?,
            by_alias: next()?,
            by_command: next()?,
            by_password: next()?,
        })
    }
}

impl Actor<'_> {
    /// Writes the configuration: `changed` adds a forward.
    pub(super) fn write_config(&self, changed: bool) -> Result<()> {
        let Self {
            stage,
            server,
            home,
            ..
        } = self;
        let (ports, echo) = (self.ports, stage.echo.port());
        let config = home.path("ssh_config");
        std::fs::write(&config, server.ssh_config_host("lab")?)?;
        let key = server.user_key().display().to_string();
        let known_hosts = home.path("known_hosts").display().to_string();
        let user = crate::sshd::current_user()?;
        let host = format!(
            "host = \"{user}@127.0.0.1:{}\"\nssh_config = false\n",
            server.port()
        );
        let added = if changed {
            format!(", \"{} 127.0.0.1:{echo}\"", ports.added)
        } else {
            String::new()
        };
        let tunnels = format!(
            "[defaults]\nbackoff = {{ initial = \"100ms\", max = \"1s\" }}\nidentity_agent = \"none\"\n\
             strict_host_key_checking = \"accept-new\"\nuser_known_hosts_file = \"{known_hosts}\"\n\
             [tunnel.t]\n{host}identity_file = \"{key}\"\ndynamic_forward = {dynamic}\n\
             remote_forward = \"127.0.0.1:{remote}:127.0.0.1:{echo}\"\n\
             local_forward = [\"{local} 127.0.0.1:{echo}\"{added}]\n\
             [tunnel.alias]\nhost = \"lab\"\nssh_config = \"{config}\"\n\
             local_forward = \"{by_alias} 127.0.0.1:{echo}\"\n\
             [tunnel.command]\n{host}proxy_command = \"nc %h %p\"\nidentity_agent = \"{agent}\"\n\
             identities_only = false\nlocal_forward = \"{by_command} 127.0.0.1:{echo}\"\n\
             {passwords}ssh_config = false\npassword_command = [\"echo\", \"{PASSWORD}\"]\n\
             preferred_authentications = \"password\"\nlocal_forward = \"{by_password} 127.0.0.1:{echo}\"\n",
            dynamic = ports.dynamic,
            remote = ports.remote,
            local = ports.local,
            config = config.display(),
            by_alias = ports.by_alias,
            agent = self.agent.socket().display(),
            by_command = ports.by_command,
            passwords = stage.passwords.tunnel_toml("password")?,
            by_password = ports.by_password,
        );
        home.write("t.toml", &tunnels)?;
        Ok(())
    }
}
