//! How a login goes (RFC 4252): which methods are tried in which order, with what, and what is told in the end.
//! A lost connection is never told as a refusal, and a prompt that nobody answers burns no attempt.

pub(crate) mod agent;
pub(crate) mod core_login;
pub(crate) mod identities;
pub(crate) mod key_file;
pub(crate) mod keyboard_interactive;
pub(crate) mod login;
pub(crate) mod password;

use crate::failure::{Failure, FailureKind};
use crate::session::auth::identities::{Candidate, Candidates, OFFERS, algorithms};
use crate::session::auth::keyboard_interactive::Interactive;
use crate::session::auth::login::{Login, Offer, Reply, SignError, Signed};
use crate::session::auth::password::Passwords;
use crate::session::deadline::Prompter;
use tunneld_config::model::Auth;
use tunneld_proto::text;

/// How many methods in a row the server may call right and not enough.
const STEPS: usize = 6;

/// Who logs in where, and whom it can ask.
pub(crate) struct AuthContext<'a> {
    pub(crate) auth: &'a Auth,
    pub(crate) desk: &'a Prompter,
    /// `user@host:port`, escaped.
    pub(crate) who: &'a str,
    pub(crate) tunnel: &'a str,
}

/// What one attempt came to.
pub(crate) enum MethodOutcome {
    /// The server's word.
    Replied(Reply),
    /// This method has nothing more to try.
    Exhausted,
}

struct Attempt<'a, L> {
    login: &'a mut L,
    means: &'a AuthContext<'a>,
    /// What was right so far.
    done: Vec<String>,
    /// What the server refused.
    refused: Vec<String>,
    /// What could not be tried, and why.
    notes: Vec<String>,
    methods: Vec<String>,
    candidates: Option<Candidates>,
    /// Whether an agent did not give what it may give at another time.
    agent_wanting: bool,
    offers: usize,
}

/// Logs in; how, for `status`.
pub(crate) async fn log_in<L: Login>(
    login: &mut L,
    means: &AuthContext<'_>,
) -> Result<String, Failure> {
    let mut attempt = Attempt {
        login,
        means,
        done: Vec::new(),
        refused: Vec::new(),
        notes: Vec::new(),
        methods: Vec::new(),
        candidates: None,
        agent_wanting: false,
        offers: 0,
    };
    let done = attempt
        .run()
        .await
        .map_err(|failure| attempt.judge(failure));
    for line in attempt.login.banner().lines().take(64) {
        tracing::info!(tunnel = means.tunnel, "the server says: {line}");
    }
    done
}

