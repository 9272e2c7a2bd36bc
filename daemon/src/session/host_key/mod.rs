//! Whether a host key is trusted: what the known_hosts files say, what a person says, what an authority has signed.

pub(crate) mod known_hosts_command;
pub(crate) mod known_hosts_files;
pub(crate) mod update;

use russh::keys::PublicKeyBase64 as _;
use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::driver::{HostKey, HostKeyOffer};
use tunneld_ssh::signature::Certificate;

use crate::failure::{Failure, FailureKind};
use crate::known_hosts::{self, KnownHost, Name, Place, Recovery};
use crate::prompt::PromptRequest;
use crate::session::blob;
use crate::session::deadline::Prompter;
use crate::session::host_key::known_hosts_command::KnownHostsCommand;
use crate::session::host_key::update::HostKeyUpdater;
use tunneld_config::model::{HostKeyChecking, HostKeys, Route};

/// How often an answer that is neither yes nor no is asked again.
const ANSWERS: usize = 3;

/// What is known about a host before it shows its key.
pub(crate) struct HostKeyVerifier {
    host_keys: HostKeys,
    /// The host as it was reached, for messages.
    shown: String,
    /// The name without a port, for certificates.
    principal: String,
    name: Name,
    known: KnownHost,
    command: Option<KnownHostsCommand>,
    desk: Prompter,
    tunnel: String,
}

impl HostKeyVerifier {
    /// Reads what is known about `host`, as which `route` leads now.
    pub(crate) async fn gather(
        route: &Route,
        host: &str,
        desk: &Prompter,
        tunnel: &str,
    ) -> Result<Self, Failure> {
        let host_keys = &route.host_keys;
        let (name, principal) = match &host_keys.alias {
            Some(alias) => (Name::alias(alias), alias.to_lowercase()),
            None => (Name::new(host, route.port), host.to_lowercase()),
        };
        let command = host_keys
            .command
            .as_ref()
            .map(|template| KnownHostsCommand::new(template, route, host, &name));
        let said = match &command {
            Some(command) => Some(command.ask("ORDER", None).await?),
            None => None,
        };
        let known = known_hosts_files::look_up(host_keys, &name, said).await?;
        Ok(Self {
            host_keys: host_keys.clone(),
            shown: text::escape(&name.lookup),
            principal,
            name,
            known,
            command,
            desk: desk.clone(),
            tunnel: tunnel.to_owned(),
        })
    }

    /// Where further keys of this host go.
    pub(crate) fn updates(&self) -> HostKeyUpdater {
        HostKeyUpdater {
            host_keys: self.host_keys.clone(),
            name: self.name.clone(),
            tunnel: self.tunnel.clone(),
            shown: self.shown.clone(),
            asker: self.desk.asker().clone(),
        }
    }

    /// The host key algorithms to offer: what is known of the host first, certificates where an authority is trusted or
    /// some may be revoked.
    pub(crate) fn algorithms(&self) -> Vec<String> {
        let wanted: Vec<String> = if self.host_keys.algorithms.is_empty() {
            Kind::HostKey
                .defaults()
                .iter()
                .map(|name| (*name).to_owned())
                .collect()
        } else {
            self.host_keys.algorithms.clone()
        };
        let types = self.known.key_types();
        let (plain, mut offered): (Vec<String>, Vec<String>) = wanted
            .into_iter()
            .partition(|name| !name.contains("-cert-v01@"));
        if !self.known.has_authority() {
            // A revoked certificate counts against its key, whoever signed it.
            if self.host_keys.revoked_files.is_empty() && !self.known.has_revoked() {
                offered.clear();
            }
        } else if offered.is_empty() {
            offered = plain
                .iter()
                .filter(|name| *name != "ssh-rsa")
                .map(|name| format!("{name}-cert-v01@openssh.com"))
                .collect();
        }
        let (known, others): (Vec<String>, Vec<String>) = plain
            .into_iter()
            .partition(|name| types.iter().any(|of| key_type_of(name) == of));
        offered.extend(known);
        offered.extend(others);
        offered
    }

    /// Judges the key or certificate that the host showed and proved to hold.
    pub(crate) async fn judge(mut self, offer: &HostKeyOffer) -> Result<(), Failure> {
        if let Some(command) = &self.command {
            let said = command.ask("HOSTNAME", Some(&offer.blob)).await?;
            self.known =
                known_hosts_files::look_up(&self.host_keys, &self.name, Some(said)).await?;
        }
        let plain = plain_key(offer);
        let certificate = match &offer.key {
            HostKey::Plain(_) => None,
            HostKey::Certificate(certificate) => {
                let authority = certificate.authority.public_key_bytes();
                let says = blob::Certificate::read(&offer.blob).ok_or_else(|| {
                    Failure::new(FailureKind::Protocol, "the host's certificate is not whole")
                })?;
                Some((says, authority))
            }
        };
        let revoked = known_hosts_files::revoked_by(&self.host_keys, &plain, certificate).await?;
        if let Some(file) = revoked {
            return Err(self.revoked(&plain, &text::escape(&file)));
        }
        let note = match &offer.key {
            HostKey::Plain(_) => None,
            HostKey::Certificate(certificate) => {
                match self.judge_certificate(certificate, &plain)? {
                    Ok(()) => return Ok(()),
                    // As ssh does: the certificate falls away, the key in it is judged by itself.
                    Err(why) => Some(why),
                }
            }
        };
        match self.known.judge(&plain) {
            Recovery::Known => Ok(()),
            Recovery::Revoked(place) => Err(self.revoked(&plain, &at(&place))),
            Recovery::Changed(place) => Err(self.changed(&plain, &place)),
            Recovery::Unknown => self.meet(&plain, note).await,
        }
    }

