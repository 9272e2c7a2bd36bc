//! What the meaning of a configuration depends on besides its text: the user, the home, this host, the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The local user and host, for tokens and defaults.
#[derive(Clone, PartialEq, Eq)]
pub struct Env {
    /// The user's home directory: `$HOME`, else the one of the user database.
    pub home: PathBuf,
    /// The home directory of the user database, in which ssh looks for its files whatever `$HOME` is; `None` if the
    /// system has no entry for the user.
    pub passwd_home: Option<PathBuf>,
    /// The user's name: of the user database, else `$USER`, else the user id.
    pub user: String,
    /// Whether `user` is only the user id: neither the user database nor the environment has a name.
    pub user_is_uid: bool,
    /// The effective user id; 0 on systems without one.
    pub uid: u32,
    /// This host's name, with its domain if the system's name includes it.
    pub hostname: String,
    /// The program to ask for ssh_config; `None` to ask none.
    pub ssh: Option<PathBuf>,
    /// The ports that the kernel assigns to outgoing connections; `None` if the system does not say.
    pub ephemeral_ports: Option<RangeInclusive<u16>>,
    pub(crate) variables: BTreeMap<String, String>,
}

/// Without the values of variables, which may be secrets.
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
    /// The environment of this process. Blocks: the user database may be a directory service.
    pub fn from_process() -> Self {
        // Values that are not UTF-8 cannot be written into a configuration, so that they are left out.
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let uid = uid();
        let entry = passwd_entry(uid);
        let set = |name: &str| {
            variables
                .get(name)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let home = set(if cfg!(windows) { "USERPROFILE" } else { "HOME" })
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .or_else(|| entry.as_ref().map(|(_, home)| home.clone()))
            .unwrap_or_else(|| PathBuf::from("/"));
        let passwd_home = entry.as_ref().map(|(_, home)| home.clone());
        // The database first, as ssh: `$USER` may be left over from before su or sudo.
        let user = entry
            .map(|(user, _)| user)
            .or_else(|| set("USER"))
            .or_else(|| set("LOGNAME"))
            .or_else(|| set("USERNAME"));
        let user_is_uid = user.is_none();
        let user = user.unwrap_or_else(|| uid.to_string());
        Self {
            home,
            passwd_home,
            user,
            user_is_uid,
            uid,
            hostname: hostname(&variables),
            ssh: Some(PathBuf::from("ssh")),
            ephemeral_ports: ephemeral_ports(),
            variables,
        }
    }

    /// The value of an environment variable; `None` if it is not set or not UTF-8.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// The host's name up to its first dot (`%L`).
    pub fn short_hostname(&self) -> &str {
        self.hostname.split('.').next().unwrap_or_default()
    }

    /// A made-up user `me` (1000) on `box.example`, with the variable `XDG` and without ssh.
    #[cfg(any(test, feature = "testing"))]
    pub fn for_tests(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            passwd_home: None,
            user: "me".into(),
            user_is_uid: false,
            uid: 1000,
            hostname: "box.example".into(),
            ssh: None,
            ephemeral_ports: Some(32_768..=60_999),
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

/// Name and home directory of a user by getpwuid_r(3), which also knows the users of LDAP and sssd, which /etc/passwd
/// does not list; `None` if the user does not exist.
#[cfg(unix)]
fn passwd_entry(uid: u32) -> Option<(String, PathBuf)> {
    use uzers::os::unix::UserExt as _;
    let user = uzers::get_user_by_uid(uid)?;
    let name = user.name().to_str()?.to_owned();
    Some((name, user.home_dir().to_owned()))
}
#[cfg(not(unix))]
fn passwd_entry(_uid: u32) -> Option<(String, PathBuf)> {
    None
}

/// Linux's range for ports that `bind` and `connect` choose (ip(7), `ip_local_port_range`).
fn ephemeral_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace();
    let first = words.next()?.parse().ok()?;
    let last = words.next()?.parse().ok()?;
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn name_and_home_come_from_the_user_database() {
        let (name, home) = passwd_entry(0).unwrap();
        assert_eq!(name, "root");
        assert!(home.is_absolute(), "{home:?}");
        assert_eq!(passwd_entry(u32::MAX - 1), None);
    }

    #[test]
    fn debug_shows_no_variable() {
        assert!(!format!("{:?}", Env::for_tests("/h")).contains("/run/user/1000"));
    }
}
