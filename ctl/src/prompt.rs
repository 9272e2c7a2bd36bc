//! Prompts relayed to a person: asked on the terminal, echo off as said, answers wiped after use.

use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tunneld_proto::client::{Client, Notification};
use tunneld_proto::error::ErrorKind;
use tunneld_proto::message::{Answer, Attend, Cancel, EventBody, Snapshot, method};
use tunneld_proto::status::{Prompt, PromptField};
use tunneld_proto::text::{escape_line, escape_lines};
use zeroize::Zeroize as _;

use crate::daemon::Context;
use crate::exit::{Exit, FAILED, INTERRUPTED};
use crate::signals::{self, Ends};

#[cfg(unix)]
const TERMINAL: &str = "/dev/tty";
#[cfg(windows)]
const TERMINAL: &str = "CONIN$";

/// Where answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The terminal.
    Terminal,
    /// stdin, a line an answer.
    Stdin,
}

impl Source {
    /// The terminal, where somebody sits at one.
    pub(crate) fn terminal() -> Option<Self> {
        let attended = io::stdin().is_terminal() || io::stderr().is_terminal();
        (attended && std::fs::File::open(TERMINAL).is_ok()).then_some(Self::Terminal)
    }
}

/// Tells the daemon that prompts of these tunnels are asked here, where there is a terminal for it.
pub(crate) async fn attend(client: &mut Client, names: &[String]) -> Result<(), Exit> {
    if Source::terminal().is_none() {
        return Ok(());
    }
    let names = names.to_vec();
    let said: Result<serde_json::Value, _> =
        client.call(method::PROMPT_ATTEND, &Attend { names }).await;
    match said {
        // An older daemon opens its window after a while.
        Err(tunneld_proto::client::ClientError::Rpc(err))
            if err.data.kind == ErrorKind::UnknownMethod =>
        {
            Ok(())
        }
        said => Ok(said.map(drop)?),
    }
}

/// What became of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The daemon took the answer.
    Answered,
    /// The person declined.
    Cancelled,
    /// It was answered elsewhere, or is moot.
    Gone,
}

/// Asks `prompt` and passes the answers on; what the daemon says meanwhile is put into `heard`.
pub(crate) async fn relay(
    context: &Context,
    client: &mut Client,
    prompt: &Prompt,
    source: Source,
    heard: &mut Vec<Notification>,
) -> Result<Outcome, Exit> {
    loop {
        let Some(answers) = ask(context, client, prompt, source, heard).await? else {
            return Ok(Outcome::Gone);
        };
        let Some(answers) = answers else {
            let cancelled: Result<serde_json::Value, _> = client
                .call(method::PROMPT_CANCEL, &Cancel { id: prompt.id })
                .await;
            return match cancelled.map_err(Exit::from) {
                Ok(_) => Ok(Outcome::Cancelled),
                Err(exit) if exit.code == FAILED => Ok(Outcome::Gone),
                Err(exit) => Err(exit),
            };
        };
        let mut answer = Answer {
            id: prompt.id,
            answers,
        };
        let sent: Result<serde_json::Value, _> = client.call(method::PROMPT_ANSWER, &answer).await;
        answer
            .answers
            .iter_mut()
            .for_each(|answer| answer.zeroize());
        match sent {
            Ok(_) => return Ok(Outcome::Answered),
            Err(tunneld_proto::client::ClientError::Rpc(err)) => match err.data.kind {
                ErrorKind::PromptNotFound => return Ok(Outcome::Gone),
                // A person may try again; a script would only say the same.
                ErrorKind::InvalidAnswer if source == Source::Terminal => {
                    context.ui.exit(&err.into())
                }
                _ => return Err(err.into()),
            },
            Err(err) => return Err(err.into()),
        }
    }
}

/// The answers; the inner none where the person declines, the outer where the prompt goes away.
async fn ask(
    context: &Context,
    client: &mut Client,
    prompt: &Prompt,
    source: Source,
    heard: &mut Vec<Notification>,
) -> Result<Option<Option<Vec<String>>>, Exit> {
    let _guard = Terminal::save();
    // Before the echo goes off: whoever ends this program gets it back.
    let mut signals = Ends::listen()?;
    signals::arm();
    let asked = prompt.clone();
    let gone = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&gone);
    let mut asking = tokio::task::spawn_blocking(move || read(&asked, source, &stop));
    let mut listening = true;
    loop {
        tokio::select! {
            answers = &mut asking => {
                let answers = answers.unwrap_or_else(|err| Err(io::Error::other(err)));
                return match answers {
                    _ if gone.load(Relaxed) => Ok(None),
                    Ok(answers) => Ok(Some(answers)),
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => Err(Exit::silent(INTERRUPTED)),
                    Err(err) if source == Source::Stdin && err.kind() == io::ErrorKind::UnexpectedEof => Err(unanswered(prompt)),
                    Err(err) => Err(Exit::new(FAILED, "reading the answer failed")
                        .caused_by(&err)
                        .hint("answer from a terminal: tunnelctl answer")),
                };
            }
            said = client.notification(), if listening => match said? {
                None => listening = false,
                Some(said) => {
                    if ends(&said, prompt.id) && !gone.swap(true, Relaxed) {
                        context.ui.say("");
                        context.ui.say("the prompt is gone: it was answered elsewhere, or is not needed any more; press Enter");
                    }
                    heard.push(said);
                }
            },
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
            exit = signals.next() => return Err(exit),
        }
    }
}

