//! The method `keyboard-interactive` (RFC 4256). Prompts that a command of the configuration answers go to the command, the others
//! to the user.

use secrecy::SecretString;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;
use tunneld_ssh::auth::InfoRequest;

use crate::failure::Failure;
use crate::prompt::{AskingServer, PromptRequest, asks_for_current_password, server_label_prefix};
use crate::session::auth::login::{Challenge, Login, Reply};
use crate::session::auth::method::{
    AuthContext, Credential, MethodOutcome, disconnect_is_rejection, prompt_cancelled,
};
use tunneld_platform::subprocess;

/// Most prompts of one login that commands answer. The server chooses the prompts and could otherwise have a command
/// for one-time codes run hundreds of times; what is left is asked of the user.
const MAX_COMMAND_RUNS: usize = 8;

/// The state of the method over its attempts.
pub(crate) struct KeyboardInteractive<'a> {
    context: &'a AuthContext<'a>,
    attempts_left: u32,
    last_was_wrong: bool,
    /// Whether the user answered in the last attempt, or there was none. Commands give the same answers again, so that
    /// another attempt would be pointless.
    worth_another_attempt: bool,
    /// The prompts of this attempt that a command has answered.
    answered_by_command: Vec<String>,
}

/// The answers to one round, or why there are none.
enum Answers {
    Given(Vec<SecretString>),
    CommandFailed(String),
}

impl<'a> KeyboardInteractive<'a> {
    pub(crate) fn new(context: &'a AuthContext<'a>) -> Self {
        Self {
            context,
            attempts_left: context.auth.password_prompts,
            last_was_wrong: false,
            worth_another_attempt: true,
            answered_by_command: Vec::new(),
        }
    }

    /// Makes one attempt.
    pub(crate) async fn step(&mut self, login: &mut Login) -> Result<MethodOutcome, Failure> {
        if self.attempts_left == 0 || !self.worth_another_attempt {
            return Ok(MethodOutcome::Exhausted);
        }
        self.attempts_left -= 1;
        self.worth_another_attempt = false;
        self.answered_by_command.clear();
        let mut challenge = login.keyboard_interactive().await?;
        let mut prompts_seen = 0;
        // The SSH library limits the bytes of the rounds, and login_timeout their time: an expired password alone takes
        // four rounds, and each mistyped code one more.
        loop {
            let prompts = match challenge {
                // sshd without PAM offers the method and rejects it without any prompt: no credential was rejected.
                Challenge::Ended(Reply::Failure { partial: false, .. }) if prompts_seen == 0 => {
                    return Ok(MethodOutcome::Exhausted);
                }
                Challenge::Ended(reply) => {
                    self.last_was_wrong = matches!(reply, Reply::Failure { partial: false, .. });
                    let to = Credential::KeyboardInteractive;
                    return Ok(MethodOutcome::Replied { reply, to });
                }
                Challenge::InfoRequest(prompts) => prompts,
            };
            prompts_seen += prompts.prompts.len();
            let banner = login.banner();
            let answers = tokio::select! {
                biased;
                answers = self.answers(&banner, prompts) => answers?,
                lost = login.closed() => return Err(lost),
            };
            let answers = match answers {
                Answers::Given(answers) => answers,
                Answers::CommandFailed(why) => return Ok(MethodOutcome::CommandFailed(why)),
            };
            challenge = disconnect_is_rejection(login.answer(answers).await, self.context)?;
        }
    }

