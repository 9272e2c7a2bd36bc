//! The keys that a login offers, in OpenSSH's order: what the agent holds of the configured files, the rest of the
//! agent, the files; a certificate before its key. And their signing.

use std::collections::VecDeque;
use std::sync::Arc;

use russh::keys::PrivateKey;
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;

use crate::known_hosts;
use crate::prompt::PromptRequest;
use crate::session::auth::agent::{self, Agent};
use crate::session::auth::key_file::{self, KeyFile, Note};
use crate::session::auth::login::{Offer, Sign, SignError};
use crate::session::blob;
use crate::session::deadline::Prompter;
use crate::session::private_key;
use tunneld_config::model::{AddKeysToAgent, Auth};

/// How many keys are offered at most: sshd's default MaxAuthTries.
pub(crate) const OFFERS: usize = 6;

/// Who signs for a candidate.
#[derive(Clone)]
enum Holder {
    Agent(Arc<Mutex<Agent>>),
    File(Arc<Mutex<KeyFile>>),
}

/// A key or certificate that can be offered.
#[derive(Clone)]
pub(crate) struct Candidate {
    /// What is offered; none for a file whose public key only its passphrase tells.
    blob: Option<Vec<u8>>,
    /// The plain key that signs, as the agent knows it.
    signs_as: Vec<u8>,
    holder: Holder,
    /// Where it comes from, for messages.
    pub(crate) origin: String,
    explicit: bool,
}

/// The candidates, and what kept others from being any.
pub(crate) struct Candidates {
    pub(crate) list: VecDeque<Candidate>,
    pub(crate) notes: Vec<Note>,
    /// Whether there is an agent to ask that gave no key: it is away, silent, locked or empty.
    pub(crate) agent_wanting: bool,
}

impl Candidates {
    /// Gathers them: files, certificates, agent.
    pub(crate) async fn gather(auth: &Auth) -> Self {
        let mut notes = Vec::new();
        let placed = agent::socket(&auth.agent).is_some();
        let (agent, note) = Agent::find(&auth.agent).await;
        notes.extend(note);
        let mut held = Vec::new();
        let agent = match agent {
            None => None,
            Some(mut agent) => match agent.identities().await {
                Ok(identities) => {
                    held = identities;
                    Some(Arc::new(Mutex::new(agent)))
                }
                Err(why) => {
                    notes.push(why);
                    None
                }
            },
        };
        let agent_wanting = placed && held.is_empty();
        let mut files = Vec::new();
        for path in &auth.identity_files {
            match KeyFile::read(path, auth.identity_files_explicit).await {
                Ok(Some(file)) => files.push(file),
                Ok(None) => {}
                Err(note) => notes.push(note),
            }
        }
        let mut certificates = Vec::new();
        for path in &auth.certificate_files {
            match key_file::read_certificate(path).await {
                Ok(certificate) => certificates.push(certificate),
                Err(note) => notes.push(note),
            }
        }
        for file in &files {
            match file.certificate().await {
                Some(Ok(certificate)) => certificates.push(certificate),
                Some(Err(note)) => notes.push(note),
                None => {}
            }
        }
        let list = order(auth, agent.as_ref(), held, files, certificates, &mut notes);
        Self {
            list,
            notes,
            agent_wanting,
        }
    }
}

