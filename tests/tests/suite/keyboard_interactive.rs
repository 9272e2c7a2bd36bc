//! What servers do with keyboard-interactive (RFC 4256) beyond a password and a code: long dialogues, menus, many prompts.

use anyhow::Result;
use tunneld_proto::status::PromptKind;
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::wait::LONG;

use crate::fixture::{answer_prompt, is_up, start_daemon, wait_next_prompt, wait_prompt};

fn round(prompts: Vec<(&'static str, bool, &'static str)>) -> PromptRound {
    PromptRound {
        instructions: "",
        prompts,
    }
}

#[tokio::test]
async fn an_expired_password_takes_five_rounds_and_the_command_gives_only_the_current_one()
-> Result<()> {
    let rounds = vec![
        round(vec![("Password: ", false, "old")]),
        round(vec![]),
        round(vec![("Current password: ", false, "old")]),
        round(vec![("New password: ", false, "n3w")]),
        round(vec![("Retype new password: ", false, "n3w")]),
    ];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let text = server.tunnel_toml("t")? + "password_command = [\"echo\", \"old\"]\n";
    let (_home, daemon) = start_daemon(&text).await?;
    let mut watch = daemon.watch().await?;
    let mut prompt = wait_prompt(&mut watch, "t").await?;
    assert!(prompt.fields[0].label.ends_with("New password: "));
    answer_prompt(&daemon, &prompt, &["n3w"]).await?;
    prompt = wait_next_prompt(&mut watch, "t", &prompt).await?;
    assert!(prompt.fields[0].label.ends_with("Retype new password: "));
    answer_prompt(&daemon, &prompt, &["n3w"]).await?;
    watch.until("t", LONG, is_up).await?;
    assert_eq!(server.attempts(), ["keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn a_prompt_that_is_repeated_goes_to_the_user_and_not_to_the_command_again() -> Result<()> {
    let rounds = vec![
        round(vec![("Code: ", false, "111")]),
        round(vec![("Code: ", false, "222")]),
    ];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let text = server.tunnel_toml("t")?
        + "answers = [{ prompt = \"Code\", command = [\"echo\", \"111\"] }]\n";
    let (_home, daemon) = start_daemon(&text).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    answer_prompt(&daemon, &prompt, &["222"]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn twelve_prompts_in_one_request_are_asked() -> Result<()> {
    let rounds = vec![round(vec![("Letter: ", true, "x"); 12])];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let (_home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    assert_eq!(prompt.fields.len(), 12);
    answer_prompt(&daemon, &prompt, &["x"; 12]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_runs_once_for_a_prompt_that_one_request_repeats() -> Result<()> {
    let rounds = vec![round(vec![("Letter: ", true, "x"); 12])];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let dir = tempfile::tempdir()?;
    let runs = dir.path().join("runs");
    let answers = format!(
        "answers = [{{ prompt = \"Letter\", command = [\"/bin/sh\", \"-c\", \"echo run >> {}; echo x\"] }}]\n",
        runs.display()
    );
    let (_home, daemon) = start_daemon(&(server.tunnel_toml("t")? + &answers)).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    assert_eq!(prompt.fields.len(), 11);
    assert_eq!(std::fs::read_to_string(&runs)?, "run\n");
    answer_prompt(&daemon, &prompt, &["x"; 11]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn the_lines_of_a_menu_are_quoted_and_its_last_line_is_the_label() -> Result<()> {
    let menu = "Duo two-factor login for ada\n\nSelect:\n\n 1. Duo Push\n 2. \u{1b}[2JPhone\n\nPasscode or option (1-2): ";
    let rounds = vec![PromptRound {
        instructions: "The key /home/ada/.ssh/id needs its passphrase.",
        prompts: vec![(menu, true, "1")],
    }];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let (_home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    assert_eq!(prompt.kind, PromptKind::KeyboardInteractive);
    let host = &prompt.host;
    assert_eq!(
        prompt.text.lines().collect::<Vec<_>>(),
        [
            &format!("{host} asks:"),
            "> The key /home/ada/.ssh/id needs its passphrase.",
            "> Duo two-factor login for ada",
            ">",
            "> Select:",
            ">",
            ">  1. Duo Push",
            ">  2. \\u{1b}[2JPhone",
        ]
    );
    assert_eq!(
        prompt.fields[0].label,
        format!("({host}) Passcode or option (1-2): ")
    );
    answer_prompt(&daemon, &prompt, &["1"]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}
