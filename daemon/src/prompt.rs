//! A question on its way from a session to a person, and the answer on its way back.

use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tunneld_proto::status::{PromptField, PromptKind};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked for.
    pub kind: PromptKind,
    /// Who asks: `user@host:port`.
    pub host: String,
    /// The text above the fields, escaped already.
    pub text: String,
    /// The fields, one answer each.
    pub fields: Vec<PromptField>,
    /// The host key's SHA256 fingerprint, where that is asked about.
    pub fingerprint: Option<String>,
}

/// A question that waits for its answer. Dropping `answer` is a cancel.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    /// Where the answers go, one a field.
    pub answer: oneshot::Sender<Vec<SecretString>>,
}

/// Nobody answered: the prompt was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody answered")]
pub struct NotAnswered;

/// The end of the line at which a session asks.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Asked>);

impl Asker {
    /// An asker and the end at which its tunnel hears it.
    pub fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Asks, and waits for as long as the person takes.
    ///
    /// # Errors
    /// [`NotAnswered`] where the prompt is cancelled or the tunnel goes away.
    pub async fn ask(&self, question: Question) -> Result<Vec<SecretString>, NotAnswered> {
        let (answer, answered) = oneshot::channel();
        self.0
            .send(Asked { question, answer })
            .await
            .map_err(|_| NotAnswered)?;
        answered.await.map_err(|_| NotAnswered)
    }
}