    /// Whether the certificate holds; the inner error is why not.
    fn judge_certificate(
        &self,
        certificate: &Certificate,
        plain: &[u8],
    ) -> Result<Result<(), String>, Failure> {
        let authority = certificate.authority.public_key_bytes();
        for key in [authority.as_slice(), plain] {
            if let Some(place) = self.known.revoked(key) {
                return Err(self.revoked(key, &at(&place)));
            }
        }
        if !self.known.trusts_authority(&authority) {
            return Ok(Err("its authority is not trusted for this host".into()));
        }
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let checked = certificate.check_host(&self.principal, now);
        Ok(checked.map_err(|why| text::escape(&why.to_string())))
    }

    /// The host is seen for the first time.
    async fn meet(self, key: &[u8], note: Option<String>) -> Result<(), Failure> {
        let fingerprint = known_hosts::fingerprint(key);
        let kind = blob::short_type(known_hosts::key_type(key).unwrap_or_default());
        let note = note
            .map(|note| format!(" (its certificate does not count: {note})"))
            .unwrap_or_default();
        match self.host_keys.checking {
            HostKeyChecking::AcceptNew => {}
            HostKeyChecking::Strict => {
                return Err(Failure::new(
                    FailureKind::HostKeyUnknown,
                    format!("no {kind} host key is known for {} and strict_host_key_checking is yes: it shows {fingerprint}{note}", self.shown),
                )
                .hint("compare the fingerprint, then connect once with `ssh`, or set strict_host_key_checking to \"ask\""));
            }
            HostKeyChecking::Ask => self.ask(&kind, &fingerprint, &note).await?,
        }
        match known_hosts_files::add(&self.host_keys, &self.name, key).await {
            Ok(()) => tracing::info!(
                tunnel = self.tunnel,
                "{} is now known by its {kind} host key {fingerprint}",
                self.shown
            ),
            // As ssh does: it was trusted, and will be asked about again.
            Err(failure) if failure.kind == FailureKind::KnownHosts => {
                tracing::warn!(tunnel = self.tunnel, "{failure}; the host stays unknown")
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    async fn ask(&self, kind: &str, fingerprint: &str, note: &str) -> Result<(), Failure> {
        let mut again = "";
        for _ in 0..ANSWERS {
            let question = PromptRequest {
                kind: PromptKind::HostKey,
                host: self.shown.clone(),
                note: again.to_owned(),
                text: format!(
                    "The authenticity of host {} cannot be established{note}. Its {kind} key fingerprint is {fingerprint}.",
                    self.shown
                ),
                fields: vec![PromptField {
                    label: "Trust it (yes/no/fingerprint)? ".into(),
                    echo: true,
                }],
                fingerprint: Some(fingerprint.to_owned()),
            };
            let answer = self.desk.ask_one(question).await.map_err(|_| {
                Failure::new(
                    FailureKind::PromptCancelled,
                    format!(
                        "nobody said whether the host key {fingerprint} of {} is trusted",
                        self.shown
                    ),
                )
                .hint("compare the fingerprint and run `tunnelctl answer`")
            })?;
            let answer = answer.expose_secret().trim();
            if answer.eq_ignore_ascii_case("yes") || is_fingerprint(answer, fingerprint) {
                return Ok(());
            }
            if answer.eq_ignore_ascii_case("no") {
                break;
            }
            again = "Please type yes, no or the fingerprint. ";
        }
        Err(Failure::new(
            FailureKind::HostKeyUnknown,
            format!(
                "the host key {fingerprint} of {} was not accepted",
                self.shown
            ),
        )
        .hint("compare the fingerprint with the host's owner, then `tunnelctl up` asks again"))
    }

    fn revoked(&self, key: &[u8], place: &str) -> Failure {
        Failure::new(
            FailureKind::HostKeyRevoked,
            format!(
                "the host key {} of {} is revoked by {place}",
                known_hosts::fingerprint(key),
                self.shown
            ),
        )
        .hint("do not log in there: ask the host's owner for its new key")
    }

    fn changed(&self, key: &[u8], place: &Place) -> Failure {
        let now = blob::short_type(known_hosts::key_type(key).unwrap_or_default());
        let before = blob::short_type(&place.key_type);
        Failure::new(
            FailureKind::HostKeyChanged,
            format!(
                "the host key of {} has changed: it shows the {now} key {}, known is the {before} key {} ({}). \
                 Somebody may be listening in",
                self.shown,
                known_hosts::fingerprint(key),
                place.fingerprint,
                at(place)
            ),
        )
        .hint(format!(
            "if the host's owner confirms the new key: ssh-keygen -R '{}' -f '{}'",
            self.shown,
            text::escape(&place.file)
        ))
    }
}

fn at(place: &Place) -> String {
    format!("{}:{}", text::escape(&place.file), place.line)
}

/// The plain key of what a host showed: itself, or what its certificate certifies.
pub(crate) fn plain_key(offer: &HostKeyOffer) -> Vec<u8> {
    match &offer.key {
        HostKey::Plain(_) => offer.blob.to_vec(),
        HostKey::Certificate(certificate) => certificate.key.public_key_bytes(),
    }
}

/// The key type behind an algorithm's name.
fn key_type_of(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-512" | "rsa-sha2-256" => "ssh-rsa",
        name => name,
    }
}

fn is_fingerprint(answer: &str, fingerprint: &str) -> bool {
    let bare = |text: &str| text.strip_prefix("SHA256:").unwrap_or(text).to_owned();
    !answer.is_empty() && bare(answer) == bare(fingerprint)
}
