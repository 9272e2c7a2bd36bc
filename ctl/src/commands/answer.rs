//! `answer`: the waiting prompts, asked here.

use std::io::IsTerminal as _;

use tunneld_proto::message::{Prompts, Snapshot, Subscribe, method};
use tunneld_proto::status::{Prompt, TunnelStatus};

use crate::cli::{Answer, Which};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};
use crate::output::line::{Ink, Line};
use crate::prompt::{self, Outcome, Source};
use crate::select::{matches, select};

/// Runs the command.
pub(crate) async fn run(context: &Context, asked: &Answer) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let snapshot: Snapshot = client
        .call(method::SUBSCRIBE, &Subscribe::default())
        .await?;
    let Prompts { mut prompts } = client
        .call(method::PROMPT_LIST, &serde_json::Value::Null)
        .await?;
    if let Some(name) = &asked.name {
        let names = vec![name.clone()];
        select(
            &snapshot.tunnels,
            &Which {
                names,
                ..Which::default()
            },
        )?;
        prompts.retain(|prompt| concerns(prompt, name, &snapshot.tunnels));
    }
    if context.ui.json {
        return context.ui.json(&prompts);
    }
    if prompts.is_empty() {
        context.ui.say("nothing waits for an answer");
        return Ok(());
    }
    let source = Source::terminal().unwrap_or(Source::Stdin);
    let source = if std::io::stdin().is_terminal() {
        source
    } else {
        Source::Stdin
    };
    let names: Vec<String> = prompts.iter().map(|prompt| prompt.tunnel.clone()).collect();
    prompt::attend(&mut client, &names).await?;
    let mut declined = false;
    for prompt in &prompts {
        // What is said meanwhile is of no use here.
        let outcome = prompt::relay(context, &mut client, prompt, source, &mut Vec::new()).await?;
        let (ink, word) = match outcome {
            Outcome::Answered => (Ink::Good, "answered"),
            Outcome::Cancelled => (Ink::Warn, "cancelled"),
            Outcome::Gone => (Ink::Dim, "not needed any more"),
        };
        declined |= outcome == Outcome::Cancelled;
        context
            .ui
            .say(Line::of(Ink::Bold, &prompt.tunnel).and(" ").with(ink, word));
    }
    if declined {
        return Err(Exit::silent(FAILED));
    }
    Ok(())
}

/// Whether the prompt is the tunnel's own, or one that it waits for beside another.
fn concerns(prompt: &Prompt, pattern: &str, tunnels: &[TunnelStatus]) -> bool {
    let waits = |tunnel: &TunnelStatus| {
        tunnel
            .prompt
            .as_ref()
            .is_some_and(|waiting| waiting.id == prompt.id)
    };
    matches(pattern, &prompt.tunnel)
        || tunnels
            .iter()
            .any(|tunnel| matches(pattern, &tunnel.name) && waits(tunnel))
}
