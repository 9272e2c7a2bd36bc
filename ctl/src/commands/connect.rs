//! `tunnelctl connect`: connects stdin and stdout to a target through the session of a tunnel.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tunneld_proto::message;

use crate::cli::Connect;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// How long the SSH server may take to open the connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes per read from the daemon.
const BUFFER_SIZE: usize = 64 * 1024;

/// Copies both directions until the target closes its side; the end of stdin is passed on as a half-close. Exit 1 if
/// the session is lost.
pub(crate) async fn run(context: &Context, args: &Connect) -> Result<(), Exit> {
    let client = context.connect().await?;
    let params = message::Connect {
        name: args.name.clone(),
        host: args.target.host.clone(),
        port: args.target.port,
    };
    let lost = || {
        Exit::new(FAILED, "the connection was lost")
            .hint(format!("see: tunnelctl status {}", args.name))
    };
    let stream = client.into_stream(&params, OPEN_TIMEOUT).await?;
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
