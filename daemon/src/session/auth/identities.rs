//! The identities that a login offers, in OpenSSH's order: the configured files that the agent holds, the other keys of
//! the agent, the other files; a certificate before its key.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::session::auth::agent::{self, Agent, AgentError, AgentKey};
use crate::session::auth::key_file::{self, FileError, KeyFile, Note};
use crate::session::auth::login::SignError;
use crate::session::auth::method::AuthContext;
use tunneld_config::model::{Agent as AgentSource, Auth};
use tunneld_keys::known_hosts;
use tunneld_keys::private_key;
use tunneld_keys::wire;

/// How many keys one login offers: sshd's default MaxAuthTries, after which it ends the connection.
pub(crate) const OFFER_LIMIT: usize = 6;

/// Who has the private key.
#[derive(Clone)]
pub(crate) enum KeyHolder {
    Agent(Arc<Mutex<Agent>>),
    File(Arc<Mutex<KeyFile>>),
}

/// A key or certificate that can be offered. Displayed as `ED25519 SHA256:… (agent, me@here)`.
#[derive(Clone)]
pub(crate) struct Identity {
    /// The key or certificate that is offered. `None` for a file whose public key is known only after it is decrypted.
    blob: Option<Vec<u8>>,
    /// The key that signs, as the agent knows it. Differs from `blob` for a certificate file.
    signing_key: Vec<u8>,
    holder: KeyHolder,
    /// Where the key comes from, for messages. Escaped.
    origin: String,
    /// Whether the configuration names the file, and it is not one of the default files.
    is_explicit: bool,
}

/// The identities of one login.
pub(crate) struct Identities {
    pub(crate) list: VecDeque<Identity>,
    /// Why keys are left out, with the remedy.
    pub(crate) notes: Vec<Note>,
    /// Configured files that cannot be read now.
    pub(crate) unreadable: Vec<PathBuf>,
    /// Whether an agent is configured and gave no key: it is not running, does not answer, is locked or empty.
    pub(crate) agent_unavailable: bool,
    /// Whether the agent could not be asked because a system call failed: the next dial may work.
    pub(crate) agent_try_again: bool,
}

/// What the agent and the files hold, before it is ordered.
struct Sources {
    agent: Option<Arc<Mutex<Agent>>>,
    agent_keys: Vec<AgentKey>,
    files: Vec<KeyFile>,
    certificates: Vec<Vec<u8>>,
    /// Files that cannot be read now.
    unreadable: Vec<PathBuf>,
    agent_try_again: bool,
}

impl Identities {
    /// Reads the configured files and asks the agent. What cannot be used becomes a note.
    pub(crate) async fn load(context: &AuthContext<'_>) -> Self {
        let auth = context.auth;
        let mut notes = Vec::new();
        let mut sources = Sources::load(context, &mut notes).await;
        let unreadable = std::mem::take(&mut sources.unreadable);
        let agent_unavailable =
            agent::socket(&auth.agent).is_some() && sources.agent_keys.is_empty();
        let agent_try_again = sources.agent_try_again;
        let mut list = sources.order(auth, &mut notes);
        if let Some(min_bits) = context.min_rsa_bits {
            list.retain(|identity| identity.has_rsa_bits(min_bits, &mut notes));
        }
        Self {
            list,
            notes,
            unreadable,
            agent_unavailable,
            agent_try_again,
        }
    }
}

impl Sources {
    async fn load(context: &AuthContext<'_>, notes: &mut Vec<Note>) -> Self {
        let auth = context.auth;
        let mut sources = Self {
            agent: None,
            agent_keys: Vec::new(),
            files: Vec::new(),
            certificates: Vec::new(),
            unreadable: Vec::new(),
            agent_try_again: false,
        };
        if let Err(error) = sources.load_agent(context).await {
            sources.agent_try_again = matches!(error, AgentError::TryAgain(_));
            notes.push(error.into_text());
        }
        // The agent of the user's shell is not that of a daemon which the service manager or cron has started.
        if auth.agent == AgentSource::Environment && agent::socket(&auth.agent).is_none() {
            notes.push(
                "tunneld has no agent: SSH_AUTH_SOCK is not set in its environment".to_owned(),
            );
        }
        for path in &auth.identity_files {
            match KeyFile::read(path, auth.identity_files_explicit).await {
                Ok(Some(file)) => match file.as_certificate() {
                    Some(certificate) => sources.certificates.push(certificate.to_vec()),
                    None => sources.files.push(file),
                },
                Ok(None) => {}
                Err(error) => sources.leave_out(path, error, notes),
            }
        }
        for path in &auth.certificate_files {
            match key_file::read_certificate(path).await {
                Ok(certificate) => sources.certificates.push(certificate),
                Err(error) => sources.leave_out(path, error, notes),
            }
        }
        for index in 0..sources.files.len() {
            let Some(file) = sources.files.get(index) else {
                continue;
            };
            let path = file.certificate_path();
            match file.certificate().await {
                Some(Ok(certificate)) => sources.certificates.push(certificate),
                Some(Err(error)) => sources.leave_out(&path, error, notes),
                None => {}
            }
        }
        sources
    }