/// The end of a stdin that held no line for the prompt: nobody has declined.
fn unanswered(prompt: &Prompt) -> Exit {
    let name = &prompt.tunnel;
    let message = format!("{name} still waits for an answer: stdin has no line for it");
    Exit::new(FAILED, message).hint(format!(
        "give a line of stdin a question, or answer in a terminal: tunnelctl answer {name}"
    ))
}

/// Whether the daemon has just said that the prompt waits no more.
fn ends(said: &Notification, prompt: u64) -> bool {
    match said {
        Notification::Event(event) => {
            matches!(event.body, EventBody::PromptGone { id } if id == prompt)
        }
        Notification::Lagged(Snapshot { prompts, .. }) => {
            !prompts.iter().any(|waiting| waiting.id == prompt)
        }
        _ => false,
    }
}

fn read(prompt: &Prompt, source: Source, gone: &AtomicBool) -> io::Result<Option<Vec<String>>> {
    if source == Source::Terminal {
        show(&heading(prompt))?;
    }
    let mut answers = Vec::new();
    for field in &prompt.fields {
        let answer = match source {
            Source::Stdin => line(&mut io::stdin().lock()),
            Source::Terminal => on_terminal(field),
        };
        match answer {
            Ok(Some(answer)) => answers.push(answer),
            Err(err) if err.kind() != io::ErrorKind::UnexpectedEof => return Err(err),
            _ if source == Source::Stdin => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Ctrl-D leaves the cursor behind the question.
            _ => return show("\n").map(|()| None),
        }
        if gone.load(Relaxed) {
            return Ok(None);
        }
    }
    Ok(Some(answers))
}

fn heading(prompt: &Prompt) -> String {
    let text = escape_lines(prompt.text.trim_end());
    let text = if text.is_empty() {
        text
    } else {
        format!("{text}\n")
    };
    format!(
        "{} ({})\n{text}",
        escape_line(&prompt.tunnel),
        escape_line(&prompt.host)
    )
}

fn label(field: &PromptField) -> String {
    let label = escape_line(field.label.trim_end());
    if label.ends_with([':', '?', '>', '#', '$']) || label.is_empty() {
        format!("{label} ")
    } else {
        format!("{label}: ")
    }
}

fn show(text: &str) -> io::Result<()> {
    #[cfg(unix)]
    let mut terminal = std::fs::OpenOptions::new().write(true).open(TERMINAL)?;
    #[cfg(not(unix))]
    let mut terminal = io::stderr();
    terminal.write_all(text.as_bytes())?;
    terminal.flush()
}

fn on_terminal(field: &PromptField) -> io::Result<Option<String>> {
    show(&label(field))?;
    if !field.echo {
        return rpassword::read_password().map(Some);
    }
    line(&mut BufReader::new(std::fs::File::open(TERMINAL)?))
}

/// One line without its end; none at the end.
fn line(input: &mut impl io::BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(Some(line))
}

/// The terminal as it was, and is again once this is dropped: the console of other systems resets itself.
struct Terminal {
    #[cfg(unix)]
    was: Option<(std::fs::File, rustix::termios::Termios)>,
}

impl Terminal {
    #[cfg(unix)]
    fn save() -> Self {
        let open = || {
            let terminal = std::fs::File::open(TERMINAL).ok()?;
            let was = rustix::termios::tcgetattr(&terminal).ok()?;
            Some((terminal, was))
        };
        Self { was: open() }
    }

    #[cfg(not(unix))]
    fn save() -> Self {
        Self {}
    }
}

#[cfg(unix)]
impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some((terminal, was)) = &self.was {
            let _ =
                rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, was);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use tunneld_proto::status::PromptKind;

    fn field(label: &str) -> PromptField {
        PromptField {
            label: label.into(),
            echo: false,
        }
    }

    #[test]
    fn labels_end_as_questions_do() {
        assert_eq!(label(&field("Password: ")), "Password: ");
        assert_eq!(label(&field("Code")), "Code: ");
        assert_eq!(label(&field("Trust it?")), "Trust it? ");
        assert_eq!(label(&field("\x1b[2J")), "\\u{1b}[2J: ");
    }

    #[test]
    fn the_heading_keeps_lines_and_nothing_else() {
        let prompt = Prompt {
            id: 1,
            tunnel: "db".into(),
            kind: PromptKind::HostKey,
            host: "u@h:22".into(),
            text: "line 1\nline\r2\x1b]0;x\u{7}\n".into(),
            fields: vec![],
            fingerprint: None,
            since: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            heading(&prompt),
            "db (u@h:22)\nline 1\nline\\u{d}2\\u{1b}]0;x\\u{7}\n"
        );
    }

    #[test]
    fn lines_lose_their_end_alone() {
        let mut input = &b" two words \r\n\nlast"[..];
        assert_eq!(line(&mut input).unwrap().as_deref(), Some(" two words "));
        assert_eq!(line(&mut input).unwrap().as_deref(), Some(""));
        assert_eq!(line(&mut input).unwrap().as_deref(), Some("last"));
        assert_eq!(line(&mut input).unwrap(), None);
    }
}
