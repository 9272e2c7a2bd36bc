//! What the configuration's meaning depends on beside its text: the user, the home, this host, the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// This side, as tokens and defaults see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Env {
    /// The user's home.
    pub home: PathBuf,
    /// Where ssh looks for its files, whatever `HOME` says; none where the system does not tell.
    pub passwd_home: Option<PathBuf>,
    /// The user's name.
    pub user: String,
    /// The user's number.
    pub uid: u32,
    /// This host's name, its domain included where it is part of it.
    pub hostname: String,
    /// The program that is asked for ssh_config; none for nobody.
    pub ssh: Option<PathBuf>,
    /// The ports that the kernel hands out to outgoing connections.
    pub ephemeral: Option<RangeInclusive<u16>>,
    pub(crate) variables: BTreeMap<String, String>,
}

/// Without the variables' values, which may be secrets.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("home", &self.home)
            .field("user", &self.user)
            .field("uid", &self.uid)
            .field("hostname", &self.hostname)
            .field("ssh", &self.ssh)
            .finish_non_exhaustive()
    }
}

impl Env {
    /// This process's.
    pub fn from_process() -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let uid = uid();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let entry = passwd_entry(&passwd, uid);
        let of = |name: &str| {
            variables
                .get(name)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let home = of(if cfg!(windows) { "USERPROFILE" } else { "HOME" })
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .or_else(|| entry.as_ref().map(|(_, home)| home.clone()))
            .unwrap_or_else(|| PathBuf::from("/"));
        let passwd_home = entry.as_ref().map(|(_, home)| home.clone());
        let user = entry
            .map(|(user, _)| user)
            .or_else(|| of("USER"))
            .or_else(|| of("LOGNAME"))
            .or_else(|| of("USERNAME"))
            .unwrap_or_else(|| uid.to_string());
        Self {
            home,
            passwd_home,
            user,
            uid,
            hostname: hostname(&variables),
            ssh: Some(PathBuf::from("ssh")),
            ephemeral: ephemeral(),
            variables,
        }
    }

    /// An environment variable.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// The host's name up to its first dot.
    pub fn short_hostname(&self) -> &str {
        self.hostname.split('.').next().unwrap_or_default()
    }

    /// A made-up user `me` (1000) on `box.example` who has `$XDG`, and no ssh.
    #[cfg(any(test, feature = "testing"))]
    pub fn for_tests(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            passwd_home: None,
            user: "me".into(),
            uid: 1000,
            hostname: "box.example".into(),
            ssh: None,
            ephemeral: Some(32_768..=60_999),
            variables: [("XDG".to_owned(), "/run/user/1000".to_owned())].into(),
        }
    }
}

#[cfg(unix)]
fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
#[cfg(not(unix))]
fn uid() -> u32 {
    0
}

#[cfg(unix)]
fn hostname(_variables: &BTreeMap<String, String>) -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
#[cfg(not(unix))]
fn hostname(variables: &BTreeMap<String, String>) -> String {
    variables.get("COMPUTERNAME").cloned().unwrap_or_default()
}

/// Name and home of a user in passwd(5)'s text.
fn passwd_entry(passwd: &str, uid: u32) -> Option<(String, PathBuf)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        let home = fields.nth(2)?;
        (number == uid).then(|| (name.to_owned(), PathBuf::from(home)))
    })
}

fn ephemeral() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace();
    let first = words.next()?.parse().ok()?;
    let last = words.next()?.parse().ok()?;
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_is_read_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nbad\nme:x:1000:1000:,,,:/home/me:/bin/sh\n";
        assert_eq!(
            passwd_entry(passwd, 1000),
            Some(("me".into(), "/home/me".into()))
        );
        assert_eq!(passwd_entry(passwd, 7), None);
    }

    #[test]
    fn debug_shows_no_variable() {
        assert!(!format!("{:?}", Env::for_tests("/h")).contains("/run/user/1000"));
    }
}