    /// Records why the file at `path` is not used.
    fn leave_out(&mut self, path: &Path, error: FileError, notes: &mut Vec<Note>) {
        if matches!(error, FileError::Unreadable(_)) {
            self.unreadable.push(path.to_owned());
        }
        notes.push(error.note());
    }

    async fn load_agent(&mut self, context: &AuthContext<'_>) -> Result<(), AgentError> {
        let connected = Agent::connect(&context.auth.agent, context.signatures);
        if let Some(mut agent) = connected.await? {
            // The agent may ask its user about another tunnel's signature first.
            self.agent_keys = context.prompter.wait_beside(agent.keys()).await?;
            self.agent = Some(Arc::new(Mutex::new(agent)));
        }
        Ok(())
    }

    fn order(self, auth: &Auth, notes: &mut Vec<Note>) -> VecDeque<Identity> {
        let named = self.named_keys();
        let held: Vec<Vec<u8>> = self.agent_keys.iter().map(|key| key.blob.clone()).collect();
        let (in_agent, others) = agent_identities(self.agent, self.agent_keys, &named, auth);
        let from_files = file_identities(self.files, &held, auth, notes);
        arrange(in_agent, others, from_files, &self.certificates)
    }

    /// Everything that the configuration names: the files, the certificates, and the keys in the certificates.
    fn named_keys(&self) -> Vec<Vec<u8>> {
        let files = self
            .files
            .iter()
            .filter_map(|file| file.public().map(<[u8]>::to_vec));
        let certified = self
            .certificates
            .iter()
            .filter_map(|certificate| key_file::certified_key(certificate));
        files
            .chain(self.certificates.iter().cloned())
            .chain(certified)
            .collect()
    }
}

/// The keys of the agent: those that the configuration names, and the others. With IdentitiesOnly there are no others.
fn agent_identities(
    agent: Option<Arc<Mutex<Agent>>>,
    keys: Vec<AgentKey>,
    named: &[Vec<u8>],
    auth: &Auth,
) -> (Vec<Identity>, Vec<Identity>) {
    let (mut in_agent, mut others) = (Vec::new(), Vec::new());
    let Some(agent) = agent else {
        return (in_agent, others);
    };
    for key in keys {
        let is_named = named.contains(&key.blob)
            || key_file::certified_key(&key.blob).is_some_and(|plain| named.contains(&plain));
        if !is_named && auth.identities_only {
            continue;
        }
        let identity = Identity {
            signing_key: key.blob.clone(),
            blob: Some(key.blob),
            holder: KeyHolder::Agent(Arc::clone(&agent)),
            origin: format!("agent, {}", key.comment),
            is_explicit: false,
        };
        match is_named {
            true => in_agent.push(identity),
            false => others.push(identity),
        }
    }
    (in_agent, others)
}

/// The files that the agent does not hold. `held` are the agent's public keys.
fn file_identities(
    files: Vec<KeyFile>,
    held: &[Vec<u8>],
    auth: &Auth,
    notes: &mut Vec<Note>,
) -> Vec<Identity> {
    let mut identities = Vec::new();
    for file in files {
        let public = file.public().map(<[u8]>::to_vec);
        // The agent signs without a passphrase, so its copy is used.
        if public.as_ref().is_some_and(|public| held.contains(public)) {
            continue;
        }
        if !file.can_sign() {
            notes.push(cannot_sign(&file));
            continue;
        }
        identities.push(Identity {
            signing_key: public.clone().unwrap_or_default(),
            blob: public,
            origin: format!("file {}", file.shown()),
            holder: KeyHolder::File(Arc::new(Mutex::new(file))),
            is_explicit: auth.identity_files_explicit,
        });
    }
    identities
}

fn cannot_sign(file: &KeyFile) -> Note {
    let shown = file.shown();
    match file.public().is_some_and(private_key::is_security_key) {
        true => format!(
            "{shown} belongs to a security key, which signs only through an agent: run `ssh-add {shown}` for the \
             agent that tunneld uses"
        ),
        false => format!("{shown} is a public key, and the agent does not hold its private key"),
    }
}

/// Puts identities into the order in which they are offered.
fn arrange(
    in_agent: Vec<Identity>,
    others: Vec<Identity>,
    from_files: Vec<Identity>,
    certificates: &[Vec<u8>],
) -> VecDeque<Identity> {
    // Files that the configuration names go before the agent's other keys if all of them together exceed
    // the limit. Else a full agent would use up all attempts before the right file is offered.
    let is_crowded = in_agent.len() + others.len() + from_files.len() > OFFER_LIMIT;
    let files_first = is_crowded && from_files.iter().any(|identity| identity.is_explicit);
    let mut keys = in_agent;
    if files_first {
        keys.extend(from_files);
        keys.extend(others);
    } else {
        keys.extend(others);
        keys.extend(from_files);
    }
    let mut list = certified_identities(&keys, certificates);
    for key in keys {
        let is_listed = key.blob.is_some() && list.iter().any(|listed| listed.blob == key.blob);
        if !is_listed {
            list.push_back(key);
        }
    }
    list
}

