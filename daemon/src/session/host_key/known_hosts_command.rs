//! KnownHostsCommand (ssh_config(5)): a program that prints known_hosts lines. It runs before the server shows its host
//! key, to order the algorithms, and again with the key.

use base64ct::{Base64, Encoding as _};
use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use tunneld_config::env::Env;
use tunneld_config::model::Route;
use tunneld_config::parse::values;
use tunneld_config::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};
use tunneld_keys::known_hosts::{self, Name};
use tunneld_platform::subprocess;

/// The command and the values of its tokens.
pub(crate) struct KnownHostsCommand {
    template: String,
    env: Env,
    alias: String,
    host: String,
    port: u16,
    user: String,
    key_alias: String,
    lookup: String,
}

impl KnownHostsCommand {
    /// The command for `host`, which `route` leads to and known_hosts lists as `name`.
    pub(crate) fn new(template: &str, route: &Route, host: &str, name: &Name) -> Self {
        let key_alias = route.host_keys.alias.as_ref().unwrap_or(&route.alias);
        Self {
            template: template.to_owned(),
            env: Env::from_process(),
            alias: route.alias.clone(),
            host: host.to_owned(),
            port: route.port,
            user: route.user.clone(),
            key_alias: key_alias.clone(),
            lookup: name.lookup.clone(),
        }
    }

    /// Runs the command and returns its output. `reason` is the token `%I`: `ORDER` before the key is known, `HOSTNAME`
    /// with the key.
    ///
    /// # Errors
    /// The command failed: without its lines, no decision about the host key can be made.
    pub(crate) async fn run(&self, reason: &str, key: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let failed = |kind, why: &str| {
            Failure::new(kind, format!("known_hosts_command: {}", text::escape(why))).hint(
                "without it no host key can be trusted: fix known_hosts_command, or remove it",
            )
        };
        let argv = self.argv(reason, key);
        let argv = argv.map_err(|why| failed(FailureKind::KnownHosts, &why))?;
        // What the command asks (LDAP, a web service) may be away for a moment: retried, as a file that cannot be read.
        let output = subprocess::output(&argv).await;
        output.map_err(|why| failed(FailureKind::Unreadable, &why))
    }

    /// Splits the template into words before the tokens are expanded, so that a value never becomes two words.
    fn argv(&self, reason: &str, key: Option<&[u8]>) -> Result<Vec<String>, String> {
        let facts = TokenValues {
            env: &self.env,
            alias: &self.alias,
            host: &self.host,
            port: self.port,
            user: &self.user,
            key_alias: &self.key_alias,
            jump: "",
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "NONE".to_owned());
        let (fingerprint, base64, kind) = (
            or_none(key.map(known_hosts::fingerprint)),
            or_none(key.map(Base64::encode_string)),
            or_none(key.and_then(known_hosts::key_type).map(str::to_owned)),
        );
        let server = ServerKey {
            fingerprint: &fingerprint,
            lookup: &self.lookup,
            reason,
            key: &base64,
            kind: &kind,
        };
        values::split_words(&self.template)?
            .iter()
            .map(|word| tokens::expand(Keyword::KnownHostsCommand, word, &facts, &server))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }
}
