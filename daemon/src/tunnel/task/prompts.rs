//! A question that a tunnel's dial asks, on its way over the board to a person and back.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Event as BoardEvent, EventBody};
use tunneld_proto::status::{Prompt, PromptKind, State as WireState};

use super::Task;
use super::aside::is_aside;
use crate::failure::{Failure, FailureKind};
use crate::prompt::{PendingPrompt, PromptRequest};
use crate::tunnel::answer_cache::AnswerCache;
use crate::tunnel::machine::Event;

/// A prompt that waits for its answer.
pub(super) struct Waiting {
    pub(super) prompt: Prompt,
    pub(super) question: PromptRequest,
    /// None once the dial that asked is gone.
    pub(super) answer: Option<oneshot::Sender<Vec<SecretString>>>,
}

/// Another tunnel that asks the same host's person.
pub(super) struct SharedPrompt {
    pub(super) prompt: Prompt,
    events: broadcast::Receiver<BoardEvent>,
}

impl SharedPrompt {
    /// Waits until that tunnel is let in, has failed, or is gone.
    pub(super) async fn moved_on(&mut self) {
        loop {
            match self.events.recv().await.map(|event| event.body) {
                Ok(EventBody::Tunnel { tunnel }) if tunnel.name == self.prompt.tunnel => {
                    let busy =
                        matches!(tunnel.state, WireState::NeedsInput | WireState::Connecting);
                    if !busy {
                        return;
                    }
                }
                Ok(EventBody::Removed { name }) if name == self.prompt.tunnel => return,
                Ok(_) => {}
                // What was missed may have been it.
                Err(_) => return,
            }
        }
    }
}

impl Task {
    pub(super) fn ask(&mut self, PendingPrompt { question, answer }: PendingPrompt) {
        if is_aside(&question) {
            return self.ask_aside(PendingPrompt { question, answer });
        }
        let Some(epoch) = self.dial.as_ref().map(|dial| dial.epoch) else {
            return;
        };
        let now = Instant::now();
        let parked = self
            .answered
            .take_if(|(asked, _)| asked.is_again(&question));
        // A kept answer is tried once: what the server asks again, a person must answer.
        let tried = self
            .given
            .iter()
            .any(|(asked, _)| asked.is_again(&question));
        let known = match parked {
            Some((_, answers)) => Some(answers),
            None if tried => None,
            None => self.recent().find(now, &question),
        };
        if let Some(answers) = known {
            self.given.push((question, answers.clone()));
            // A dial that is gone needs no answer.
            let _ = answer.send(answers);
            return;
        }
        if let Some(pass) = self.dial.as_mut().and_then(|dial| dial.pass.as_mut()) {
            pass.wait_for_a_person();
        }
        let id = self.shared.prompts.fetch_add(1, Ordering::Relaxed) + 1;
        let prompt = self.prompt_of(id, &question);
        self.drop_prompt();
        // Heard from before the look, so that the first tunnel's moving on cannot be missed.
        let events = self.shared.board.subscribe().1;
        if let Some(first) = self.shared.board.put_prompt(prompt.clone()) {
            self.stand_behind(
                epoch,
                SharedPrompt {
                    prompt: first,
                    events,
                },
            );
            return;
        }
        self.asked = Some(Waiting {
            prompt,
            question,
            answer: Some(answer),
        });
        self.step(Event::PendingPrompt { epoch, prompt: id });
    }

    /// The question as a client sees it.
    pub(super) fn prompt_of(&self, id: u64, question: &PromptRequest) -> Prompt {
        Prompt {
            id,
            tunnel: self.spec.name.clone(),
            kind: question.kind,
            host: question.host.clone(),
            text: format!("{}{}", question.note, question.text),
            fields: question.fields.clone(),
            fingerprint: question.fingerprint.clone(),
            since: Timestamp::now(),
        }
    }

    /// Another tunnel asks the same host's person: this one hangs up, and dials again once that one has moved on.
    fn stand_behind(&mut self, epoch: u64, behind: SharedPrompt) {
        let prompt = behind.prompt.id;
        self.behind = Some(behind);
        if let Some(dial) = self.dial.take() {
            dial.abort.abort();
        }
        self.step(Event::PendingPrompt { epoch, prompt });
        let why = Failure::new(FailureKind::Disconnected, "another tunnel asks first");
        self.step(Event::Lost { epoch, why });
    }