    /// Runs the commands first, then asks the user for what is left, in one prompt.
    async fn answers(&mut self, banner: &str, prompts: InfoRequest) -> Result<Answers, Failure> {
        let mut instructions = format!("{}\n{}", prompts.name, prompts.instruction);
        let prefix = server_label_prefix(self.context.destination);
        let mut by_command: Vec<Option<SecretString>> = Vec::new();
        let mut fields = Vec::new();
        for prompt in prompts.prompts {
            let (above, label) = split_label(&prompt.text);
            let answer = match self.command_for(&prompt.text, label) {
                None => {
                    instructions = format!("{instructions}\n{above}");
                    fields.push(PromptField {
                        label: format!("{prefix}{}", text::escape(label)),
                        echo: prompt.echo,
                    });
                    None
                }
                Some((key, argv)) => match subprocess::first_line(argv).await {
                    Ok(answer) => {
                        // At once: a server that repeats a prompt within one request gets one answer.
                        self.answered_by_command.push(prompt.text);
                        Some(answer)
                    }
                    Err(why) => return Ok(Answers::CommandFailed(format!("{key}: {why}"))),
                },
            };
            by_command.push(answer);
        }
        let mut by_user = match fields.is_empty() {
            true => Vec::new(),
            false => {
                let server = self.context.asking_server(banner, &instructions);
                self.ask(server, fields).await?
            }
        }
        .into_iter();
        // RFC 4256 §3.4: one answer per prompt, in the order of the prompts.
        let answers = by_command
            .into_iter()
            .map(|answer| answer.or_else(|| by_user.next()).unwrap_or_default());
        Ok(Answers::Given(answers.collect()))
    }

    /// The command for a prompt, with its key in the configuration. `None` if the user has to answer. `label` is the last
    /// line of the prompt.
    fn command_for(&mut self, prompt: &str, label: &str) -> Option<(&'static str, &'a [String])> {
        // The server repeats the prompt because the answer was wrong. The command would give the same again, and each
        // one may count as a failed login.
        if self.answered_by_command.iter().any(|known| known == prompt) {
            self.last_was_wrong = true;
            return None;
        }
        if self.answered_by_command.len() >= MAX_COMMAND_RUNS {
            return None;
        }
        let auth = self.context.auth;
        let answer = auth
            .answers
            .iter()
            .find(|answer| answer.prompt.is_match(prompt));
        if let Some(answer) = answer {
            return Some(("answers", &answer.command));
        }
        // PAM asks for ordinary passwords by this method, and for new ones, which the command does not know.
        (asks_for_current_password(label) && !auth.password_command.is_empty())
            .then_some(("password_command", auth.password_command.as_slice()))
    }

    async fn ask(
        &mut self,
        server: AskingServer,
        fields: Vec<PromptField>,
    ) -> Result<Vec<SecretString>, Failure> {
        self.worth_another_attempt = true;
        let destination = self.context.destination;
        // In the first round only: the server sends a second round after an answer that was right.
        let note = match std::mem::take(&mut self.last_was_wrong) {
            true => "The answer was wrong. ",
            false => "",
        };
        let request = PromptRequest {
            kind: PromptKind::KeyboardInteractive,
            host: destination.to_owned(),
            note: note.to_owned(),
            text: format!("{destination} asks:"),
            fields,
            fingerprint: None,
            server: Some(server),
        };
        let answers = self.context.prompter.ask(request).await;
        answers.map_err(|_| prompt_cancelled(destination, "the login"))
    }
}

/// Splits a prompt of several lines, such as a menu, into the lines above and the label, which is the last line that is
/// not blank.
fn split_label(prompt: &str) -> (&str, &str) {
    let label_at = prompt.trim_end().rfind('\n').map_or(0, |at| at + 1);
    let (above, rest) = prompt.split_at(label_at);
    (above, rest.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_menu_is_its_label() {
        assert_eq!(split_label("Password: "), ("", "Password: "));
        assert_eq!(split_label(""), ("", ""));
        assert_eq!(split_label("Code:\r\n\n"), ("", "Code:"));
        let menu = "Duo login\n\n 1. Duo Push\n\nPasscode or option (1-1): ";
        let (above, label) = split_label(menu);
        assert_eq!(above, "Duo login\n\n 1. Duo Push\n\n");
        assert_eq!(label, "Passcode or option (1-1): ");
    }
}
