//! How a prompt of the dial or the session reaches the user, and how the answer returns.
//!
//! A dial waits for its prompt. A background prompt (a host key update) changes nothing about the tunnel's state: the
//! session works whether it is answered or not.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use secrecy::SecretString;
use tracing::info;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::status::{Prompt, PromptKind};

use super::Task;
use super::activity::{Activity, AwaitedPrompt};
use super::open_prompt::{Answered, OpenPrompt, SessionPrompt, SharedPrompt};
use crate::failure::{Failure, FailureKind};
use crate::prompt::{PendingPrompt, PromptRequest};
use crate::tunnel::machine::Event;

/// Whether the dial or session continues without the answer.
fn is_background(request: &PromptRequest) -> bool {
    request.kind == PromptKind::HostKeyUpdate
}

impl Task {
    /// Answers the prompt with answers that are known already, or shows it to the user. Returning without either drops
    /// the prompt, which cancels it.
    pub(super) fn ask(&mut self, PendingPrompt { request, answer }: PendingPrompt) {
        if is_background(&request) {
            return self.background_prompt(PendingPrompt { request, answer });
        }
        if let Some(answers) = self.known_answers(&request) {
            if let Activity::Dialing(dial) = &mut self.activity {
                dial.answers.push((request, answers.clone()));
            }
            // Fails only if the dial has just ended.
            let _ = answer.send(answers);
            return;
        }
        let prompt = self.new_prompt(&request);
        let Activity::Dialing(dial) = &mut self.activity else {
            return;
        };
        dial.channels.permit.release_for_prompt();
        // An earlier prompt of this dial is outdated: a dial waits for one at a time.
        dial.prompt = None;
        let (epoch, id) = (dial.epoch, prompt.id);
        // Before `open_prompt`, so that the end of another tunnel's prompt cannot be missed.
        let events = self.context.registry.subscribe().1;
        match self.context.registry.open_prompt(prompt, &request) {
            Ok(guard) => {
                let request = Box::new(request);
                let open = OpenPrompt { guard, request };
                dial.prompt = Some(SessionPrompt { open, answer });
                // The dial got past every other failure: beside the question it would look like its reason.
                let is_rejection =
                    |(failure, _): &(Failure, _)| failure.kind == FailureKind::AuthRefused;
                self.history.last_error.take_if(|last| !is_rejection(last));
                self.apply(Event::PromptOpened { epoch, prompt: id });
            }
            Err(other) => self.wait_for_other_prompt(epoch, SharedPrompt::new(*other, events)),
        }
    }

    /// Answers to this request that the user gave before: while this tunnel had no connection, or to another tunnel.
    fn known_answers(&mut self, request: &PromptRequest) -> Option<Vec<SecretString>> {
        let Activity::Dialing(dial) = &self.activity else {
            return None;
        };
        if let Some((_, answers)) = self
            .kept_answer
            .take_if(|(kept, _)| kept.same_question(request))
        {
            return Some(answers);
        }
        // The server repeats the question, so the known answer was wrong: only the user can help.
        let is_repeated = dial
            .answers
            .iter()
            .any(|(answered, _)| answered.same_question(request));
        if is_repeated {
            return None;
        }
        self.context.answers.get(request)
    }

    /// The prompt as clients see it, with a new id.
    fn new_prompt(&self, request: &PromptRequest) -> Prompt {
        Prompt {
            id: self.context.last_prompt_id.fetch_add(1, Ordering::Relaxed) + 1,
            tunnel: self.config.name.clone(),
            kind: request.kind,
            host: request.host.clone(),
            text: request.display_text(),
            fields: request.fields.clone(),
            fingerprint: request.fingerprint.clone(),
            since: Timestamp::now(),
        }
    }

    /// Aborts the dial, because another tunnel asks the user about the same server. The next dial starts when that
    /// prompt is done.
    fn wait_for_other_prompt(&mut self, epoch: u64, shared: SharedPrompt) {
        let prompt = shared.prompt.id;
        self.activity = Activity::AwaitingAnswer(AwaitedPrompt::OtherTunnel(shared));
        self.apply(Event::PromptBlocked { epoch, prompt });
    }

    /// Shows a prompt that nothing waits for, unless another tunnel already asks the same.
    fn background_prompt(&mut self, PendingPrompt { request, answer }: PendingPrompt) {
        let prompt = self.new_prompt(&request);
        let Some(prompts) = self.activity.background_prompts() else {
            return;
        };
        let Ok(guard) = self.context.registry.open_prompt(prompt, &request) else {
            return;
        };
        let tunnel = self.config.name.as_str();
        let text = &guard.prompt().text;
        info!(tunnel, "{text}; run: tunnelctl answer {tunnel}");
        let request = Box::new(request);
        let open = OpenPrompt { guard, request };
        prompts.push(SessionPrompt { open, answer });
    }