fn order(
    auth: &Auth,
    agent: Option<&Arc<Mutex<Agent>>>,
    held: Vec<agent::Identity>,
    files: Vec<KeyFile>,
    certificates: Vec<Vec<u8>>,
    notes: &mut Vec<Note>,
) -> VecDeque<Candidate> {
    let named: Vec<Vec<u8>> = files
        .iter()
        .filter_map(|file| file.public().map(<[u8]>::to_vec))
        .chain(certificates.iter().cloned())
        .chain(
            certificates
                .iter()
                .filter_map(|certificate| key_file::certified_key(certificate)),
        )
        .collect();
    let (mut from_files, mut of_agent, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let held_blobs: Vec<Vec<u8>> = held.iter().map(|identity| identity.blob.clone()).collect();
    for identity in held {
        let Some(agent) = agent else { break };
        let is_named = named.contains(&identity.blob)
            || key_file::certified_key(&identity.blob).is_some_and(|key| named.contains(&key));
        if !is_named && auth.identities_only {
            continue;
        }
        let candidate = Candidate {
            signs_as: identity.blob.clone(),
            blob: Some(identity.blob),
            holder: Holder::Agent(Arc::clone(agent)),
            origin: format!("agent, {}", identity.comment),
            explicit: false,
        };
        if is_named {
            of_agent.push(candidate);
        } else {
            others.push(candidate);
        }
    }
    for file in files {
        let public = file.public().map(<[u8]>::to_vec);
        let in_agent = public
            .as_ref()
            .is_some_and(|public| held_blobs.contains(public));
        if in_agent {
            continue;
        }
        if !file.can_sign() {
            let shown = file.shown();
            notes.push(match public.as_deref().is_some_and(private_key::is_of_token) {
                true => format!(
                    "{shown} is of a security key, which signs through the agent: `ssh-add {shown}`, for the agent \
                     that tunneld sees"
                ),
                false => format!("{shown} is a public key that the agent does not hold"),
            });
            continue;
        }
        from_files.push(Candidate {
            signs_as: public.clone().unwrap_or_default(),
            blob: public,
            origin: format!("file {}", file.shown()),
            holder: Holder::File(Arc::new(Mutex::new(file))),
            explicit: auth.identity_files_explicit,
        });
    }
    arrange(of_agent, others, from_files, &certificates)
}

/// A certificate goes before the key that it certifies; files that were asked for go before the agent's other keys
/// where those alone would use up the server's patience.
fn arrange(
    of_agent: Vec<Candidate>,
    others: Vec<Candidate>,
    from_files: Vec<Candidate>,
    certificates: &[Vec<u8>],
) -> VecDeque<Candidate> {
    let crowded = of_agent.len() + others.len() + from_files.len() > OFFERS;
    let explicit = from_files.iter().any(|candidate| candidate.explicit);
    let mut plain = of_agent;
    if crowded && explicit {
        plain.extend(from_files);
        plain.extend(others);
    } else {
        plain.extend(others);
        plain.extend(from_files);
    }
    let mut list: VecDeque<Candidate> = VecDeque::new();
    for certificate in certificates {
        let Some(key) = key_file::certified_key(certificate) else {
            continue;
        };
        let signer = plain
            .iter()
            .find(|candidate| candidate.blob.as_ref() == Some(&key));
        if let Some(signer) = signer
            && !list
                .iter()
                .any(|listed| listed.blob.as_ref() == Some(certificate))
        {
            list.push_back(Candidate {
                blob: Some(certificate.clone()),
                ..signer.clone()
            });
        }
    }
    for candidate in plain {
        let twice =
            candidate.blob.is_some() && list.iter().any(|listed| listed.blob == candidate.blob);
        if !twice {
            list.push_back(candidate);
        }
    }
    list
}

impl Candidate {
    /// What is offered, unlocking the file where that is the only way to know.
    pub(crate) async fn offered(
        &mut self,
        auth: &Auth,
        desk: &Prompter,
        host: &str,
    ) -> Result<Vec<u8>, SignError> {
        if let Some(blob) = &self.blob {
            return Ok(blob.clone());
        }
        let Holder::File(file) = &self.holder else {
            return Err(SignError::Unable("it has no public key".into()));
        };
        let mut file = file.lock().await;
        file.unlock(auth, desk, host).await?;
        let blob = file.public().map(<[u8]>::to_vec).unwrap_or_default();
        self.signs_as.clone_from(&blob);
        self.blob = Some(blob.clone());
        Ok(blob)
    }

    /// Whether the agent signs for it.
    pub(crate) fn is_agents(&self) -> bool {
        matches!(self.holder, Holder::Agent(_))
    }

    /// Its name for messages: `ED25519 SHA256:… (agent, me@here)`.
    pub(crate) fn shown(&self) -> String {
        match &self.blob {
            Some(blob) => {
                let kind = blob::short_type(blob::name(blob).unwrap_or_default());
                let key = key_file::certified_key(blob);
                let fingerprint = known_hosts::fingerprint(key.as_ref().unwrap_or(blob));
                format!("{kind} {fingerprint} ({})", self.origin)
            }
            None => self.origin.clone(),
        }
    }

    /// The one who signs for it.
    pub(crate) fn signer<'a>(
        &self,
        offer: &Offer,
        auth: &'a Auth,
        desk: &'a Prompter,
        host: &'a str,
    ) -> Signer<'a> {
        Signer {
            candidate: self.clone(),
            algorithm: offer.algorithm.clone(),
            auth,
            desk,
            host,
        }
    }
}

