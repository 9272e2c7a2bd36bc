//! A question on its way from a session to a person, and the answer on its way back.

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tunneld_proto::status::{PromptField, PromptKind};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptRequest {
    /// What is asked for.
    pub kind: PromptKind,
    /// Who asks: `user@host:port`.
    pub host: String,
    /// What goes before the text: that the last answer was wrong, what the server greets with. Escaped already.
    pub note: String,
    /// The text above the fields, escaped already.
    pub text: String,
    /// The fields, one answer each.
    pub fields: Vec<PromptField>,
    /// The host key's SHA256 fingerprint, where that is asked about.
    pub fingerprint: Option<String>,
}

impl PromptRequest {
    /// Whether it asks what `other` asks, whatever was said around it.
    pub fn is_again(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.host == other.host
            && self.text == other.text
            && self.fields == other.fields
            && self.fingerprint == other.fingerprint
    }

    /// Whether an answer is as right in the next login: a password is, a code is not.
    pub fn lasts(&self) -> bool {
        match self.kind {
            PromptKind::Password
            | PromptKind::Passphrase
            | PromptKind::NewPassword
            | PromptKind::HostKey => true,
            PromptKind::KeyboardInteractive => self.fields.iter().all(is_password),
            _ => false,
        }
    }
}

/// PAM asks for passwords by keyboard-interactive.
fn is_password(field: &PromptField) -> bool {
    let label = field.label.to_lowercase();
    let once = [
        "one-time", "one time", "otp", "code", "token", "new ", "again",
    ];
    !field.echo && label.contains("password") && !once.iter().any(|word| label.contains(word))
}

/// A question that waits for its answer. Dropping `answer` is a cancel.
#[derive(Debug)]
pub struct PendingPrompt {
    /// What is asked.
    pub question: PromptRequest,
    /// Where the answers go, one a field.
    pub answer: oneshot::Sender<Vec<SecretString>>,
}

/// Nobody answered: the prompt was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody answered")]
pub struct PromptCancelled;

/// The end of the line at which a session asks.
#[derive(Debug, Clone)]
pub struct PromptSender(mpsc::Sender<PendingPrompt>);

impl PromptSender {
    /// An asker and the end at which its tunnel hears it.
    pub fn new() -> (Self, mpsc::Receiver<PendingPrompt>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Asks, and waits for as long as the person takes.
    ///
    /// # Errors
    /// [`PromptCancelled`] where the prompt is cancelled or the tunnel goes away.
    pub async fn ask(&self, question: PromptRequest) -> Result<Vec<SecretString>, PromptCancelled> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(PendingPrompt { question, answer })
            .await
            .map_err(|_| PromptCancelled)?;
        answered.await.map_err(|_| PromptCancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_lasts_and_a_code_does_not() {
        let lasts = |labels: &[&str]| {
            let field = |label: &&str| PromptField {
                label: (*label).to_owned(),
                echo: false,
            };
            let question = PromptRequest {
                kind: PromptKind::KeyboardInteractive,
                host: "h".into(),
                note: String::new(),
                text: String::new(),
                fields: labels.iter().map(field).collect(),
                fingerprint: None,
            };
            question.lasts()
        };
        for label in ["Password: ", "(ada@login) Password:", "ada's password: "] {
            assert!(lasts(&[label]), "{label}");
        }
        for label in [
            "Verification code: ",
            "One-time password (OATH) for `ada': ",
            "Password + OTP: ",
            "New password: ",
            "PASSCODE: ",
            "",
        ] {
            assert!(!lasts(&[label]), "{label}");
        }
        assert!(!lasts(&["Password: ", "Code: "]));
    }
}
