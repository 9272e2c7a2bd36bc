//! The web page of `tunnelctl web`: a server on a random loopback port, open only while somebody uses it.
//!
//! Who may use it: a one-time key, asked for over the control socket, is traded for a session key (`keys`). The page sends
//! the session key in the Authorization field of each request. There is no cookie: a cookie of 127.0.0.1 is sent to every
//! port of the machine, also to a server of another user.

mod document;
mod keys;
mod redirect;
mod requests;
mod server;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::WebOpened;

use self::server::PageServer;
use crate::control::{ControlContext, WebRequest};

/// The task that opens the page's server.
pub(crate) struct WebPage {
    context: Arc<ControlContext>,
    requests: mpsc::Receiver<WebRequest>,
    /// Folder of the redirect files, private to this user. `None` if there is none.
    folder: Option<PathBuf>,
    tasks: JoinSet<()>,
}

impl WebPage {
    /// Creates the task. `requests` are those of `web.open`; redirect files are written to `folder`.
    pub(crate) fn new(
        context: Arc<ControlContext>,
        requests: mpsc::Receiver<WebRequest>,
        folder: Option<PathBuf>,
    ) -> Self {
        Self {
            context,
            requests,
            folder,
            tasks: JoinSet::new(),
        }
    }

    /// Answers requests until the daemon stops.
    pub(crate) async fn run(mut self) {
        let stopping = self.context.stopping.clone();
        let mut server: Option<Arc<PageServer>> = None;
        loop {
            let reply = tokio::select! {
                () = stopping.cancelled() => return,
                Some(_) = self.tasks.join_next() => continue,
                request = self.requests.recv() => match request {
                    Some(reply) => reply,
                    None => return,
                },
            };
            // A server that nobody has used for a while has closed its port, and its keys are void.
            let open = match server.take().filter(|server| !server.is_closed()) {
                Some(open) => Ok(open),
                None => PageServer::start(&self.context, &mut self.tasks).await,
            };
            let opened = open.map(|open| {
                let opened = self.opened(&open);
                server = Some(open);
                opened
            });
            let opened = opened.map_err(|error| {
                let message = format!("cannot listen for the web page: {error}");
                RpcError::new(ErrorKind::Internal, message)
            });
            // Fails if the client has gone.
            let _ = reply.send(opened);
        }
    }

    fn opened(&mut self, server: &PageServer) -> WebOpened {
        let key = server.one_time_key(Instant::now());
        let url = format!(
            "http://127.0.0.1:{}/#key={}",
            server.port(),
            key.reveal().as_str()
        );
        let file = self.folder.as_ref().and_then(|folder| {
            let written = redirect::write(folder, &url, &mut self.tasks);
            written
                .inspect_err(|error| tracing::warn!("the web page's redirect file: {error}"))
                .ok()
        });
        WebOpened { url, file }
    }
}