/// Signs for one candidate.
pub(crate) struct Signer<'a> {
    candidate: Candidate,
    algorithm: String,
    auth: &'a Auth,
    desk: &'a Prompter,
    host: &'a str,
}

impl Signer<'_> {
    /// AddKeysToAgent. What fails there does not hinder the login.
    async fn give_to_agent(&self, key: &PrivateKey, path: &str) {
        let (confirm, lifetime) = match self.auth.add_keys_to_agent {
            AddKeysToAgent::Never => return,
            AddKeysToAgent::Ask if !self.may_add(path).await => return,
            AddKeysToAgent::Ask => (false, None),
            AddKeysToAgent::Always { confirm, lifetime } => (confirm, lifetime),
        };
        let (Some(mut agent), Some(encoded)) = (
            Agent::find(&self.auth.agent).await.0,
            key_file::for_agent(key),
        ) else {
            return;
        };
        if let Err(why) = agent.add(&encoded, path, confirm, lifetime).await {
            tracing::warn!("adding the key {path} to the agent: {why}");
        }
    }

    async fn may_add(&self, path: &str) -> bool {
        let question = PromptRequest {
            kind: PromptKind::KeyboardInteractive,
            host: self.host.to_owned(),
            note: String::new(),
            text: format!("Add the key {path} to the agent?"),
            fields: vec![PromptField {
                label: "yes/no: ".into(),
                echo: true,
            }],
            fingerprint: None,
        };
        let answer = self.desk.ask_one(question).await;
        answer.is_ok_and(|answer| answer.expose_secret().trim().eq_ignore_ascii_case("yes"))
    }
}

impl Sign for Signer<'_> {
    async fn sign(&mut self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.candidate.holder {
            Holder::Agent(agent) => {
                // A touch is a person's time, and so is the consent that an agent asks for.
                let _pause = self.desk.pause();
                let mut agent = agent.lock().await;
                let signed = agent
                    .sign(&self.candidate.signs_as, data, &self.algorithm)
                    .await;
                signed.map_err(SignError::Unable)
            }
            Holder::File(file) => {
                let mut file = file.lock().await;
                let key = file.unlock(self.auth, self.desk, self.host).await?;
                let signed = key_file::sign(&key, data, &self.algorithm)
                    .map_err(|why| SignError::Unable(text::escape(&why)))?;
                self.give_to_agent(&key, &file.shown()).await;
                Ok(signed)
            }
        }
    }
}

