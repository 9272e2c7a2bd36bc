//! Speaks with the client of a dynamic forward until it has said where it wants to go: `ssh -D`, and either side of
//! a remote one without a target. The words themselves are `proxy`'s.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::admission::AdmissionQueue;
use super::carry::{pump, tell};
use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::{self, NotOpened};
use super::local_socket::Socket;
use super::ssh_session::{SshSession, Stream, Target};
use crate::dynamic::{Handshake, Reply, Request, Step};

/// How long a client may take to say where it wants to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client wants, and what it sent behind that already.
pub(super) struct Greeted {
    /// What it wants.
    pub(super) request: Request,
    /// The first bytes of what it wants carried.
    pub(super) payload: Vec<u8>,
}

/// Hears a client out; none for one that said nothing sensible, too late, or has to give way to newer ones.
pub(super) async fn greet<S: Stream>(room: &AdmissionQueue, stream: &mut S) -> Option<Greeted> {
    let seat = room.enter();
    tokio::select! {
        greeted = timeout(PATIENCE, converse(stream)) => greeted.ok()?.ok()?,
        () = seat.ousted() => None,
    }
}

async fn converse<S: Stream>(stream: &mut S) -> io::Result<Option<Greeted>> {
    let mut handshake = Handshake::new();
    let mut buffer = [0; 600];
    loop {
        match handshake.step() {
            Step::More => {
                let room = handshake.room().min(buffer.len());
                let read = stream
                    .read(buffer.get_mut(..room).unwrap_or_default())
                    .await?;
                if read == 0 {
                    return Ok(None);
                }
                handshake.push(buffer.get(..read).unwrap_or_default());
            }
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Connect(request) => {
                let payload = handshake.into_payload();
                return Ok(Some(Greeted { request, payload }));
            }
            Step::Refuse(bytes) => {
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                return Ok(None);
            }
            Step::Close => return Ok(None),
        }
    }
}

/// Serves one client of a dynamic forward on this side.
pub(super) async fn serve<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    cancel: &CancellationToken,
    mut near: Socket,
) {
    let at_once = ground.options.borrow().hold.is_zero();
    if at_once && ground.live().is_none() {
        return tell(ground, facts, &NotOpened::HoldTimedOut);
    }
    let greeted = cancel.run_until_cancelled(greet(&ground.greeters, &mut near));
    let Some(greeted) = greeted.await else {
        return;
    };
    let Some(Greeted { request, payload }) = greeted else {
        return near.close();
    };
    let target = Target::Tcp {
        host: request.host.to_bytes(),
        port: request.port,
    };
    let opened = cancel.run_until_cancelled(hold::open(ground, facts, &near, &target));
    match opened.await {
        Some(Ok(opened)) => {
            let granted = request.answer(Reply::Granted);
            match near.write_all(&granted).await {
                Ok(()) => pump(facts, near, opened, payload).await,
                Err(_) => tell(ground, facts, &NotOpened::ClientGone),
            }
        }
        Some(Err(why)) => {
            tell(ground, facts, &why);
            let reply = match &why {
                NotOpened::Refused(error) => Reply::of_open(error),
                NotOpened::HoldTimedOut => Reply::HostUnreachable,
                NotOpened::ClientGone | NotOpened::Evicted => return,
            };
            if near.write_all(&request.answer(reply)).await.is_ok() {
                near.close();
            }
        }
        None => {}
    }
}
