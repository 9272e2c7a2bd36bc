//! The method `password` (RFC 4252 §8). The output of password_command is tried once, a person's password as often as
//! `number_of_password_prompts` allows. Also changes a password that has expired.

use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::status::{PromptField, PromptKind};

use crate::failure::Failure;
use crate::prompt::PromptRequest;
use crate::session::auth::login::{Login, Reply};
use crate::session::auth::method::{
    AuthContext, Credential, MethodOutcome, disconnect_is_rejection, prompt_cancelled,
};
use tunneld_platform::subprocess;

/// How often a new password is asked for: if the two differ, and if the server rejects it.
const CHANGE_LIMIT: usize = 3;

/// The state of the method over its attempts.
pub(crate) struct Password<'a> {
    context: &'a AuthContext<'a>,
    attempts_left: u32,
    last_was_wrong: bool,
}

/// Where a password comes from, or why there is none.
enum Answer {
    Given(SecretString),
    CommandFailed(String),
}

impl<'a> Password<'a> {
    pub(crate) fn new(context: &'a AuthContext<'a>) -> Self {
        // A command prints the same password again: a second attempt would only count as another failure.
        let attempts_left = match context.auth.password_command.is_empty() {
            true => context.auth.password_prompts,
            false => 1,
        };
        Self {
            context,
            attempts_left,
            last_was_wrong: false,
        }
    }

    /// Makes one attempt.
    pub(crate) async fn step(&mut self, login: &mut Login) -> Result<MethodOutcome, Failure> {
        if self.attempts_left == 0 {
            return Ok(MethodOutcome::Exhausted);
        }
        self.attempts_left -= 1;
        let password = match self.password(login).await? {
            Answer::Given(password) => password,
            Answer::CommandFailed(why) => return Ok(MethodOutcome::CommandFailed(why)),
        };
        let reply = login.password(&password, None).await;
        let reply = disconnect_is_rejection(reply, self.context)?;
        let Some(reply) = self.change_if_expired(login, &password, reply).await? else {
            return Ok(MethodOutcome::Exhausted);
        };
        self.last_was_wrong = matches!(reply, Reply::Failure { partial: false, .. });
        Ok(MethodOutcome::Replied {
            reply,
            to: Credential::Password,
        })
    }

    async fn password(&self, login: &mut Login) -> Result<Answer, Failure> {
        let command = &self.context.auth.password_command;
        if command.is_empty() {
            return self.ask(login).await.map(Answer::Given);
        }
        Ok(match subprocess::first_line(command).await {
            Ok(password) => Answer::Given(password),
            Err(why) => Answer::CommandFailed(format!("password_command: {why}")),
        })
    }

    async fn ask(&self, login: &mut Login) -> Result<SecretString, Failure> {
        let destination = self.context.destination;
        let again = match self.last_was_wrong {
            true => "The password was wrong. ",
            false => "",
        };
        let server = self.context.asking_server(&login.banner(), "");
        let request = PromptRequest {
            kind: PromptKind::Password,
            host: destination.to_owned(),
            note: again.to_owned(),
            text: format!("{destination} wants a password."),
            fields: vec![hidden_field("Password: ")],
            fingerprint: None,
            server: Some(server),
        };
        tokio::select! {
            // An answer that has arrived is sent, even if the connection has just ended: sending it reports the end.
            biased;
            answer = self.context.prompter.ask_one(request) => {
                answer.map_err(|_| prompt_cancelled(destination, "the password"))
            }
            // sshd closes the connection when its LoginGraceTime is over.
            lost = login.closed() => Err(lost),
        }
    }

    /// Changes the password while the server's reply is that it has expired. `None` if the server accepts none of the
    /// new ones.
    async fn change_if_expired(
        &self,
        login: &mut Login,
        password: &SecretString,
        mut reply: Reply,
    ) -> Result<Option<Reply>, Failure> {
        let mut changes = 0;
        while let Reply::ChangePassword(message) = &reply {
            changes += 1;
            if changes > CHANGE_LIMIT {
                return Ok(None);
            }
            let new = tokio::select! {
                biased;
                new = self.ask_for_new_password(message) => new?,
                lost = login.closed() => return Err(lost),
            };
            reply = login.password(password, Some(&new)).await?;
        }
        Ok(Some(reply))
    }

    /// Asks for a new password, twice in one prompt. `message` is the server's text.
    async fn ask_for_new_password(&self, message: &str) -> Result<SecretString, Failure> {
        let destination = self.context.destination;
        let mut note = "";
        for _ in 0..CHANGE_LIMIT {
            let request = PromptRequest {
                kind: PromptKind::NewPassword,
                host: destination.to_owned(),
                note: note.to_owned(),
                text: format!("The password of {destination} has expired."),
                fields: vec![
                    hidden_field("New password: "),
                    hidden_field("Repeat the new password: "),
                ],
                fingerprint: None,
                server: Some(self.context.asking_server("", message)),
            };
            let Ok(answers) = self.context.prompter.ask(request).await else {
                break;
            };
            if let [first, second] = answers.as_slice()
                && first.expose_secret() == second.expose_secret()
            {
                return Ok(first.clone());
            }
            note = "The two passwords differ. ";
        }
        Err(prompt_cancelled(destination, "a new password"))
    }
}

fn hidden_field(label: &str) -> PromptField {
    PromptField {
        label: label.to_owned(),
        echo: false,
    }
}
