//! Relays prompts to the user: asks on the terminal, without echo for secrets, and wipes the answers after use.

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
use crate::signals::{self, ExitSignals};

#[cfg(unix)]
const TERMINAL: &str = "/dev/tty";
#[cfg(windows)]
const TERMINAL: &str = "CONIN$";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The controlling terminal, whatever stdin and stdout are redirected to.
    Terminal,
    /// stdin, one line per answer.
    Stdin,
}

impl Source {
    /// Returns the terminal; `None` in a script or service, where no user can answer.
    pub(crate) fn terminal() -> Option<Self> {
        // One of them is enough: the question is read from and written to the terminal itself, whatever is redirected.
        let is_interactive = io::stdin().is_terminal() || io::stderr().is_terminal();
        (is_interactive && std::fs::File::open(TERMINAL).is_ok()).then_some(Self::Terminal)
    }
}

/// Announces that this client asks the prompts of these tunnels (all if `names` is empty), so that the daemon opens no
/// window for them. Does nothing without a terminal.
pub(crate) async fn attend(client: &mut Client, names: &[String]) -> Result<(), Exit> {
    if Source::terminal().is_none() {
        return Ok(());
    }
    let names = names.to_vec();
    let reply: Result<serde_json::Value, _> =
        client.call(method::PROMPT_ATTEND, &Attend { names }).await;
    match reply {
        // An older daemon does not have the method; it opens its window after a delay.
        Err(tunneld_proto::client::ClientError::Rpc(err))
            if err.data.kind == ErrorKind::UnknownMethod =>
        {
            Ok(())
        }
        reply => Ok(reply.map(drop)?),
    }
}

/// Outcome of a relayed prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The daemon accepted the answer.
    Answered,
    Cancelled,
    /// It was answered by another client, or is no longer needed.
    Gone,
}

/// Asks `prompt` and sends the answers to the daemon. Notifications that arrive meanwhile are appended to
/// `notifications`.
pub(crate) async fn relay(
    context: &Context,
    client: &mut Client,
    prompt: &Prompt,
    source: Source,
    notifications: &mut Vec<Notification>,
) -> Result<Outcome, Exit> {
    loop {
        let Some(answers) = ask(context, client, prompt, source, notifications).await? else {
            return Ok(Outcome::Gone);
        };
        // The user cancelled: the daemon is informed, so that the tunnel stops waiting.
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
        // Secrets do not stay in memory longer than needed.
        answer
            .answers
            .iter_mut()
            .for_each(|answer| answer.zeroize());
        match sent {
            Ok(_) => return Ok(Outcome::Answered),
            Err(tunneld_proto::client::ClientError::Rpc(err)) => match err.data.kind {
                ErrorKind::PromptNotFound => return Ok(Outcome::Gone),
                // A user may try again; a script would only repeat its answer.
                ErrorKind::InvalidAnswer if source == Source::Terminal => {
                    context.ui.exit(&err.into())
                }
                _ => return Err(err.into()),
            },
            Err(err) => return Err(err.into()),
        }
    }
}

/// Asks the user. The outer `None` means that the prompt is gone, the inner one that the user cancelled it.
async fn ask(
    context: &Context,
    client: &mut Client,
    prompt: &Prompt,
    source: Source,
    notifications: &mut Vec<Notification>,
) -> Result<Option<Option<Vec<String>>>, Exit> {
    // Restores the echo if this function returns while the thread still reads a password.
    let _guard = TerminalGuard::save();
    // Installed before the echo is turned off, so that a signal cannot leave the terminal without echo.
    let mut signals = ExitSignals::listen()?;
    signals::arm();
    // Reading a terminal cannot be cancelled, so it runs in a thread; `gone` makes it return after the current line.
    let question = prompt.clone();
    let gone = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&gone);
    let mut asking = tokio::task::spawn_blocking(move || read(&question, source, &stop));
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
                        .hint("answer in a terminal: tunnelctl answer")),
                };
            }
            notification = client.notification(), if listening => match notification? {
                None => listening = false,
                Some(notification) => {
                    if closes(&notification, prompt.id) && !gone.swap(true, Relaxed) {
                        context.ui.info("");
                        context.ui.info("the prompt is closed: it was answered elsewhere or is no longer needed");
                    }
                    notifications.push(notification);
                }
            },
            _ = tokio::signal::ctrl_c() => return Err(Exit::silent(INTERRUPTED)),
            exit = signals.next() => return Err(exit),
        }
    }
}

