//! Prompts that are open for a tunnel: its own, which the user answers, and another tunnel's, which it waits for.

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{broadcast, oneshot};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Event, EventBody};
use tunneld_proto::status::{Prompt, PromptKind, State};

use crate::prompt::PromptRequest;
use crate::tunnel::registry::PromptGuard;

/// Longest answer, in bytes. All fields of a prompt go into one packet, and a packet that is too large would end the
/// session.
const ANSWER_LIMIT: usize = 8 << 10;

/// A request and the answers to it, one per field.
pub(super) type Answered = (PromptRequest, Vec<SecretString>);

/// A prompt that clients can see. Dropping it removes it there.
pub(super) struct OpenPrompt {
    pub(super) guard: PromptGuard,
    /// Boxed, because most activities of a task have no prompt.
    pub(super) request: Box<PromptRequest>,
}

/// A prompt whose sender, a dial or a session, still waits for the answer. Dropping `answer` cancels it there.
pub(super) struct SessionPrompt {
    pub(super) open: OpenPrompt,
    pub(super) answer: oneshot::Sender<Vec<SecretString>>,
}

impl OpenPrompt {
    pub(super) fn id(&self) -> u64 {
        self.guard.prompt().id
    }

    /// Checks that the answers fit the prompt: the number of fields, and for a host key the word or the fingerprint.
    ///
    /// # Errors
    /// `invalid_answer`. The prompt stays open.
    pub(super) fn check(&self, answers: &[SecretString]) -> Result<(), RpcError> {
        let (expected, given) = (self.request.fields.len(), answers.len());
        if given != expected {
            let message = format!("the prompt has {expected} fields, but got {given} answers");
            return Err(
                RpcError::new(ErrorKind::InvalidAnswer, message).hint("give one answer per field")
            );
        }
        if answers
            .iter()
            .any(|answer| answer.expose_secret().len() > ANSWER_LIMIT)
        {
            let message = format!("an answer is longer than {ANSWER_LIMIT} bytes");
            return Err(RpcError::new(ErrorKind::InvalidAnswer, message));
        }
        let about_host_key = matches!(
            self.request.kind,
            PromptKind::HostKey | PromptKind::HostKeyUpdate
        );
        let fingerprint = self.request.fingerprint.as_deref();
        // A typing error must count neither as consent nor as refusal.
        if !about_host_key
            || answers
                .iter()
                .all(|answer| is_host_key_answer(answer.expose_secret().trim(), fingerprint))
        {
            return Ok(());
        }
        let invalid = |message: &str| RpcError::new(ErrorKind::InvalidAnswer, message);
        Err(match fingerprint {
            Some(_) => invalid("a host key is answered with \"yes\", \"no\" or its fingerprint")
                .hint("compare the fingerprint with the one that the host's administrator gives"),
            None => invalid("host keys are answered with \"yes\" or \"no\""),
        })
    }
}

fn is_host_key_answer(answer: &str, fingerprint: Option<&str>) -> bool {
    ["yes", "no"]
        .iter()
        .any(|word| answer.eq_ignore_ascii_case(word))
        || Some(answer) == fingerprint
}

/// The prompt of another tunnel that asks the user about the same server. This tunnel waits for its outcome instead of
/// asking at the same time.
pub(super) struct SharedPrompt {
    pub(super) prompt: Prompt,
    events: broadcast::Receiver<Event>,
}

impl SharedPrompt {
    /// `events` must have been subscribed before `prompt` was looked up, so that its end is not missed.
    pub(super) fn new(prompt: Prompt, events: broadcast::Receiver<Event>) -> Self {
        Self { prompt, events }
    }

    /// Waits until the other tunnel has logged in, has failed, or is removed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn finished(&mut self) {
        loop {
            match self.events.recv().await.map(|event| event.body) {
                // Until its login has succeeded, the answer is not in the cache. So the end of the prompt alone is not
                // enough.
                Ok(EventBody::Tunnel { tunnel }) if tunnel.name == self.prompt.tunnel => {
                    if !matches!(tunnel.state, State::NeedsInput | State::Connecting) {
                        return;
                    }
                }
                Ok(EventBody::Removed { name }) if name == self.prompt.tunnel => return,
                Ok(_) => {}
                // The missed events may include the one that this waits for. Asking too early does no harm.
                Err(_) => return,
            }
        }
    }
}