/// The certificates whose key is among `keys`, each signed for by that key. As in ssh, they go
/// before the plain keys.
fn certified_identities(keys: &[Identity], certificates: &[Vec<u8>]) -> VecDeque<Identity> {
    let mut list: VecDeque<Identity> = VecDeque::new();
    for certificate in certificates {
        let Some(plain) = key_file::certified_key(certificate) else {
            continue;
        };
        let key = keys.iter().find(|key| key.blob.as_ref() == Some(&plain));
        let is_listed = list
            .iter()
            .any(|listed| listed.blob.as_ref() == Some(certificate));
        if let (Some(key), false) = (key, is_listed) {
            list.push_back(Identity {
                blob: Some(certificate.clone()),
                ..key.clone()
            });
        }
    }
    list
}

impl Identity {
    /// Returns the key or certificate to offer. Decrypts the file only if it has no readable public half (PEM,
    /// PKCS#8): a key that the server does not accept should not cost the user a passphrase.
    pub(crate) async fn public_blob(
        &mut self,
        context: &AuthContext<'_>,
    ) -> Result<Vec<u8>, SignError> {
        if let Some(blob) = &self.blob {
            return Ok(blob.clone());
        }
        let KeyHolder::File(file) = &self.holder else {
            return Err(SignError::Unable("it has no public key".into()));
        };
        let mut file = file.lock().await;
        file.unlock(context).await?;
        let blob = file.public().map(<[u8]>::to_vec).unwrap_or_default();
        self.signing_key.clone_from(&blob);
        self.blob = Some(blob.clone());
        Ok(blob)
    }

    pub(crate) fn holder(&self) -> &KeyHolder {
        &self.holder
    }

    /// The public key or certificate by which the agent knows the private key.
    pub(crate) fn signing_key(&self) -> &[u8] {
        &self.signing_key
    }

    /// Whether the agent signs for it.
    pub(crate) fn is_in_agent(&self) -> bool {
        matches!(self.holder, KeyHolder::Agent(_))
    }
}

impl Identity {
    /// Whether the key has the bits that RequiredRSASize asks for. If not, a note says so. True for a key that is known only
    /// after it is decrypted: the server then decides.
    fn has_rsa_bits(&self, min_bits: u32, notes: &mut Vec<Note>) -> bool {
        let Some(bits) = self.blob.as_ref().and_then(|blob| {
            let plain = key_file::certified_key(blob);
            wire::rsa_bits(plain.as_ref().unwrap_or(blob))
        }) else {
            return true;
        };
        let is_long_enough = u32::try_from(bits).is_ok_and(|bits| bits >= min_bits);
        if !is_long_enough {
            notes.push(format!(
                "{self} has {bits} bits; required_rsa_size = {min_bits} leaves it out"
            ));
        }
        is_long_enough
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(blob) = &self.blob else {
            return f.write_str(&self.origin);
        };
        let kind = wire::short_type(wire::name(blob).unwrap_or_default());
        // As ssh-keygen -l does: a certificate is shown by the fingerprint of its key.
        let key = key_file::certified_key(blob);
        let fingerprint = known_hosts::fingerprint(key.as_ref().unwrap_or(blob));
        write!(f, "{kind} {fingerprint} ({})", self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, is_explicit: bool) -> Identity {
        let mut key = Vec::new();
        wire::put_string(&mut key, name.as_bytes());
        Identity {
            blob: Some(key.clone()),
            signing_key: key,
            holder: KeyHolder::Agent(Arc::new(Mutex::new(Agent::unconnected()))),
            origin: name.to_owned(),
            is_explicit,
        }
    }

    #[test]
    fn named_files_go_before_the_other_keys_of_a_full_agent() {
        let origins = |list: VecDeque<Identity>| -> Vec<String> {
            list.into_iter().map(|identity| identity.origin).collect()
        };
        let agent = |count: usize| {
            (0..count)
                .map(|n| identity(&format!("a{n}"), false))
                .collect()
        };
        let named = || vec![identity("m", false)];
        let few = arrange(named(), agent(2), vec![identity("f", true)], &[]);
        assert_eq!(origins(few), ["m", "a0", "a1", "f"]);
        let many = arrange(named(), agent(9), vec![identity("f", true)], &[]);
        assert_eq!(origins(many)[..3], ["m", "f", "a0"]);
        let default = arrange(Vec::new(), agent(9), vec![identity("f", false)], &[]);
        assert_eq!(origins(default).last().unwrap(), "f");
    }
}