/// The error for a stdin that ended before the prompt was answered. The prompt stays open: the user did not cancel it.
fn unanswered(prompt: &Prompt) -> Exit {
    let name = &prompt.tunnel;
    let message = format!("{name} is still waiting for an answer: stdin ended");
    Exit::new(FAILED, message).hint(format!(
        "give one line per question, or answer in a terminal: tunnelctl answer {name}"
    ))
}

/// Returns whether the notification says that the prompt is closed.
fn closes(notification: &Notification, prompt: u64) -> bool {
    match notification {
        Notification::Event(event) => {
            matches!(event.body, EventBody::PromptGone { id } if id == prompt)
        }
        // The event that the prompt is gone may be among the lost ones.
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
            Source::Stdin => read_line(&mut io::stdin().lock()),
            Source::Terminal => on_terminal(field, gone),
        };
        match answer {
            Ok(Some(answer)) => answers.push(answer),
            Err(err) if err.kind() != io::ErrorKind::UnexpectedEof => return Err(err),
            _ if source == Source::Stdin => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Ctrl-D cancels, and leaves the cursor behind the question.
            _ => return show("\n").map(|()| None),
        }
        if gone.load(Relaxed) {
            return Ok(None);
        }
    }
    Ok(Some(answers))
}

fn heading(prompt: &Prompt) -> String {
    // Written by the server: control characters could imitate a question of tunnelctl itself.
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

fn on_terminal(field: &PromptField, gone: &AtomicBool) -> io::Result<Option<String>> {
    show(&label(field))?;
    let _guard = TerminalGuard::save();
    #[cfg(unix)]
    if !wait_for_line(field, gone)? {
        // The caller checks `gone` before it uses the answer.
        return Ok(Some(String::new()));
    }
    if !field.echo {
        // rpassword turns the echo off and reads from the terminal even if stdin is redirected.
        return rpassword::read_password().map(Some);
    }
    read_line(&mut BufReader::new(std::fs::File::open(TERMINAL)?))
}

/// Waits until the user has entered a line, which a read then returns at once; `false` if the prompt is gone. A read of the
/// terminal itself could not be ended.
#[cfg(unix)]
fn wait_for_line(field: &PromptField, gone: &AtomicBool) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    /// How often `gone` is checked: 100 ms.
    const INTERVAL: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let terminal = std::fs::File::open(TERMINAL)?;
    if !field.echo {
        let mut modes = tcgetattr(&terminal)?;
        modes.local_modes.remove(LocalModes::ECHO);
        // The line end is shown, so that the next message begins on a line of its own.
        modes.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    }
    loop {
        if gone.load(Relaxed) {
            return Ok(false);
        }
        let mut fds = [PollFd::new(&terminal, PollFlags::IN)];
        match poll(&mut fds, Some(&INTERVAL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            // Also if the system cannot poll a terminal (macOS): the read waits then.
            Ok(_) | Err(_) => return Ok(true),
        }
    }
}

/// Reads one line without its line end; `None` at the end of the input.
fn read_line(input: &mut impl io::BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(Some(line))
}

/// Restores the terminal settings when dropped. Other systems restore the console by themselves.
struct TerminalGuard {
    #[cfg(unix)]
    saved: Option<(std::fs::File, rustix::termios::Termios)>,
}

impl TerminalGuard {
    #[cfg(unix)]
    fn save() -> Self {
        let open = || {
            let terminal = std::fs::File::open(TERMINAL).ok()?;
            let saved = rustix::termios::tcgetattr(&terminal).ok()?;
            Some((terminal, saved))
        };
        Self { saved: open() }
    }

    #[cfg(not(unix))]
    fn save() -> Self {
        Self {}
    }
}

#[cfg(unix)]
impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some((terminal, saved)) = &self.saved {
            let _ =
                rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Now, saved);
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
    fn labels_end_with_a_colon_or_a_question_mark() {
        assert_eq!(label(&field("Password: ")), "Password: ");
        assert_eq!(label(&field("Code")), "Code: ");
        assert_eq!(label(&field("Trust it?")), "Trust it? ");
        assert_eq!(label(&field("\x1b[2J")), "\\u{1b}[2J: ");
    }

    #[test]
    fn the_heading_keeps_line_feeds_and_escapes_the_rest() {
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
    fn only_the_line_end_is_removed() {
        let mut input = &b" two words \r\n\nlast"[..];
        assert_eq!(
            read_line(&mut input).unwrap().as_deref(),
            Some(" two words ")
        );
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some(""));
        assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("last"));
        assert_eq!(read_line(&mut input).unwrap(), None);
    }
}
