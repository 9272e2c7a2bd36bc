//! `tunnelctl connect`: connects stdin and stdout to a target through the session of a tunnel.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tunneld_proto::client::ClientError;
use tunneld_proto::error::{ErrorKind as RpcErrorKind, RpcError};
use tunneld_proto::message::{self, method};
use tunneld_proto::status::State;

use super::mirror::Mirror;
use super::wait::{self, Command};

use crate::cli::Connect;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// How long the SSH server may take to open the connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a tunnel that was down may take to come up; time for answering prompts does not count.
const UP_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes per read from the daemon.
const BUFFER_SIZE: usize = 64 * 1024;

/// Copies both directions until the target closes its side; the end of stdin is passed on as a half-close. Exit 1 if
/// the session is lost.
pub(crate) async fn run(context: &Context, args: &Connect) -> Result<(), Exit> {
    let client = context.connect_or_start().await?;
    let params = message::Connect {
        name: args.name.clone(),
        host: args.target.host.clone(),
        port: args.target.port,
    };
    let lost = || {
        Exit::new(FAILED, "the connection was lost")
            .hint(format!("see: tunnelctl status {}", args.name))
    };
    let stream = match client.into_stream(&params, OPEN_TIMEOUT).await {
        Err(ClientError::Rpc(err)) if err.data.kind == RpcErrorKind::NotUp => {
            bring_up(context, &args.name, err).await?;
            let client = context.connect().await?;
            client.into_stream(&params, OPEN_TIMEOUT).await?
        }
        stream => stream?,
    };
    let hangup = stream.get_ref().hangup();
    let hangup = hangup.map_err(|err| lost().caused_by(&err))?;
    let (from, mut to) = split(stream);
    let stdin_ended = Cell::new(false);
    let upload = async {
        // If the daemon closed the connection, the download reports why; a shutdown would only fail.
        if !copy(&mut tokio::io::stdin(), &mut to)
            .await
            .is_err_and(|err| is_disconnect(err.kind()))
        {
            stdin_ended.set(true);
            let _ = to.shutdown().await;
        }
    };
    let download = download(from);
    tokio::pin!(upload, download);
    // stdin may stay open for ever, as in `ssh -o ProxyCommand`; the end of the download ends the command.
    let end = tokio::select! {
        end = &mut download => end,
        () = &mut upload => download.await,
    };
    match end? {
        // When the target closes its side, the daemon keeps the other half open; when the session dies, it closes
        // both. After the end of stdin the two cases look the same.
        DownloadEnd::Eof if !stdin_ended.get() && hangup.is_hung_up() => Err(lost()),
        DownloadEnd::Eof => Ok(()),
        DownloadEnd::Lost(err) => Err(lost().caused_by(&err)),
    }
}

/// Brings the tunnel up as `tunnelctl up` does; prompts are asked on the terminal.
///
/// # Errors
/// What kept the tunnel down; `not_up`, if the daemon has already waited for a tunnel that is to be up.
async fn bring_up(context: &Context, name: &str, not_up: RpcError) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let mirror = Mirror::subscribe(&mut client).await?;
    let is_retrying = mirror
        .get(name)
        .is_some_and(|tunnel| matches!(tunnel.state, State::Connecting | State::Waiting));
    if is_retrying {
        return Err(not_up.into());
    }
    let command = Command {
        method: method::UP,
        fresh: false,
        names: vec![name.to_owned()],
        limit: Some(UP_TIMEOUT),
        // stdout carries the bytes of the connection.
        prints_result: false,
        begun: Timestamp::now(),
    };
    wait::run(context, &mut client, mirror, command).await
}

enum DownloadEnd {
    /// The daemon closed its side in order.
    Eof,
    /// Reading failed, or the daemon reset the connection.
    Lost(io::Error),
}

async fn download(mut from: impl AsyncRead + Unpin) -> Result<DownloadEnd, Exit> {
    let mut stdout = tokio::io::stdout();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(count) => count,
            Err(err) => return Ok(DownloadEnd::Lost(err)),
        };
        stdout
            .write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        // Flushed after each read: the reader may need these bytes before it sends its next request.
        stdout.flush().await?;
        if count == 0 {
            return Ok(DownloadEnd::Eof);
        }
    }
}

fn is_disconnect(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
