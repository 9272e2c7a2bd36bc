//! The method `password` (RFC 4252 §8): the command's word once, or a person's as often as they may.

use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::status::{PromptField, PromptKind};

use crate::failure::Failure;
use crate::prompt::PromptRequest;
use crate::session::auth::login::{Login, Reply};
use crate::session::auth::{AuthContext, MethodOutcome, not_answered, tried};
use tunneld_platform::subprocess as command;

/// How often a new password may displease the server.
const CHANGES: usize = 3;

/// What is left of the password's attempts.
pub(crate) struct Passwords<'a> {
    means: &'a AuthContext<'a>,
    left: u32,
    wrong: bool,
}

impl<'a> Passwords<'a> {
    pub(crate) fn new(means: &'a AuthContext<'a>) -> Self {
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
    pub(crate) async fn step(
        &mut self,
        login: &mut impl Login,
        notes: &mut Vec<String>,
    ) -> Result<MethodOutcome, Failure> {
        if self.left == 0 {
            return Ok(MethodOutcome::Exhausted);
        }
        self.left -= 1;
        let Some(password) = self.password(login, notes).await? else {
            return Ok(MethodOutcome::Exhausted);
        };
        let mut reply = tried(login.password(&password, None).await, self.means)?;
        let mut changes = 0;
        while let Reply::ChangePassword(said) = &reply {
            changes += 1;
            if changes > CHANGES {
                return Ok(MethodOutcome::Exhausted);
            }
            let new = tokio::select! {
                biased;
                new = self.new_password(said) => new?,
                lost = login.closed() => return Err(lost),
            };
            reply = login.password(&password, Some(&new)).await?;
        }
        self.wrong = matches!(reply, Reply::Failure { partial: false, .. });
        Ok(MethodOutcome::Replied(reply))
    }

    async fn password(
        &self,
        login: &mut impl Login,
        notes: &mut Vec<String>,
    ) -> Result<Option<SecretString>, Failure> {
        let AuthContext {
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
        let banner = crate::session::auth::keyboard_interactive::one_line(&login.banner());
        let question = PromptRequest {
            kind: PromptKind::Password,
            host: who.to_owned(),
            note: format!("{again}{banner}"),
            text: format!("{who} wants a password."),
            fields: vec![PromptField {
                label: "Password: ".into(),
                echo: false,
            }],
            fingerprint: None,
        };
        tokio::select! {
            biased;
            answer = desk.ask_one(question) => match answer {
                Ok(password) => Ok(Some(password)),
                Err(_) => Err(not_answered(who, "a password")),
            },
            lost = login.closed() => Err(lost),
        }
    }

    /// The old password has expired; the server's words say so.
    async fn new_password(&self, said: &str) -> Result<SecretString, Failure> {
        let AuthContext { desk, who, .. } = *self.means;
        let mut again = "";
        for _ in 0..CHANGES {
            let field = |label: &str| PromptField {
                label: label.to_owned(),
                echo: false,
            };
            let question = PromptRequest {
                kind: PromptKind::NewPassword,
                host: who.to_owned(),
                note: again.to_owned(),
                text: format!("The password of {who} has expired. {said}"),
                fields: vec![field("New password: "), field("Once more: ")],
                fingerprint: None,
            };
            let Ok(answers) = desk.ask(question).await else {
                break;
            };
            if let [one, two] = answers.as_slice()
                && one.expose_secret() == two.expose_secret()
            {
                return Ok(one.clone());
            }
            again = "The two differ. ";
        }
        Err(not_answered(who, "a new password"))
    }
}
