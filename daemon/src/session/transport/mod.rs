//! The byte streams that an SSH session runs over: a TCP connection, or the stdin and stdout of a ProxyCommand.

pub(crate) mod proxy_command;
pub(crate) mod tcp;
