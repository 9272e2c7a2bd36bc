//! One request of a client and its response.

use std::sync::Arc;

use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, http};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::answer::{self, Format, ResponseBody};
use super::request_body::RequestBody;
use super::response_body::OriginBody;
use super::upstream::Upstream;
use super::{Accepted, NoResponse, ProxyClient};
use crate::dynamic::http::headers;
use crate::dynamic::http::login;
use crate::dynamic::http::page;
use crate::dynamic::http::request::{self, Destination, OwnPage, ProxyRequest};
use crate::forward::hold::{self, NotOpened, OpenedChannel};
use crate::forward::proxy_login::{LoginCheck, LoginResult};
use crate::forward::ssh_session::{ChannelTarget, SshSession};

type Answer = Result<Response<ResponseBody>, NoResponse>;

impl<S: SshSession> ProxyClient<S> {
    /// Returns the response to one request.
    ///
    /// # Errors
    /// The connection is to be reset.
    pub(super) async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let own_port = self.socket.local_port();
        let asked = request::classify(request.method(), request.uri(), request.headers(), own_port);
        if matches!(
            asked,
            Ok(ProxyRequest::Connect(_) | ProxyRequest::Forward(_))
        ) && let Some(refusal) = self.login_refusal(request.headers()).await?
        {
            return Ok(refusal);
        }
        match asked {
            Ok(ProxyRequest::Connect(destination)) => self.connect(destination, request).await,
            Ok(ProxyRequest::Forward(destination)) => self.forward(destination, request).await,
            Ok(ProxyRequest::Own(page)) => Ok(self.own_page(page, request.headers())),
            Err(rejection) => Ok(answer::rejected(
                rejection,
                &self.context.summary.borrow(),
                Format::of(request.headers()),
            )),
        }
    }

    /// Returns the response to a request without the right login; `None` if it may be served.
    ///
    /// # Errors
    /// The forward is removed while the password is read.
    async fn login_refusal(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<Response<ResponseBody>>, NoResponse> {
        let Some(check) = LoginCheck::of(&self.context, &self.cell) else {
            return Ok(None);
        };
        let result = match login::login(headers) {
            Some(sent) => {
                let checked = self.cancel.run_until_cancelled(check.check(&sent));
                checked.await.ok_or(NoResponse)?
            }
            // Clients ask without a login first, so this is not worth a line in the log.
            None => LoginResult::Wrong,
        };
        let summary = self.context.summary.borrow();
        Ok(answer::login_refused(result, &summary, Format::of(headers)))
    }

    /// Opens the channel of a CONNECT request. The response says that it is open, so it is sent only then.
    async fn connect(&self, destination: Destination, mut request: Request<Incoming>) -> Answer {
        match self.open(&destination).await? {
            Ok(opened) => {
                *self.accepted.lock() = Some(Accepted::Connect {
                    client: hyper::upgrade::on(&mut request),
                    opened,
                });
                // A body of any kind would be taken for the tunnel's first bytes (RFC 9110 §9.3.6).
                Ok(Response::new(Either::Right(Default::default())))
            }
            // Programs show the line, if anything; no browser renders the response to a CONNECT.
            Err(reason) => self.refuse(&reason, &destination, Format::Text, false),
        }
    }

    /// Sends a request to its origin and returns the origin's response.
    async fn forward(&self, destination: Destination, mut request: Request<Incoming>) -> Answer {
        let format = Format::of(request.headers());
        // A page that loads itself again asks with GET: the body of another method would be lost.
        let may_reload = matches!(*request.method(), Method::GET | Method::HEAD);
        let client = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let upgrade = headers::prepare_request(&mut parts, &destination);
        let (mut request, unwanted) = to_origin(parts, body);
        let mut kept = self.upstream.lock().take();
        loop {
            let (mut upstream, is_fresh) = match self.usable(kept.take(), &destination).await {
                Some(upstream) => (upstream, false),
                None => match self.open(&destination).await? {
                    Ok(opened) => match self.start(&destination, opened).await {
                        Ok(upstream) => (upstream, true),
                        Err(error) => return Ok(self.origin_failed(&error, &destination, format)),
                    },
                    Err(reason) => return self.refuse(&reason, &destination, format, may_reload),
                },
            };
            match upstream.sender.try_send_request(request).await {
                Ok(response) if is_unexpected(&response, upgrade) => {
                    let summary = self.context.summary.borrow();
                    return Ok(answer::unexpected(&destination, &summary, format));
                }
                Ok(response) => {
                    let client = upgrade.then_some(client);
                    let unwanted = unwanted.lock().take();
                    return Ok(self.pass_on(response, upstream, client, unwanted));
                }
                Err(mut error) => match error.take_message() {
                    // The origin closed the kept connection before anything of this request was sent. A request that
                    // may have been received is never sent twice.
                    Some(unsent) if !is_fresh => request = unsent,
                    // The client's own body is wrong, or was cut off.
                    _ if error.error().is_user() => {
                        let summary = self.context.summary.borrow();
                        return Ok(answer::bad_body(&summary, format));
                    }
                    _ if upstream.session.is_closed() => {
                        let summary = self.context.summary.borrow();
                        return Ok(answer::session_lost(&destination, &summary, format));
                    }
                    _ => return Ok(self.origin_failed(error.error(), &destination, format)),
                },
            }
        }
    }

    /// Returns the kept connection if the next request can use it.
    async fn usable(
        &self,
        kept: Option<Upstream<S>>,
        destination: &Destination,
    ) -> Option<Upstream<S>> {
        let mut kept = kept?;
        kept.is_usable_for(destination).await.then_some(kept)
    }

    async fn start(
        &self,
        destination: &Destination,
        opened: OpenedChannel<S>,
    ) -> hyper::Result<Upstream<S>> {
        let counters = Arc::clone(&self.cell.counters);
        Upstream::start(&self.context, counters, destination.clone(), opened).await
    }

    /// Turns the origin's response into the response to the client, and keeps the connection for the next request.
    /// `client` is set if the client asked for an upgrade; `unwanted` if the request's body was never sent.
    fn pass_on(
        &self,
        mut response: Response<Incoming>,
        upstream: Upstream<S>,
        client: Option<OnUpgrade>,
        unwanted: Option<oneshot::Sender<()>>,
    ) -> Response<ResponseBody> {
        match client {
            Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                *self.accepted.lock() = Some(Accepted::Upgrade {
                    client,
                    upstream: hyper::upgrade::on(&mut response),
                    session: upstream.session,
                });
            }
            // The origin still waits for a body that the client will not send.
            _ if unwanted.is_some() => {}
            _ => *self.upstream.lock() = Some(upstream),
        }
        let (mut parts, body) = response.into_parts();
        headers::prepare_response(&mut parts);
        // The version of this connection is not the origin's.
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, Either::Left(OriginBody::new(body, unwanted)))
    }

    /// Opens a channel, over the current session or the next one within the hold time.
    ///
    /// # Errors
    /// The forward is removed while the request waits.
    async fn open(
        &self,
        destination: &Destination,
    ) -> Result<Result<OpenedChannel<S>, NotOpened>, NoResponse> {
        let target = ChannelTarget::Tcp {
            host: destination.host.clone().into_bytes(),
            port: destination.port,
        };
        let opening = hold::open_channel(&self.context, &self.cell, &self.socket, &target);
        let opened = self.cancel.run_until_cancelled(opening).await;
        opened.ok_or(NoResponse)
    }

    fn refuse(
        &self,
        reason: &NotOpened,
        destination: &Destination,
        format: Format,
        may_reload: bool,
    ) -> Answer {
        reason.log(&self.context, &self.cell);
        let summary = self.context.summary.borrow();
        answer::not_opened(reason, destination, &summary, format, may_reload).ok_or(NoResponse)
    }

    fn origin_failed(
        &self,
        error: &hyper::Error,
        destination: &Destination,
        format: Format,
    ) -> Response<ResponseBody> {
        answer::origin_failed(error, destination, &self.context.summary.borrow(), format)
    }

    fn own_page(&self, page: OwnPage, headers: &HeaderMap) -> Response<ResponseBody> {
        let summary = self.context.summary.borrow();
        match page {
            OwnPage::Start => {
                let host = headers.get(http::header::HOST);
                let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
                let body = page::start(&summary.name, &summary.state, host);
                answer::own(StatusCode::OK, "text/html; charset=utf-8", body)
            }
            OwnPage::Pac => {
                let source = self.context.pac.borrow().clone();
                answer::pac(source.map(|pac| pac()).unwrap_or_default())
            }
            OwnPage::Favicon => answer::own(StatusCode::NO_CONTENT, "image/x-icon", String::new()),
        }
    }
}

/// Whether the response is one that the request cannot have: an upgrade that nobody asked for, or a body in a transfer
/// coding that this proxy cannot take off.
fn is_unexpected(response: &Response<Incoming>, upgrade: bool) -> bool {
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    (is_upgrade && !upgrade) || headers::has_unknown_coding(response.headers())
}

/// Says that a held back body may be sent; empty once it has, and from the beginning if the client holds nothing back.
type ContinueSender = Arc<Mutex<Option<oneshot::Sender<()>>>>;

/// Returns the request as hyper sends it to the origin. A body that the client holds back is not read before the origin
/// has sent 100.
fn to_origin(
    parts: http::request::Parts,
    body: Incoming,
) -> (Request<RequestBody>, ContinueSender) {
    if !headers::expects_continue(&parts.headers) {
        let request = Request::from_parts(parts, RequestBody::new(body));
        return (request, Arc::default());
    }
    let (sender, continued) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let mut request = Request::from_parts(parts, RequestBody::gated(body, continued));
    let on_continue = Arc::clone(&sender);
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(sender) = on_continue.lock().take()
        {
            let _ = sender.send(());
        }
    });
    (request, sender)
}
