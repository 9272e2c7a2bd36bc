//! Flags of ssh that are accepted and ignored, so that pasted command lines work: a tunnel runs no command, has no
//! terminal, forwards neither agent nor display, and logs through the daemon.

use clap::{ArgAction, Args};

/// The ignored flags. Any of them marks the command line as one in ssh's syntax.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct IgnoredFlags {
    #[arg(short = 'N', hide = true, action = ArgAction::Count)]
    no_command: u8,
    #[arg(short = 'T', hide = true, action = ArgAction::Count)]
    no_terminal: u8,
    #[arg(short = 't', hide = true, action = ArgAction::Count)]
    terminal: u8,
    #[arg(short = 'f', hide = true, action = ArgAction::Count)]
    background: u8,
    #[arg(short = 'n', hide = true, action = ArgAction::Count)]
    no_stdin: u8,
    #[arg(short = 'A', hide = true, action = ArgAction::Count)]
    agent: u8,
    #[arg(short = 'a', hide = true, action = ArgAction::Count)]
    no_agent: u8,
    #[arg(short = 'X', hide = true, action = ArgAction::Count)]
    display: u8,
    #[arg(short = 'x', hide = true, action = ArgAction::Count)]
    no_display: u8,
    #[arg(short = 'Y', hide = true, action = ArgAction::Count)]
    trusted_display: u8,
    #[arg(short = 'k', hide = true, action = ArgAction::Count)]
    no_credentials: u8,
    #[arg(short = 'M', hide = true, action = ArgAction::Count)]
    master: u8,
    #[arg(short = 'y', hide = true, action = ArgAction::Count)]
    syslog: u8,
    #[arg(short = 'S', hide = true, value_name = "PATH")]
    control_path: Option<String>,
    #[arg(
        short = 'e',
        hide = true,
        value_name = "CHAR",
        allow_hyphen_values = true
    )]
    escape: Option<String>,
    #[arg(short = 'E', hide = true, value_name = "FILE")]
    log: Option<String>,
}

impl IgnoredFlags {
    /// Returns whether any of the flags was given.
    pub(crate) fn is_given(&self) -> bool {
        let flags = [
            self.no_command,
            self.no_terminal,
            self.terminal,
            self.background,
            self.no_stdin,
            self.agent,
            self.no_agent,
            self.display,
            self.no_display,
            self.trusted_display,
            self.no_credentials,
            self.master,
            self.syslog,
        ];
        let texts = [&self.control_path, &self.escape, &self.log];
        flags.iter().any(|given| *given > 0) || texts.iter().any(|text| text.is_some())
    }
}
