//! The method `password` (RFC 4252 §8): the command's word once, or a person's as often as they may.

use secrecy::SecretString;
use tunneld_proto::status::{PromptField, PromptKind};

use super::auth::{Means, Step, not_answered};
use super::command;
use super::login::{Login, Reply};
use crate::failure::Failure;
use crate::prompt::Question;

/// What is left of the password's attempts.
pub(super) struct Passwords<'a> {
    means: &'a Means<'a>,
    left: u32,
    wrong: bool,
}

impl<'a> Passwords<'a> {
    pub(super) fn new(means: &'a Means<'a>) -> Self {
        let left = match means.auth.password_command.is_empty() {
            true => means.auth.password_prompts,
            false => 1,
        };
        Self {
            means,
            left,
            wrong: false,
        }
    }

    /// One attempt.
    pub(super) async fn step(
        &mut self,
        login: &mut impl Login,
        notes: &mut Vec<String>,
    ) -> Result<Step, Failure> {
        if self.left == 0 {
            return Ok(Step::Exhausted);
        }
        self.left -= 1;
        let Some(password) = self.password(login, notes).await? else {
            return Ok(Step::Exhausted);
        };
        let reply = login.password(&password).await?;
        self.wrong = matches!(reply, Reply::Failure { partial: false, .. });
        Ok(Step::Replied(reply))
    }

    async fn password(
        &self,
        login: &mut impl Login,
        notes: &mut Vec<String>,
    ) -> Result<Option<SecretString>, Failure> {
        let Means {
            auth, desk, who, ..
        } = *self.means;
        if !auth.password_command.is_empty() {
            return match command::first_line(&auth.password_command).await {
                Ok(password) => Ok(Some(password)),
                Err(why) => {
                    notes.push(format!("password_command: {why}"));
                    Ok(None)
                }
            };
        }
        let again = if self.wrong {
            "The password was wrong. "
        } else {
            ""
        };
        let banner = super::interactive::one_line(&login.banner());
        let question = Question {
            kind: PromptKind::Password,
            host: who.to_owned(),
            text: format!("{again}{banner}{who} wants a password."),
            fields: vec![PromptField {
                label: "Password: ".into(),
                echo: false,
            }],
            fingerprint: None,
        };
        match desk.ask_one(question).await {
            Ok(password) => Ok(Some(password)),
            Err(_) => Err(not_answered(who, "a password")),
        }
    }
}
