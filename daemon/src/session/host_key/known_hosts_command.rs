//! KnownHostsCommand (ssh_config(5)): a program that says known_hosts lines, asked before a host shows its key and again
//! when it has.

use base64ct::{Base64, Encoding as _};
use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use crate::known_hosts::{self, Name};
use tunneld_config::env::Env;
use tunneld_config::model::Route;
use tunneld_config::parse::values;
use tunneld_config::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};
use tunneld_platform::subprocess as command;

/// The command, and what its tokens stand for.
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
    /// The command for a host.
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

    /// What it says, for one of ssh's reasons: ORDER, and HOSTNAME once the key is there.
    pub(crate) async fn ask(&self, reason: &str, key: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let failed = |why: &str| {
            Failure::new(
                FailureKind::KnownHosts,
                format!("KnownHostsCommand: {}", text::escape(why)),
            )
            .hint("without it no host key can be trusted: mend the command, or take it out")
        };
        let argv = self.argv(reason, key).map_err(|why| failed(&why))?;
        command::output(&argv).await.map_err(|why| failed(&why))
    }

    /// Split first, expanded then: what a token stands for is never more than one word.
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
