//! Decides whether a host key is trusted: by the known_hosts files, by a certificate authority, or by the user.
//!
//! Reading and writing the files is in `known_hosts_files`; later keys of a trusted host are handled in `update`.

pub(crate) mod known_hosts_command;
pub(crate) mod known_hosts_files;
pub(crate) mod update;

use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::signature::Certificate;
use tunneld_ssh::transport::{HostKey, HostKeyOffer};

use crate::failure::{Failure, FailureKind};
use crate::prompt::PromptRequest;
use crate::session::deadline::Prompter;
use crate::session::host_key::known_hosts_command::KnownHostsCommand;
use crate::session::host_key::known_hosts_files::KnownHostsWriter;
use crate::session::host_key::update::HostKeyUpdater;
use tunneld_config::model::{HostKeyChecking, HostKeys, Route};
use tunneld_keys::known_hosts::{self, HostKeyStatus, KnownHost, Location, Name};
use tunneld_keys::wire;

/// How often the user is asked until the answer is yes, no or a fingerprint.
const ANSWER_LIMIT: usize = 3;

/// Verifies the host key of one host. Made before the server shows its key, since what is known of the host decides
/// which algorithms are offered.
pub(crate) struct HostKeyVerifier {
    host_keys: HostKeys,
    /// The host as messages name it, escaped.
    shown: String,
    /// The host name without the port, in lower case, as certificates list it.
    principal: String,
    name: Name,
    known: KnownHost,
    command: Option<KnownHostsCommand>,
    prompter: Prompter,
    tunnel: String,
    writer: KnownHostsWriter,
}

impl HostKeyVerifier {
    /// Reads what is known about `host`, to which `route` leads now.
    ///
    /// # Errors
    /// A known_hosts file cannot be read, or known_hosts_command failed.
    pub(crate) async fn new(
        route: &Route,
        host: &str,
        prompter: &Prompter,
        tunnel: &str,
        writer: &KnownHostsWriter,
    ) -> Result<Self, Failure> {
        let host_keys = &route.host_keys;
        // HostKeyAlias replaces host and port: it names a server that is reached by changing addresses.
        let (name, principal) = match &host_keys.alias {
            Some(alias) => (Name::alias(alias), alias.to_lowercase()),
            None => (Name::new(host, route.port), host.to_lowercase()),
        };
        let command = host_keys
            .command
            .as_ref()
            .map(|template| KnownHostsCommand::new(template, route, host, &name));
        let output = match &command {
            Some(command) => Some(command.run("ORDER", None).await?),
            None => None,
        };
        let known = known_hosts_files::look_up(host_keys, &name, output).await?;
        Ok(Self {
            host_keys: host_keys.clone(),
            shown: text::escape(&name.lookup),
            principal,
            name,
            known,
            command,
            prompter: prompter.clone(),
            tunnel: tunnel.to_owned(),
            writer: writer.clone(),
        })
    }

    /// The updater for further keys of this host.
    pub(crate) fn updater(&self) -> HostKeyUpdater {
        HostKeyUpdater {
            host_keys: self.host_keys.clone(),
            name: self.name.clone(),
            tunnel: self.tunnel.clone(),
            shown: self.shown.clone(),
            prompts: self.prompter.sender().clone(),
            writer: self.writer.clone(),
        }
    }

    /// The host key algorithms to offer, in order. Those of known keys go first, as in OpenSSH: a server that has
    /// several keys then shows one that is known, and a new type does not look like a changed key.
    pub(crate) fn algorithms(&self) -> Vec<String> {
        let configured: Vec<String> = if self.host_keys.algorithms.is_empty() {
            Kind::HostKey
                .defaults()
                .iter()
                .map(|name| (*name).to_owned())
                .collect()
        } else {
            self.host_keys.algorithms.clone()
        };
        let (plain, certified): (Vec<String>, Vec<String>) = configured
            .into_iter()
            .partition(|name| !name.contains("-cert-v01@"));
        let mut offered = self.certificate_algorithms(certified, &plain);
        let known_types = self.known.key_types();
        let (known, others): (Vec<String>, Vec<String>) = plain
            .into_iter()
            .partition(|name| known_types.iter().any(|known| key_type_of(name) == known));
        offered.extend(known);
        offered.extend(others);
        offered
    }

