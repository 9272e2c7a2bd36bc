//! Answers that have just let a tunnel in: the next tunnel that waits for the same host need not ask for them again.
//! One-time codes are never kept.

use std::time::Duration;

use tunneld_proto::status::PromptKind;

use crate::prompt::PromptRequest;
use secrecy::SecretString;
use tokio::time::Instant;

/// How long an answer serves the tunnels that waited behind the one that asked.
const KEPT: Duration = Duration::from_secs(30);

/// The recent answers. Pure: time is given.
#[derive(Debug, Default)]
pub struct AnswerCache(Vec<(PromptRequest, Vec<SecretString>, Instant)>);

impl AnswerCache {
    /// Keeps an answer that was right, if it is one that stays right.
    pub fn keep(&mut self, now: Instant, question: PromptRequest, answers: Vec<SecretString>) {
        self.forget(now);
        // Trust in a host is written down, or was meant for that once.
        let of_login = !matches!(question.kind, PromptKind::HostKey | PromptKind::NewPassword);
        if question.lasts() && of_login {
            self.0.retain(|(kept, ..)| !kept.is_again(&question));
            self.0.push((question, answers, now));
        }
    }

    /// The answer to the same question, if it was given just now.
    pub fn find(&mut self, now: Instant, question: &PromptRequest) -> Option<Vec<SecretString>> {
        self.forget(now);
        self.0
            .iter()
            .find(|(kept, ..)| kept.is_again(question))
            .map(|(_, answers, _)| answers.clone())
    }

    /// Wipes what is too old.
    pub fn forget(&mut self, now: Instant) {
        self.0
            .retain(|(_, _, at)| now.saturating_duration_since(*at) < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tunneld_proto::status::PromptField;

    use super::*;

    fn question(kind: PromptKind) -> PromptRequest {
        PromptRequest {
            kind,
            host: "ada@login:22".to_owned(),
            note: String::new(),
            text: String::new(),
            fields: vec![PromptField {
                label: if kind == PromptKind::Password {
                    "Password: "
                } else {
                    "Code: "
                }
                .to_owned(),
                echo: false,
            }],
            fingerprint: None,
        }
    }

    #[test]
    fn the_answer_that_let_in_replaces_the_wrong_one_before_it() {
        let now = Instant::now();
        let mut recent = AnswerCache::default();
        let first = question(PromptKind::Password);
        let again = PromptRequest {
            note: "The password was wrong. ".to_owned(),
            ..first.clone()
        };
        recent.keep(now, first.clone(), vec!["typo".to_owned().into()]);
        recent.keep(now, again, vec!["right".to_owned().into()]);
        let found = recent.find(now, &first).unwrap();
        assert_eq!(found[0].expose_secret(), "right");
    }

    #[test]
    fn a_password_serves_the_next_tunnel_and_a_code_never() {
        let now = Instant::now();
        let mut recent = AnswerCache::default();
        recent.keep(
            now,
            question(PromptKind::Password),
            vec!["s".to_owned().into()],
        );
        recent.keep(
            now,
            question(PromptKind::KeyboardInteractive),
            vec!["123456".to_owned().into()],
        );
        let found = recent.find(now, &question(PromptKind::Password)).unwrap();
        assert_eq!(found[0].expose_secret(), "s");
        assert!(
            recent
                .find(now, &question(PromptKind::KeyboardInteractive))
                .is_none()
        );
        assert!(
            recent
                .find(now + KEPT, &question(PromptKind::Password))
                .is_none()
        );
        assert!(recent.0.is_empty());
    }
}