    pub(super) fn answer(
        &mut self,
        id: u64,
        answers: Option<Vec<SecretString>>,
    ) -> Result<(), RpcError> {
        if let Some(done) = self.answer_aside(id, answers.as_ref()) {
            return done;
        }
        let Some(waiting) = self
            .asked
            .as_ref()
            .filter(|waiting| waiting.prompt.id == id)
        else {
            return Err(
                RpcError::new(ErrorKind::PromptNotFound, format!("no prompt {id} waits"))
                    .hint("run: tunnelctl answer"),
            );
        };
        if let Some(answers) = &answers {
            check(&waiting.question, answers)?;
        }
        let Some(Waiting {
            question, answer, ..
        }) = self.take_prompt()
        else {
            return Ok(());
        };
        match (answer, answers) {
            (Some(answer), Some(answers)) => {
                self.given.push((question.clone(), answers.clone()));
                if let Err(answers) = answer.send(answers) {
                    // The server has hung up, which is yet to be heard here.
                    self.keep_for_next(question, answers);
                }
                self.answered_or_not();
            }
            // The dial hears of the cancel by the sender that is dropped here, and may go on without an answer.
            (Some(_), None) => self.answered_or_not(),
            (None, Some(answers)) => {
                self.keep_for_next(question, answers);
                self.step(Event::AnswerReady);
            }
            (None, None) => {
                let why = Failure::new(FailureKind::NotAnswered, "the prompt was cancelled")
                    .hint(format!("run: tunnelctl up {}", self.spec.name));
                self.facts.last_error = Some((why.clone(), Timestamp::now()));
                self.step(Event::Cancelled { why });
            }
        }
        Ok(())
    }

    /// The prompt of the dial under way is gone.
    fn answered_or_not(&mut self) {
        if let Some(epoch) = self.machine.live_epoch() {
            self.step(Event::Answered { epoch });
        }
    }

    /// A code was for the login that the server has given up: the next one asks for its own.
    fn keep_for_next(&mut self, question: PromptRequest, answers: Vec<SecretString>) {
        self.answered = question.lasts().then_some((question, answers));
    }

    fn recent(&self) -> MutexGuard<'_, AnswerCache> {
        self.shared
            .recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The dial was let in: its answers serve the tunnels that wait behind it.
    pub(super) fn keep_answers(&mut self) {
        let given = std::mem::take(&mut self.given);
        self.answered = None;
        let mut recent = self.recent();
        recent.forget(Instant::now());
        for (question, answers) in given {
            recent.keep(Instant::now(), question, answers);
        }
    }

    pub(super) fn take_prompt(&mut self) -> Option<Waiting> {
        let waiting = self.asked.take()?;
        self.shared.board.remove_prompt(waiting.prompt.id);
        Some(waiting)
    }

    pub(super) fn drop_prompt(&mut self) {
        drop(self.take_prompt());
    }
}

/// Whether the answers can be the question's.
pub(super) fn check(question: &PromptRequest, answers: &[SecretString]) -> Result<(), RpcError> {
    let (fields, given) = (question.fields.len(), answers.len());
    if given != fields {
        let message = format!("the prompt has {fields} fields, and {given} answers came");
        return Err(
            RpcError::new(ErrorKind::InvalidAnswer, message).hint("give one answer a field")
        );
    }
    if is_verdict(question, answers) {
        return Ok(());
    }
    let wrong = |message: &str| RpcError::new(ErrorKind::InvalidAnswer, message);
    Err(match question.fingerprint {
        Some(_) => wrong("a host key is answered with \"yes\", \"no\" or its fingerprint")
            .hint("compare the fingerprint with the one that the host's owner tells"),
        None => wrong("host keys are answered with \"yes\" or \"no\""),
    })
}

/// Whether an answer about a host key is one: a slip of the keyboard is neither consent nor refusal.
fn is_verdict(question: &PromptRequest, answers: &[SecretString]) -> bool {
    if !matches!(
        question.kind,
        PromptKind::HostKey | PromptKind::HostKeyUpdate
    ) {
        return true;
    }
    answers.iter().all(|answer| {
        let answer = answer.expose_secret().trim();
        let word = ["yes", "no"]
            .iter()
            .any(|word| answer.eq_ignore_ascii_case(word));
        word || Some(answer) == question.fingerprint.as_deref()
    })
}