    /// The certificate algorithms to offer: `configured`, or those of the `plain` algorithms if none is configured.
    fn certificate_algorithms(&self, configured: Vec<String>, plain: &[String]) -> Vec<String> {
        if !self.known.has_authority() {
            // No certificate can be trusted. Still, a revoked one counts against the key in it, whoever signed it, so
            // certificates are requested if anything is revoked.
            let has_revocations =
                !self.host_keys.revoked_files.is_empty() || self.known.has_revoked();
            return match has_revocations {
                true => configured,
                false => Vec::new(),
            };
        }
        if !configured.is_empty() {
            return configured;
        }
        plain
            .iter()
            // SHA-1 signatures are not offered for certificates.
            .filter(|name| *name != "ssh-rsa")
            .map(|name| format!("{name}-cert-v01@openssh.com"))
            .collect()
    }

    /// Verifies the key or certificate that the server showed and proved to hold.
    ///
    /// # Errors
    /// It is revoked, changed or not trusted, or that cannot be decided.
    pub(crate) async fn verify(mut self, offer: &HostKeyOffer) -> Result<(), Failure> {
        if let Some(command) = &self.command {
            let output = command.run("HOSTNAME", Some(&offer.blob)).await?;
            self.known =
                known_hosts_files::look_up(&self.host_keys, &self.name, Some(output)).await?;
        }
        let plain = plain_key(offer);
        // Before anything else: a revoked key is rejected even if it is known or certified.
        self.check_revoked_files(offer, &plain).await?;
        let note = match &offer.key {
            HostKey::Plain(_) => None,
            HostKey::Certificate(certificate) => {
                match self.check_certificate(certificate, &plain)? {
                    CertificateStatus::Trusted => return Ok(()),
                    // As in ssh: the certificate is ignored, and the key in it is verified by itself.
                    CertificateStatus::Ignored(why) => Some(why),
                }
            }
        };
        match self.known.judge(&plain) {
            HostKeyStatus::Known => Ok(()),
            HostKeyStatus::Revoked(location) => Err(self.revoked(&plain, &at(&location))),
            HostKeyStatus::Changed(location) => Err(self.changed(&plain, &location)),
            HostKeyStatus::Unknown => self.on_unknown(&plain, note).await,
        }
    }

    async fn check_revoked_files(&self, offer: &HostKeyOffer, plain: &[u8]) -> Result<(), Failure> {
        let certificate = match &offer.key {
            HostKey::Plain(_) => None,
            HostKey::Certificate(certificate) => {
                let authority = certificate.authority.to_vec();
                let fields = wire::Certificate::read(&offer.blob).ok_or_else(|| {
                    Failure::new(
                        FailureKind::Protocol,
                        "the server's host certificate is malformed",
                    )
                })?;
                Some((fields, authority))
            }
        };
        match known_hosts_files::revoked_by(&self.host_keys, plain, certificate).await? {
            Some(file) => Err(self.revoked(plain, &text::escape(&file))),
            None => Ok(()),
        }
    }

    /// Checks a certificate against the authorities of known_hosts.
    ///
    /// # Errors
    /// The authority or the key in the certificate is revoked.
    fn check_certificate(
        &self,
        certificate: &Certificate,
        plain: &[u8],
    ) -> Result<CertificateStatus, Failure> {
        let authority = certificate.authority.to_vec();
        for key in [authority.as_slice(), plain] {
            if let Some(location) = self.known.revoked(key) {
                return Err(self.revoked(key, &at(&location)));
            }
        }
        if !self.known.trusts_authority(&authority) {
            let why = "its authority is not trusted for this host";
            return Ok(CertificateStatus::Ignored(why.into()));
        }
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
        Ok(match certificate.check_host(&self.principal, now) {
            Ok(()) => CertificateStatus::Trusted,
            Err(why) => CertificateStatus::Ignored(text::escape(&why.to_string())),
        })
    }