impl<L: Login> Attempt<'_, L> {
    async fn run(&mut self) -> Result<String, Failure> {
        match self.login.none().await? {
            Reply::Success => return Ok("none".into()),
            Reply::Failure { methods, .. } => self.methods = methods,
            Reply::ChangePassword(_) => {}
        }
        let mut passwords = Passwords::new(self.means);
        let mut interactive = Interactive::new(self.means);
        let mut exhausted: Vec<&str> = Vec::new();
        while self.done.len() < STEPS {
            let preferred = self.means.auth.preferred.iter().map(String::as_str);
            let Some(method) = preferred
                .filter(|method| self.methods.iter().any(|taken| taken == method))
                .find(|method| !exhausted.contains(method))
            else {
                return Err(self.refused());
            };
            let (step, tried) = match method {
                "publickey" => self.public_key().await?,
                "password" => (
                    passwords.step(self.login, &mut self.notes).await?,
                    method.to_owned(),
                ),
                "keyboard-interactive" => (
                    interactive.step(self.login, &mut self.notes).await?,
                    method.to_owned(),
                ),
                _ => (MethodOutcome::Exhausted, String::new()),
            };
            match step {
                MethodOutcome::Exhausted => exhausted.push(method),
                MethodOutcome::Replied(Reply::Success) => {
                    self.done.push(tried);
                    return Ok(self.done.join(" + "));
                }
                // Only a password can be expired, and its method has seen to that.
                MethodOutcome::Replied(Reply::ChangePassword(_)) => exhausted.push(method),
                MethodOutcome::Replied(Reply::Failure { methods, partial }) => {
                    self.methods = methods;
                    if partial {
                        self.done.push(tried);
                        exhausted.clear();
                        self.candidates = None;
                        passwords = Passwords::new(self.means);
                        interactive = Interactive::new(self.means);
                    } else {
                        self.refused.push(tried);
                    }
                }
            }
        }
        Err(Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{}: the server called {STEPS} methods right and wants yet more",
                self.means.who
            ),
        ))
    }

    async fn public_key(&mut self) -> Result<(MethodOutcome, String), Failure> {
        let AuthContext {
            auth, desk, who, ..
        } = *self.means;
        loop {
            let Some(mut candidate) = self.next_candidate().await else {
                return Ok((MethodOutcome::Exhausted, String::new()));
            };
            if self.offers >= OFFERS {
                let left = self
                    .candidates
                    .as_mut()
                    .map_or(0, |candidates| candidates.list.drain(..).count());
                self.notes.push(format!(
                    "{} more keys were not offered, since servers cut off after {OFFERS}: name the right one with \
                     identity_file and identities_only",
                    left + 1
                ));
                return Ok((MethodOutcome::Exhausted, String::new()));
            }
            let blob = match candidate.offered(auth, desk, who).await {
                Ok(blob) => blob,
                Err(SignError::PromptCancelled) => return Err(not_answered(who, "a passphrase")),
                Err(SignError::Unable(why)) => {
                    self.notes.push(why);
                    continue;
                }
            };
            let shown = format!("publickey {}", candidate.shown());
            match self.offer(&candidate, blob).await? {
                Some(Signed::Replied(reply)) => return Ok((MethodOutcome::Replied(reply), shown)),
                Some(Signed::NotSigned(SignError::PromptCancelled)) => {
                    return Err(not_answered(who, "a passphrase"));
                }
                Some(Signed::NotSigned(SignError::Unable(why))) => {
                    self.agent_wanting |= candidate.is_agents();
                    self.notes.push(format!(
                        "the server would take {}, but: {why}",
                        candidate.shown()
                    ));
                }
                None => self.notes.push(format!(
                    "{}: no algorithm that both sides allow",
                    candidate.shown()
                )),
            }
        }
    }

    /// Offers one key with each algorithm in turn until the server takes it; none where there is no algorithm.
    async fn offer(
        &mut self,
        candidate: &Candidate,
        blob: Vec<u8>,
    ) -> Result<Option<Signed>, Failure> {
        let AuthContext {
            auth, desk, who, ..
        } = *self.means;
        let server = self.login.signature_algorithms();
        let mut told = None;
        for algorithm in algorithms(&blob, &auth.pubkey_algorithms, server.as_deref()) {
            let offer = Offer {
                algorithm,
                blob: blob.clone(),
            };
            let mut signer = candidate.signer(&offer, auth, desk, who);
            self.offers += 1;
            let signed = self.login.public_key(&offer, &mut signer).await?;
            let declined = matches!(
                signed,
                Signed::Replied(Reply::Failure { partial: false, .. })
            );
            told = Some(signed);
            if !declined {
                break;
            }
        }
        Ok(told)
    }

    async fn next_candidate(&mut self) -> Option<Candidate> {
        if self.candidates.is_none() {
            let mut candidates = Candidates::gather(self.means.auth).await;
            for note in candidates.notes.drain(..) {
                if !self.notes.contains(&note) {
                    tracing::info!(tunnel = self.means.tunnel, "{note}");
                    self.notes.push(note);
                }
            }
            self.agent_wanting |= candidates.agent_wanting;
            self.candidates = Some(candidates);
        }
        self.candidates.as_mut()?.list.pop_front()
    }

    /// Nothing is left to try.
    fn refused(&self) -> Failure {
        let who = self.means.who;
        let takes = match self.methods.is_empty() {
            true => "nothing".to_owned(),
            false => text::escape(&self.methods.join(", ")),
        };
        let right = match self.done.is_empty() {
            true => String::new(),
            false => format!("; right so far: {}", self.done.join(", ")),
        };
        let notes = match self.notes.is_empty() {
            true => String::new(),
            false => format!("; {}", self.notes.join("; ")),
        };
        if self.refused.is_empty() {
            let (kind, hint) = self.wanting();
            return Failure::new(
                kind,
                format!(
                    "{who}: there is nothing to log in with; the server takes {takes}{right}{notes}"
                ),
            )
            .hint(hint);
        }
        let keys_alone = self
            .refused
            .iter()
            .all(|tried| tried.starts_with("publickey"));
        Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{who}: the server refused {}; it takes {takes}{right}{notes}",
                self.refused.join(", ")
            ),
        )
        .hint(match keys_alone {
            true => {
                "check the user, and that the key stands in the account's authorized_keys there"
            }
            false => {
                "check the user and the password or code, and whether the account is locked there"
            }
        })
    }

    /// Why there is nothing to log in with, and what to do.
    fn wanting(&self) -> (FailureKind, &'static str) {
        let of_command =
            |note: &String| note.contains("_command: ") || note.starts_with("answers: ");
        if self.notes.iter().any(of_command) {
            let hint =
                "run the command by hand, as the user and in the environment that tunneld has";
            return (FailureKind::Command, hint);
        }
        if self.agent_wanting {
            let hint = "start or unlock the agent that tunneld sees (identity_agent) and load the key into it; or set \
                        identity_file or password_command";
            return (FailureKind::Agent, hint);
        }
        let hint = match self.notes.is_empty() {
            true => {
                "set identity_file, load a key into the agent that tunneld sees (identity_agent), or set \
                 password_command"
            }
            false => {
                "mend what is told of the keys, or set another identity_file, identity_agent or password_command"
            }
        };
        (FailureKind::NoCredentials, hint)
    }

    /// sshd ends the connection after MaxAuthTries: that is a refusal, whatever it looks like.
    fn judge(&self, failure: Failure) -> Failure {
        if failure.kind != FailureKind::Disconnected
            || !failure.message.contains("Too many authentication failures")
        {
            return failure;
        }
        let tried = match self.refused.is_empty() {
            true => String::new(),
            false => format!(" after {}", self.refused.join(", ")),
        };
        Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{}: the server cut off the login{tried}: too many authentication failures",
                self.means.who
            ),
        )
        .hint("offer fewer keys: name the right one with identity_file and identities_only")
    }
}

/// The server's word upon a password or a code. One that hangs up instead of answering has refused it, as far as can be
/// told, and is not hurried: such servers count.
pub(crate) fn tried<T>(answer: Result<T, Failure>, means: &AuthContext<'_>) -> Result<T, Failure> {
    answer.map_err(|failure| match failure.kind {
        FailureKind::Disconnected => Failure::new(
            FailureKind::AuthRefused,
            format!(
                "{}: the server hung up upon the password or code: {}",
                means.who, failure.message
            ),
        )
        .hint("check the user and what was typed, or what password_command and answers say"),
        _ => failure,
    })
}

/// A person was asked and did not answer.
pub(crate) fn not_answered(who: &str, what: &str) -> Failure {
    Failure::new(
        FailureKind::NotAnswered,
        format!("{who}: nobody answered the question for {what}"),
    )
    .hint("`tunnelctl up` asks again")
}
