//! Prompts between a session and its tunnel: what the session asks, and the channel that brings the answer back.
//!
//! The tunnel's task shows the prompt to the user (`tunnel::task::prompts`); what is asked is decided in `session`.

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;

/// Lines of one text of the server that are shown.
const SERVER_TEXT_LINES: usize = 100;

/// What a session asks the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRequest {
    /// What kind of answer is expected.
    pub kind: PromptKind,
    /// The server that the question is about: `user@host:port`.
    pub host: String,
    /// Text before `text` that varies between attempts, such as that the last answer was wrong. Already escaped. May be
    /// empty.
    pub note: String,
    /// The question itself, which stays the same when it is repeated. Already escaped.
    pub text: String,
    /// The input fields. Each takes one answer.
    pub fields: Vec<PromptField>,
    /// The SHA256 fingerprint of the host key. `None` if the prompt is not about one host key.
    pub fingerprint: Option<String>,
    /// The server that receives the answer. `None` if the answer stays on this machine.
    pub server: Option<AskingServer>,
}

/// The server that an answer is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingServer {
    /// The SHA256 fingerprint of the host key that was accepted in this connection.
    pub host_key: String,
    /// What the server wrote in banners since the last prompt. May be empty.
    pub banner: ServerText,
    /// The server's text that belongs to the question. May be empty.
    pub instructions: ServerText,
}

/// Text of the server as it is shown: its lines, each escaped and bounded, without blank lines at either end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerText(Vec<String>);

impl ServerText {
    /// Makes it from the text that the server sent. Lines beyond the hundredth are left out.
    pub fn new(text: &str) -> Self {
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| text::escape(line.trim_end()))
            .skip_while(String::is_empty)
            .take(SERVER_TEXT_LINES)
            .collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Self(lines)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl PromptRequest {
    /// Whether `other` asks the same question for the same server, so that an answer to one serves the other. The note
    /// and the banner are ignored, because they differ when the question is repeated.
    ///
    /// The host is only an address: two tunnels may reach different servers by the same one. The accepted host key is
    /// what identifies a server.
    pub fn same_question(&self, other: &Self) -> bool {
        let server = |request: &Self| {
            let server = request.server.as_ref();
            server.map(|server| (server.host_key.clone(), server.instructions.clone()))
        };
        self.kind == other.kind
            && self.host == other.host
            && self.text == other.text
            && self.fields == other.fields
            && self.fingerprint == other.fingerprint
            && server(self) == server(other)
    }

    /// Whether a tunnel that would ask this waits while another tunnel asks `other`. Questions of one server go to the
    /// user one after the other, since an answer to the first may serve both.
    pub fn waits_behind(&self, other: &Self) -> bool {
        match (&self.server, &other.server) {
            (Some(server), Some(other_server)) => {
                self.host == other.host && server.host_key == other_server.host_key
            }
            _ => self.same_question(other),
        }
    }

    /// The whole text for the user: tunneld's own words first, then the server's, quoted.
    pub fn display_text(&self) -> String {
        let mut text = format!("{}{}", self.note, self.text);
        if let Some(server) = &self.server {
            for quoted in [&server.banner, &server.instructions] {
                for line in quoted.lines() {
                    text.push_str(if line.is_empty() { "\n>" } else { "\n> " });
                    text.push_str(line);
                }
            }
        }
        text
    }

    /// Whether an answer stays right for the next login: a password does, a one-time code does not.
    pub fn is_reusable(&self) -> bool {
        match self.kind {
            PromptKind::Password
            | PromptKind::Passphrase
            | PromptKind::NewPassword
            | PromptKind::HostKey => true,
            // PAM asks for ordinary passwords by keyboard-interactive, too (RFC 4256).
            PromptKind::KeyboardInteractive => {
                // Without the user's and the host's name, which may contain any word.
                let prefix = server_label_prefix(&self.host);
                self.fields.iter().all(|field| {
                    let label = field.label.strip_prefix(&prefix).unwrap_or(&field.label);
                    !field.echo && asks_for_current_password(label)
                })
            }
            _ => false,
        }
    }
}

/// What the labels of a server's prompts begin with, as in ssh, so that none looks like tunneld's own.
pub fn server_label_prefix(host: &str) -> String {
    format!("({host}) ")
}

/// Whether the label asks for the user's present password. The server chooses the label freely, so this is a guess; a
/// label that may mean a one-time code or a new password does not count.
pub fn asks_for_current_password(label: &str) -> bool {
    let label = label.to_lowercase();
    let other = [
        "one-time", "one time", "otp", "code", "token", "again", "retype", "re-enter", "reenter",
        "re-type", "repeat", "confirm", "verify",
    ];
    let is_new = label
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "new");
    label.contains("password") && !is_new && !other.iter().any(|word| label.contains(word))
}

/// A prompt that the session sent and that is not answered yet. Dropping `answer` cancels it.
#[derive(Debug)]
pub struct PendingPrompt {
    /// What to show to the user.
    pub request: PromptRequest,
    /// Returns the answers to the session, one per field.
    pub answer: oneshot::Sender<Vec<SecretString>>,
}

/// The prompt was cancelled, or the tunnel that should show it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the prompt was cancelled")]
pub struct PromptCancelled;

/// The session's end of the prompt channel.
#[derive(Debug, Clone)]
pub struct PromptSender(mpsc::Sender<PendingPrompt>);

impl PromptSender {
    /// Creates a sender and the end at which the tunnel receives the prompts.
    pub fn new() -> (Self, mpsc::Receiver<PendingPrompt>) {
        // A second question waits in `ask` until the tunnel has taken the first.
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Sends the request and waits for the answers without a time limit; callers that have a deadline pause it.
    ///
    /// # Errors
    /// [`PromptCancelled`] if the prompt is cancelled or the tunnel ends.
    ///
    /// # Cancel safety
    /// Dropping the future drops the receiver of the answers. The tunnel gets an answer that comes later back and
    /// keeps it for the next login.
    pub async fn ask(&self, request: PromptRequest) -> Result<Vec<SecretString>, PromptCancelled> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(PendingPrompt { request, answer })
            .await
            .map_err(|_| PromptCancelled)?;
        answered.await.map_err(|_| PromptCancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_reusable_and_a_code_is_not() {
        let is_reusable = |labels: &[&str]| {
            let field = |label: &&str| PromptField {
                label: (*label).to_owned(),
                echo: false,
            };
            let request = PromptRequest {
                kind: PromptKind::KeyboardInteractive,
                host: "new-code@h".into(),
                note: String::new(),
                text: String::new(),
                fields: labels.iter().map(field).collect(),
                fingerprint: None,
                server: None,
            };
            request.is_reusable()
        };
        for label in [
            "Password: ",
            "(ada@login) Password:",
            "ada's password: ",
            "(current) UNIX password: ",
            "(new-code@h) Password: ",
        ] {
            assert!(is_reusable(&[label]), "{label}");
        }
        for label in [
            "Verification code: ",
            "One-time password (OATH) for `ada': ",
            "Password + OTP: ",
            "New password: ",
            "New-password: ",
            "Retype password: ",
            "PASSCODE: ",
            "",
        ] {
            assert!(!is_reusable(&[label]), "{label}");
        }
        assert!(!is_reusable(&["Password: ", "Code: "]));
    }
}