    /// Answers the prompt `id`, or cancels it if `answers` is `None`.
    ///
    /// # Errors
    /// `prompt_not_found`; `invalid_answer`, and then the prompt stays open.
    pub(super) fn answer(
        &mut self,
        id: u64,
        answers: Option<Vec<SecretString>>,
    ) -> Result<(), RpcError> {
        if self.is_background_prompt(id) {
            return self.answer_background_prompt(id, answers);
        }
        let open = match &self.activity {
            Activity::Dialing(dial) => dial.prompt.as_ref().map(|prompt| &prompt.open),
            Activity::AwaitingAnswer(AwaitedPrompt::Own(open, _)) => Some(open),
            _ => None,
        };
        let Some(open) = open.filter(|open| open.id() == id) else {
            return Err(prompt_not_found(id));
        };
        if let Some(answers) = &answers {
            open.check(answers)?;
        }
        match self.activity.take() {
            Activity::AwaitingAnswer(AwaitedPrompt::Own(open, _)) => {
                self.answer_kept(open, answers)
            }
            Activity::Dialing(mut dial) => {
                let prompt = dial.prompt.take();
                self.activity = Activity::Dialing(dial);
                if let Some(prompt) = prompt {
                    self.answer_dial(prompt, answers);
                }
            }
            other => self.activity = other,
        }
        Ok(())
    }

    /// Sends the answers to the dial that waits for them.
    fn answer_dial(
        &mut self,
        SessionPrompt { open, answer }: SessionPrompt,
        answers: Option<Vec<SecretString>>,
    ) {
        let OpenPrompt { guard, request } = open;
        match answers {
            Some(answers) => {
                let answered = guard.answered();
                if let Activity::Dialing(dial) = &mut self.activity {
                    dial.answered_prompts.push(answered);
                    dial.answers
                        .push((PromptRequest::clone(&request), answers.clone()));
                }
                if let Err(answers) = answer.send(answers) {
                    // The dial has ended; its result is still on the way to this task.
                    self.keep_for_next_dial((*request, answers));
                }
            }
            // The dial learns of it by the dropped sender. It may continue with other login methods.
            None => {
                drop(guard);
                drop(answer);
            }
        }
        if let Some(epoch) = self.machine.live_epoch() {
            self.apply(Event::PromptClosed { epoch });
        }
    }

    /// Keeps the answers to a prompt that outlived its dial, and dials again.
    fn answer_kept(&mut self, open: OpenPrompt, answers: Option<Vec<SecretString>>) {
        let OpenPrompt { guard, request } = open;
        drop(guard);
        match answers {
            Some(answers) => {
                self.keep_for_next_dial((*request, answers));
                self.apply(Event::AnswerReady);
            }
            None => {
                let why = Failure::new(FailureKind::NotAnswered, "the prompt was cancelled")
                    .hint(format!("run: tunnelctl up {}", self.config.name));
                self.history.last_error = Some((why.clone(), Timestamp::now()));
                self.apply(Event::PromptCancelled { why });
            }
        }
    }

    /// Keeps answers for the same question of the next dial, except one-time codes: they were for the login that the
    /// server has given up.
    fn keep_for_next_dial(&mut self, (request, answers): Answered) {
        self.kept_answer = request.is_reusable().then_some((request, answers));
    }

    /// Caches the answers of a login that succeeded, for tunnels that log in to the same host.
    pub(super) fn cache_answers(&mut self, answers: Vec<Answered>) {
        self.kept_answer = None;
        for (request, answers) in answers {
            self.context.answers.insert(request, answers);
        }
    }

    fn is_background_prompt(&mut self, id: u64) -> bool {
        self.activity
            .background_prompts()
            .is_some_and(|prompts| prompts.iter().any(|prompt| prompt.open.id() == id))
    }

    fn answer_background_prompt(
        &mut self,
        id: u64,
        answers: Option<Vec<SecretString>>,
    ) -> Result<(), RpcError> {
        let prompts = self
            .activity
            .background_prompts()
            .ok_or_else(|| prompt_not_found(id))?;
        let at = prompts
            .iter()
            .position(|prompt| prompt.open.id() == id)
            .ok_or_else(|| prompt_not_found(id))?;
        if let (Some(answers), Some(prompt)) = (&answers, prompts.get(at)) {
            prompt.open.check(answers)?;
        }
        let SessionPrompt { open, answer } = prompts.remove(at);
        drop(open);
        if let Some(answers) = answers {
            // Fails only if the session has just ended.
            let _ = answer.send(answers);
        }
        Ok(())
    }
}

/// The error for an answer to a prompt that is not open, or not open any more.
pub fn prompt_not_found(id: u64) -> RpcError {
    RpcError::new(
        ErrorKind::PromptNotFound,
        format!("there is no prompt {id}"),
    )
    .hint("run: tunnelctl answer")
}
