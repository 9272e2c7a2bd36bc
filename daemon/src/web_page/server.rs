//! The server of the page: one loopback port, closed when nobody has used it for ten minutes.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tunneld_proto::error::{ErrorKind, RpcError};

use super::document::{PAGE, POLICY};
use super::keys::{Key, Keys};
use super::requests;
use super::stream::EventBody;
use crate::control::{self, ControlContext};
use crate::web::answer;
use crate::web::peer;

/// How long the port stays open without a viewer.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// How often the viewers are counted.
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// Connections at the same time: a few tabs, each with a stream and some calls.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for the header section of a request, and be idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;

type Reply = Response<Either<Full<Bytes>, EventBody>>;

/// An open port with its keys.
pub(super) struct PageServer {
    port: u16,
    keys: Mutex<Keys>,
    context: Arc<ControlContext>,
    /// One clone more for each open stream of events.
    viewers: Arc<()>,
    /// Cancelled when the port is closed.
    closed: CancellationToken,
    /// When the port was last used.
    used_at: Mutex<Instant>,
}

/// The body of `POST /session`.
#[derive(Deserialize)]
struct Trade {
    key: String,
}

/// The body of `POST /call`.
#[derive(Deserialize)]
struct PageCall {
    method: String,
    #[serde(default)]
    params: Value,
}

impl PageServer {
    /// Listens on a random port of 127.0.0.1. `tasks` run the server.
    pub(super) async fn start(
        context: &Arc<ControlContext>,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let server = Arc::new(Self {
            port: listener.local_addr()?.port(),
            keys: Mutex::default(),
            context: Arc::clone(context),
            viewers: Arc::new(()),
            closed: CancellationToken::new(),
            used_at: Mutex::new(Instant::now()),
        });
        tracing::info!(port = server.port, "the web page is open");
        tasks.spawn(Arc::clone(&server).run(listener));
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Returns a new one-time key.
    pub(super) fn one_time_key(&self, now: Instant) -> Key {
        let key = Key::new(rand::random());
        self.keys.lock().add_one_time(key.clone(), now);
        *self.used_at.lock() = now;
        key
    }

    async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut clients = JoinSet::new();
        let stopping = self.context.stopped.clone();
        let accept = async {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                while clients.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((socket, peer)) => {
                        let server = Arc::clone(&self);
                        clients.spawn(async move {
                            let _place = place;
                            server.serve_client(socket, peer).await;
                        });
                    }
                    // Without a free descriptor the next accept would fail at once too.
                    Err(_) => sleep(Duration::from_secs(1)).await,
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = self.unused() => {}
            () = stopping.cancelled() => {}
        }
        self.closed.cancel();
        tracing::info!(port = self.port, "the web page is closed");
    }

    /// Waits until nobody has used the port for [`IDLE_LIMIT`].
    async fn unused(&self) {
        loop {
            sleep(IDLE_CHECK).await;
            let now = Instant::now();
            // One is the server's own.
            if Arc::strong_count(&self.viewers) > 1 {
                *self.used_at.lock() = now;
            }
            if now.duration_since(*self.used_at.lock()) >= IDLE_LIMIT {
                return;
            }
        }
    }

    async fn serve_client(self: Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        // Loopback is shared by all users of the machine. Without an answer the keys alone decide.
        if let Ok(local) = socket.local_addr()
            && peer::is_foreign(local, peer).await
        {
            tracing::warn!("a client of another user was refused on the web page's port");
            return;
        }
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path();
        if path == "/" {
            return self.page(&request).map(Either::Left);
        }
        if !requests::is_from_page(request.headers(), self.port) {
            let line = "This server answers to its own page only.\n";
            return answer::text(StatusCode::FORBIDDEN, line).map(Either::Left);
        }
        match (request.method(), path) {
            (&Method::POST, "/session") => self.trade(request).await.map(Either::Left),
            (&Method::POST, "/call") if self.has_session(&request) => {
                self.call(request).await.map(Either::Left)
            }
            (&Method::GET, "/events") if self.has_session(&request) => self.events().await,
            (_, "/call" | "/events") => unauthorized().map(Either::Left),
            _ => answer::text(StatusCode::NOT_FOUND, "There is nothing here.\n").map(Either::Left),
        }
    }

    /// The page itself holds no data, so a browser may open it from anywhere: from the redirect file, or a bookmark.
    fn page(&self, request: &Request<Incoming>) -> answer::Answer {
        let host = request.headers().get(hyper::header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| crate::web::request_check::is_loopback(host, self.port)) {
            let line = "This server answers to localhost, 127.0.0.1 and [::1] only.\n";
            return answer::text(StatusCode::FORBIDDEN, line);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer::wrong_method("GET, HEAD");
        }
        let mut response = answer::with_body(
            StatusCode::OK,
            "text/html; charset=utf-8",
            Bytes::from_static(PAGE.as_bytes()),
        );
        if let Ok(policy) = HeaderValue::from_str(&POLICY) {
            response
                .headers_mut()
                .insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn has_session(&self, request: &Request<Incoming>) -> bool {
        let key = requests::bearer(request.headers());
        key.is_some_and(|key| self.keys.lock().has_session(key, Instant::now()))
    }

    async fn trade(&self, request: Request<Incoming>) -> answer::Answer {
        let trade: Trade = match body(request).await {
            Ok(trade) => trade,
            Err(refusal) => return refusal,
        };
        let session = Key::new(rand::random());
        let is_traded = self
            .keys
            .lock()
            .trade(&trade.key, session.clone(), Instant::now());
        match is_traded {
            true => json_answer(
                StatusCode::OK,
                &json!({"session": session.reveal().as_str()}),
            ),
            false => unauthorized(),
        }
    }

    /// Carries out a call of the page. The answer has `result` or `error`, as in the control protocol.
    async fn call(&self, request: Request<Incoming>) -> answer::Answer {
        let call: PageCall = match body(request).await {
            Ok(call) => call,
            Err(refusal) => return refusal,
        };
        let result = match requests::is_allowed_call(&call.method) {
            true => control::call(&self.context, &call.method, call.params).await,
            false => Err(RpcError::new(
                ErrorKind::InvalidRequest,
                "the web page may not call this method",
            )),
        };
        let value = match result {
            Ok(result) => json!({"result": result}),
            Err(error) => json!({"error": error}),
        };
        json_answer(StatusCode::OK, &value)
    }

    async fn events(&self) -> Reply {
        let body = EventBody::new(&self.context, Arc::clone(&self.viewers)).await;
        let head = answer::with_body(StatusCode::OK, "application/x-ndjson", Bytes::new());
        let (parts, _) = head.into_parts();
        Response::from_parts(parts, Either::Right(body))
    }
}

/// Reads a JSON body.
///
/// # Errors
/// The answer to a body that is too large, cut off, or no such JSON. A body of another type is refused because a form of
/// another site can send those without asking first.
async fn body<T: serde::de::DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, answer::Answer> {
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json {
        let line = "The body must be application/json.\n";
        return Err(answer::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, line));
    }
    let bad = |line: &'static str| answer::text(StatusCode::BAD_REQUEST, line);
    let read = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let bytes = read
        .map_err(|_| bad("The body cannot be read, or is too large.\n"))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|_| bad("The body is not the expected JSON.\n"))
}

fn json_answer(status: StatusCode, value: &Value) -> answer::Answer {
    answer::with_body(status, "application/json", value.to_string())
}

fn unauthorized() -> answer::Answer {
    answer::text(
        StatusCode::UNAUTHORIZED,
        "The key is missing, used or too old. Run: tunnelctl web\n",
    )
}
