//! `connect`: stdin and stdout through a tunnel's session.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tunneld_proto::message;

use crate::cli::Connect;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// How long the far end may take to open the connection.
const OPEN: Duration = Duration::from_secs(60);
/// What is read at a time.
const BUFFER: usize = 64 * 1024;

/// Runs the command: each direction ends by itself, and the far end's end is ours.
pub(crate) async fn run(context: &Context, asked: &Connect) -> Result<(), Exit> {
    let client = context.connect().await?;
    let params = message::Connect {
        name: asked.name.clone(),
        host: asked.target.host.clone(),
        port: asked.target.port,
    };
    let lost = || {
        Exit::new(FAILED, "the connection was lost")
            .hint(format!("see tunnelctl status {}", asked.name))
    };
    let stream = client.into_stream(&params, OPEN).await?;
    let hangup = stream.get_ref().hangup();
    let hangup = hangup.map_err(|err| lost().caused_by(&err))?;
    let (from, mut to) = split(stream);
    let ours_ended = Cell::new(false);
    let upload = async {
        let cut = |err: &io::Error| is_cut(err.kind());
        // Where the daemon takes no more, the download tells what has become of it.
        if !copy(&mut tokio::io::stdin(), &mut to)
            .await
            .is_err_and(|err| cut(&err))
        {
            ours_ended.set(true);
            let _ = to.shutdown().await;
        }
    };
    let download = download(from);
    tokio::pin!(upload, download);
    let done = tokio::select! {
        done = &mut download => done,
        () = &mut upload => download.await,
    };
    match done? {
        // The daemon leaves our half to us at the far end's end, and takes both away with a session that dies. It
        // looks the same once ours has ended.
        Ended::Whole if !ours_ended.get() && hangup.is_hung_up() => Err(lost()),
        Ended::Whole => Ok(()),
        Ended::Lost(err) => Err(lost().caused_by(&err)),
    }
}

/// How the far end's bytes ended.
enum Ended {
    /// With their end, or with ours who read them.
    Whole,
    /// Before it.
    Lost(io::Error),
}

async fn download(mut from: impl AsyncRead + Unpin) -> Result<Ended, Exit> {
    let mut stdout = tokio::io::stdout();
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(count) => count,
            Err(err) => return Ok(Ended::Lost(err)),
        };
        stdout
            .write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        // What is kept back would be held from a partner who waits for it.
        stdout.flush().await?;
        if count == 0 {
            return Ok(Ended::Whole);
        }
    }
}

fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}