/// The signature algorithms to offer a key with, one after the other: what the configuration allows and the server
/// says it takes.
pub(crate) fn algorithms(
    blob: &[u8],
    allowed: &[String],
    server: Option<&[String]>,
) -> Vec<String> {
    let Some(name) = blob::name(blob) else {
        return Vec::new();
    };
    let (plain, certified) = blob::plain_type(name);
    if plain != "ssh-rsa" {
        let fits = allowed.is_empty() || allowed.iter().any(|allowed| allowed == name);
        return if fits {
            vec![name.to_owned()]
        } else {
            Vec::new()
        };
    }
    let suffix = if certified {
        "-cert-v01@openssh.com"
    } else {
        ""
    };
    let named = |plain: &str| allowed.contains(&format!("{plain}{suffix}"));
    let told = |plain: &str| server.is_none_or(|server| server.iter().any(|taken| taken == plain));
    let sha2 = ["rsa-sha2-512", "rsa-sha2-256"]
        .into_iter()
        .find(|plain| told(plain) && (allowed.is_empty() || named(plain)));
    // SHA-1 only where it was written. A server that tells nothing is one of its time; one that tells of SHA-2 may
    // tell more than it takes.
    let sha1 = Some("ssh-rsa").filter(|plain| told(plain) && named(plain));
    let order = if server.is_none() {
        [sha1, sha2]
    } else {
        [sha2, sha1]
    };
    let known = order.into_iter().flatten();
    known.map(|plain| format!("{plain}{suffix}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str) -> Vec<u8> {
        let mut key = Vec::new();
        blob::put_string(&mut key, kind.as_bytes());
        key
    }

    #[test]
    fn rsa_signs_with_sha2() {
        let rsa = key("ssh-rsa");
        assert_eq!(algorithms(&rsa, &[], None), ["rsa-sha2-512"]);
        let only_256 = ["rsa-sha2-256".to_owned(), "ssh-rsa".to_owned()];
        assert_eq!(algorithms(&rsa, &[], Some(&only_256)), ["rsa-sha2-256"]);
        assert_eq!(algorithms(&rsa, &["ssh-rsa".to_owned()], None), ["ssh-rsa"]);
        let with_sha1 = ["rsa-sha2-512".to_owned(), "ssh-rsa".to_owned()];
        assert_eq!(
            algorithms(&rsa, &with_sha1, None),
            ["ssh-rsa", "rsa-sha2-512"],
            "an old server that tells nothing"
        );
        assert_eq!(
            algorithms(&rsa, &with_sha1, Some(&with_sha1)),
            ["rsa-sha2-512", "ssh-rsa"]
        );
        let certified = algorithms(&key("ssh-rsa-cert-v01@openssh.com"), &[], None);
        assert_eq!(
            certified.first().unwrap(),
            "rsa-sha2-512-cert-v01@openssh.com"
        );
        assert_eq!(
            algorithms(&key("ssh-ed25519"), &[], Some(&only_256)),
            ["ssh-ed25519"]
        );
        assert!(algorithms(&key("ssh-ed25519"), &only_256, None).is_empty());
    }

    fn file(seed: &str, explicit: bool) -> Candidate {
        Candidate {
            blob: Some(key(seed)),
            signs_as: key(seed),
            holder: Holder::Agent(Arc::new(Mutex::new(Agent::unconnected()))),
            origin: seed.to_owned(),
            explicit,
        }
    }

    #[test]
    fn files_that_were_asked_for_do_not_drown_in_a_full_agent() {
        let origins = |list: VecDeque<Candidate>| -> Vec<String> {
            list.into_iter().map(|candidate| candidate.origin).collect()
        };
        let agent = |count: usize| (0..count).map(|n| file(&format!("a{n}"), false)).collect();
        let few = arrange(vec![file("m", false)], agent(2), vec![file("f", true)], &[]);
        assert_eq!(origins(few), ["m", "a0", "a1", "f"]);
        let many = arrange(vec![file("m", false)], agent(9), vec![file("f", true)], &[]);
        assert_eq!(origins(many)[..3], ["m", "f", "a0"]);
        let default = arrange(Vec::new(), agent(9), vec![file("f", false)], &[]);
        assert_eq!(origins(default).last().unwrap(), "f");
    }
}
