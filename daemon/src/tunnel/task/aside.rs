//! Questions that a session asks beside its work: the tunnel goes on whether they are answered or not, and they go
//! with the session.

use std::sync::atomic::Ordering;

use secrecy::SecretString;
use tracing::info;
use tunneld_proto::error::RpcError;
use tunneld_proto::status::PromptKind;

use super::Task;
use super::prompts::{Waiting, check};
use crate::prompt::{PendingPrompt, PromptRequest};

/// Whether the tunnel can do without the answer.
pub(super) fn is_aside(question: &PromptRequest) -> bool {
    question.kind == PromptKind::HostKeyUpdate
}

impl Task {
    /// Puts the question on the board, unless another tunnel asks the same already.
    pub(super) fn ask_aside(&mut self, PendingPrompt { question, answer }: PendingPrompt) {
        let id = self.shared.prompts.fetch_add(1, Ordering::Relaxed) + 1;
        let prompt = self.prompt_of(id, &question);
        if self.shared.board.put_prompt(prompt.clone()).is_some() {
            return;
        }
        let tunnel = self.spec.name.as_str();
        info!(tunnel, "{}; run: tunnelctl answer {tunnel}", prompt.text);
        self.asides.push(Waiting {
            prompt,
            question,
            answer: Some(answer),
        });
    }

    /// Answers such a question; none where `id` is of no such one.
    pub(super) fn answer_aside(
        &mut self,
        id: u64,
        answers: Option<&Vec<SecretString>>,
    ) -> Option<Result<(), RpcError>> {
        let at = self.asides.iter().position(|aside| aside.prompt.id == id)?;
        if let (Some(answers), Some(aside)) = (answers, self.asides.get(at))
            && let Err(error) = check(&aside.question, answers)
        {
            return Some(Err(error));
        }
        let aside = self.asides.remove(at);
        self.shared.board.remove_prompt(id);
        if let (Some(answer), Some(answers)) = (aside.answer, answers) {
            // A session that is gone needs no answer.
            let _ = answer.send(answers.clone());
        }
        Some(Ok(()))
    }

    /// The session is gone, and its questions with it.
    pub(super) fn drop_asides(&mut self) {
        for aside in self.asides.drain(..) {
            self.shared.board.remove_prompt(aside.prompt.id);
        }
    }
}
