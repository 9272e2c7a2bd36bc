//! The method `keyboard-interactive` (RFC 4256): what commands can answer they answer, the rest a person does.

use secrecy::SecretString;
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;

use crate::failure::{Failure, FailureKind};
use crate::prompt::PromptRequest;
use crate::session::auth::login::{Challenge, Login, Reply};
use crate::session::auth::{AuthContext, MethodOutcome, not_answered, tried};
use tunneld_platform::subprocess as command;

/// How often the server may ask within one attempt, and how much at once.
const ROUNDS: usize = 8;
const PROMPTS: usize = 16;

/// What is left of its attempts.
pub(crate) struct Interactive<'a> {
    means: &'a AuthContext<'a>,
    left: u32,
    wrong: bool,
    /// Whether a person was needed: only then is a second attempt more than the same again.
    asked: bool,
}

/// Lines as one, with a space behind where there are any.
pub(crate) fn one_line(lines: &str) -> String {
    let joined = lines.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.is_empty() {
        true => joined,
        false => format!("{} ", text::escape(&joined)),
    }
}

impl<'a> Interactive<'a> {
    pub(crate) fn new(means: &'a AuthContext<'a>) -> Self {
        Self {
            means,
            left: means.auth.password_prompts,
            wrong: false,
            asked: true,
        }
    }

    /// One attempt.
    pub(crate) async fn step(
        &mut self,
        login: &mut impl Login,
        notes: &mut Vec<String>,
    ) -> Result<MethodOutcome, Failure> {
        if self.left == 0 || !self.asked {
            return Ok(MethodOutcome::Exhausted);
        }
        self.left -= 1;
        self.asked = false;
        let mut challenge = login.interactive().await?;
        let mut questions = 0;
        for _ in 0..ROUNDS {
            let (name, instructions, prompts) = match challenge {
                // sshd without PAM offers the method and asks nothing: no refusal of anything.
                Challenge::Over(Reply::Failure { partial: false, .. }) if questions == 0 => {
                    return Ok(MethodOutcome::Exhausted);
                }
                Challenge::Over(reply) => {
                    self.wrong = matches!(reply, Reply::Failure { partial: false, .. });
                    return Ok(MethodOutcome::Replied(reply));
                }
                Challenge::Prompts {
                    name,
                    instructions,
                    prompts,
                } => (name, instructions, prompts),
            };
            if prompts.len() > PROMPTS {
                return Err(endless(self.means.who, "asks more than 16 things at once"));
            }
            questions += prompts.len();
            let banner = login.banner();
            let said = one_line(&format!("{banner} {name} {instructions}"));
            let answers = tokio::select! {
                biased;
                answers = self.answers(&said, prompts, notes) => answers?,
                lost = login.closed() => return Err(lost),
            };
            let Some(answers) = answers else {
                return Ok(MethodOutcome::Exhausted);
            };
            challenge = tried(login.answer(answers).await, self.means)?;
        }
        Err(endless(self.means.who, "asks without end"))
    }

    /// The answers to one round; none where a command failed.
    async fn answers(
        &mut self,
        said: &str,
        prompts: Vec<(String, bool)>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<SecretString>>, Failure> {
        let mut answers: Vec<Option<SecretString>> = Vec::new();
        let mut fields = Vec::new();
        for (prompt, echo) in prompts {
            let answer = match self.command_for(&prompt) {
                None => {
                    fields.push(PromptField {
                        label: text::escape(&prompt),
                        echo,
                    });
                    None
                }
                Some((key, argv)) => match command::first_line(argv).await {
                    Ok(answer) => Some(answer),
                    Err(why) => {
                        notes.push(format!("{key}: {why}"));
                        return Ok(None);
                    }
                },
            };
            answers.push(answer);
        }
        let mut given = Vec::new();
        if !fields.is_empty() {
            given = self.ask(said, fields).await?;
        }
        let mut given = given.into_iter();
        let filled = answers
            .into_iter()
            .map(|answer| answer.or_else(|| given.next()).unwrap_or_default());
        Ok(Some(filled.collect()))
    }

    fn command_for(&self, prompt: &str) -> Option<(&'static str, &'a [String])> {
        let auth = self.means.auth;
        let answer = auth
            .answers
            .iter()
            .find(|answer| answer.prompt.is_match(prompt));
        if let Some(answer) = answer {
            return Some(("answers", &answer.command));
        }
        let is_password = prompt.to_lowercase().contains("password");
        (is_password && !auth.password_command.is_empty())
            .then_some(("password_command", auth.password_command.as_slice()))
    }

    async fn ask(
        &mut self,
        said: &str,
        fields: Vec<PromptField>,
    ) -> Result<Vec<SecretString>, Failure> {
        self.asked = true;
        let who = self.means.who;
        // Told in the first round alone: the second belongs to an answer that was right.
        let again = if std::mem::take(&mut self.wrong) {
            "The answer was wrong. "
        } else {
            ""
        };
        let question = PromptRequest {
            kind: PromptKind::KeyboardInteractive,
            host: who.to_owned(),
            note: again.to_owned(),
            text: format!("{said}{who} asks:"),
            fields,
            fingerprint: None,
        };
        let answered = self.means.desk.ask(question).await;
        answered.map_err(|_| not_answered(who, "the login"))
    }
}

fn endless(who: &str, how: &str) -> Failure {
    Failure::new(FailureKind::AuthRefused, format!("{who}: the server {how}"))
}
