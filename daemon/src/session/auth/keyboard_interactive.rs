//! The method `keyboard-interactive` (RFC 4256). Prompts that a command of the configuration answers go to the command, the others
//! to the user.

use secrecy::SecretString;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;
use tunneld_ssh::auth::InfoRequest;

use crate::failure::{Failure, FailureKind};
use crate::prompt::{AskingServer, PromptRequest};
use crate::session::auth::login::{Challenge, Login, Reply};
use crate::session::auth::method::{
    AuthContext, Credential, MethodOutcome, disconnect_is_rejection, prompt_cancelled,
};
use tunneld_platform::subprocess;

/// Rounds of prompts within one attempt. An expired password needs four: password, current, new, repeated.
const ROUND_LIMIT: usize = 8;
/// InfoRequest in one round.
const PROMPT_LIMIT: usize = 16;

/// The state of the method over its attempts.
pub(crate) struct KeyboardInteractive<'a> {
    context: &'a AuthContext<'a>,
    attempts_left: u32,
    last_was_wrong: bool,
    /// Whether the user answered in the last attempt, or there was none. Commands give the same answers again, so that
    /// another attempt would be pointless.
    worth_another_attempt: bool,
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
        }
    }

    /// Makes one attempt.
    pub(crate) async fn step(&mut self, login: &mut Login) -> Result<MethodOutcome, Failure> {
        if self.attempts_left == 0 || !self.worth_another_attempt {
            return Ok(MethodOutcome::Exhausted);
        }
        self.attempts_left -= 1;
        self.worth_another_attempt = false;
        let mut challenge = login.keyboard_interactive().await?;
        let mut prompts_seen = 0;
        for _ in 0..ROUND_LIMIT {
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
            if prompts.prompts.len() > PROMPT_LIMIT {
                return Err(self.too_many(&format!("more than {PROMPT_LIMIT} prompts at once")));
            }
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
        Err(self.too_many(&format!("more than {ROUND_LIMIT} rounds of prompts")))
    }

    /// Runs the commands first, then asks the user for what is left, in one prompt.
    async fn answers(&mut self, banner: &str, prompts: InfoRequest) -> Result<Answers, Failure> {
        let instructions = format!("{}\n{}", prompts.name, prompts.instruction);
        let server = self.context.asking_server(banner, &instructions);
        let mut by_command: Vec<Option<SecretString>> = Vec::new();
        let mut fields = Vec::new();
        for prompt in prompts.prompts {
            let answer = match self.command_for(&prompt.text) {
                None => {
                    fields.push(PromptField {
                        label: text::escape(&prompt.text),
                        echo: prompt.echo,
                    });
                    None
                }
                Some((key, argv)) => match subprocess::first_line(argv).await {
                    Ok(answer) => Some(answer),
                    Err(why) => return Ok(Answers::CommandFailed(format!("{key}: {why}"))),
                },
            };
            by_command.push(answer);
        }
        let mut by_user = match fields.is_empty() {
            true => Vec::new(),
            false => self.ask(server, fields).await?,
        }
        .into_iter();
        // RFC 4256 §3.4: one answer per prompt, in the order of the prompts.
        let answers = by_command
            .into_iter()
            .map(|answer| answer.or_else(|| by_user.next()).unwrap_or_default());
        Ok(Answers::Given(answers.collect()))
    }

    /// The command for a prompt, with its key in the configuration. `None` if the user has to answer.
    fn command_for(&self, prompt: &str) -> Option<(&'static str, &'a [String])> {
        let auth = self.context.auth;
        let answer = auth
            .answers
            .iter()
            .find(|answer| answer.prompt.is_match(prompt));
        if let Some(answer) = answer {
            return Some(("answers", &answer.command));
        }
        // PAM asks for ordinary passwords by this method.
        let is_password = prompt.to_lowercase().contains("password");
        (is_password && !auth.password_command.is_empty())
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

    fn too_many(&self, what: &str) -> Failure {
        Failure::new(
            FailureKind::AuthRefused,
            format!("{}: the server sent {what}", self.context.destination),
        )
    }
}