    /// Handles a host that known_hosts does not list, by StrictHostKeyChecking. `certificate_note` is why its
    /// certificate was ignored; `None` if it has none.
    async fn on_unknown(self, key: &[u8], certificate_note: Option<String>) -> Result<(), Failure> {
        let fingerprint = known_hosts::fingerprint(key);
        let kind = wire::short_type(known_hosts::key_type(key).unwrap_or_default());
        let note = certificate_note
            .map(|why| format!(" (its certificate is ignored: {why})"))
            .unwrap_or_default();
        match self.host_keys.checking {
            HostKeyChecking::AcceptNew => {}
            HostKeyChecking::Strict => {
                return Err(Failure::new(
                    FailureKind::HostKeyUnknown,
                    format!(
                        "no {kind} host key is known for {} and strict_host_key_checking is yes: the server shows \
                         {fingerprint}{note}",
                        self.shown
                    ),
                )
                .hint(
                    "compare the fingerprint, then connect once with `ssh`, or set strict_host_key_checking to \"ask\"",
                ));
            }
            HostKeyChecking::Ask => self.ask(&kind, &fingerprint, &note).await?,
        }
        let keys = [key.to_vec()];
        match self.writer.add(&self.host_keys, &self.name, &keys).await {
            Ok(()) => tracing::info!(
                tunnel = self.tunnel,
                "added the {kind} host key {fingerprint} of {} to known_hosts",
                self.shown
            ),
            // As in ssh: the key is trusted for this session, and the next dial asks again.
            Err(failure)
                if matches!(
                    failure.kind,
                    FailureKind::KnownHosts | FailureKind::Unreadable
                ) =>
            {
                tracing::warn!(
                    tunnel = self.tunnel,
                    "{failure}; the host key is not remembered"
                );
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Asks the user whether to trust the key.
    async fn ask(&self, kind: &str, fingerprint: &str, note: &str) -> Result<(), Failure> {
        let mut again = "";
        for _ in 0..ANSWER_LIMIT {
            let request = PromptRequest {
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
                server: None,
            };
            let answer = self.prompter.ask_one(request).await;
            let answer = answer.map_err(|_| self.not_confirmed(fingerprint))?;
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
        .hint("compare the fingerprint with the host's owner; `tunnelctl up` asks again"))
    }

    fn not_confirmed(&self, fingerprint: &str) -> Failure {
        Failure::new(
            FailureKind::NotAnswered,
            format!(
                "the unknown host key {fingerprint} of {} must be confirmed, but the prompt was not answered",
                self.shown
            ),
        )
        .hint("compare the fingerprint and run `tunnelctl answer`")
    }

    fn revoked(&self, key: &[u8], location: &str) -> Failure {
        Failure::new(
            FailureKind::HostKeyRevoked,
            format!(
                "the host key {} of {} is revoked by {location}",
                known_hosts::fingerprint(key),
                self.shown
            ),
        )
        .hint("do not log in there: ask the host's owner for its new key")
    }

    fn changed(&self, key: &[u8], location: &Location) -> Failure {
        let shown_type = wire::short_type(known_hosts::key_type(key).unwrap_or_default());
        let known_type = wire::short_type(&location.key_type);
        Failure::new(
            FailureKind::HostKeyChanged,
            format!(
                "the host key of {} has changed: the server shows the {shown_type} key {}, known is the {known_type} \
                 key {} ({}). Someone may be intercepting the connection",
                self.shown,
                known_hosts::fingerprint(key),
                location.fingerprint,
                at(location)
            ),
        )
        .hint(format!(
            "if the host's owner confirms the new key: ssh-keygen -R '{}' -f '{}'",
            self.shown,
            text::escape(&location.file)
        ))
    }
}

/// Whether a certificate decides that a host is trusted.
enum CertificateStatus {
    Trusted,
    /// It does not count; holds the reason, escaped.
    Ignored(String),
}

/// `FILE:LINE`, escaped.
fn at(location: &Location) -> String {
    format!("{}:{}", text::escape(&location.file), location.line)
}

/// The plain key of an offer: the key itself, or the one in the certificate.
pub(crate) fn plain_key(offer: &HostKeyOffer) -> Vec<u8> {
    match &offer.key {
        HostKey::Plain(_) => offer.blob.to_vec(),
        HostKey::Certificate(certificate) => certificate.key.to_vec(),
    }
}

/// The key type that an algorithm signs with. RSA keys have one type and several algorithms (RFC 8332).
fn key_type_of(algorithm: &str) -> &str {
    match algorithm {
        "rsa-sha2-512" | "rsa-sha2-256" => "ssh-rsa",
        name => name,
    }
}

/// Whether the user typed the fingerprint, with or without its prefix `SHA256:`.
fn is_fingerprint(answer: &str, fingerprint: &str) -> bool {
    let bare = |text: &str| text.strip_prefix("SHA256:").unwrap_or(text).to_owned();
    !answer.is_empty() && bare(answer) == bare(fingerprint)
}
