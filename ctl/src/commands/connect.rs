//! `connect`: stdin and stdout through a tunnel's session.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, copy, split};
use tunneld_proto::message;

use crate::cli::Connect;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// How long the far end may take to open the connection.
const OPEN: Duration = Duration::from_secs(60);

/// Runs the command: each direction ends by itself, and the far end's end is ours.
pub(crate) async fn run(context: &Context, asked: &Connect) -> Result<(), Exit> {
    let client = context.connect().await?;
    let params = message::Connect {
        name: asked.name.clone(),
        host: asked.target.host.clone(),
        port: asked.target.port,
    };
    let stream = client.into_stream(&params, OPEN).await?;
    let (mut from, mut to) = split(stream);
    let upload = async {
        // Whatever ends it, the download tells what the far end made of it.
        let _ = copy(&mut tokio::io::stdin(), &mut to).await;
        let _ = to.shutdown().await;
    };
    let download = async {
        let mut stdout = tokio::io::stdout();
        copy(&mut from, &mut stdout).await?;
        stdout.flush().await
    };
    tokio::pin!(upload, download);
    let done = tokio::select! {
        done = &mut download => done,
        () = &mut upload => download.await,
    };
    match done {
        Ok(()) => Ok(()),
        // Nobody reads what we print, or nobody sends any more.
        Err(err)
            if matches!(
                err.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(err) => Err(Exit::new(FAILED, "the connection was lost")
            .caused_by(&err)
            .hint(format!("see tunnelctl status {}", asked.name))),
    }
}
