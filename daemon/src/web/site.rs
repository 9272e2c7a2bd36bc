//! The paths of `http_listen` and their answers.

use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;
use tunneld_proto::version::VERSION;

use super::answer::{self, Answer};
use super::health::{self, Health};
use super::metrics::{self, DaemonFacts, Format, Measurement};
use super::request_check;
use crate::reload::ReloadHandle;
use crate::supervisor::Supervisor;

/// What the answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// Has the tunnels.
    pub supervisor: Supervisor,
    /// Has the errors of the configuration.
    pub reloader: ReloadHandle,
    /// Start of the daemon.
    pub started_at: Timestamp,
}

/// What `http_listen` serves.
pub(super) struct Site {
    pub(super) sources: Sources,
    /// The TCP port, if the address is a loopback address: the Host field of requests must name it.
    pub(super) loopback_port: Option<u16>,
    /// Whether `/metrics` is served.
    pub(super) has_metrics: bool,
}

impl Site {
    /// Answers a request.
    pub(super) fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        if let Err(refused) = request_check::check(headers, self.loopback_port) {
            return answer::text(StatusCode::FORBIDDEN, format!("{refused}\n"));
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return answer::wrong_method("GET, HEAD");
        }
        let statuses = || self.sources.supervisor.statuses();
        match path {
            "/healthz" => answer::text(StatusCode::OK, "ok\n"),
            "/readyz" => health_answer(health::all(&statuses())),
            "/proxy.pac" => self.pac(),
            "/metrics" if self.has_metrics => self.metrics(headers),
            "/metrics" => answer::text(
                StatusCode::NOT_FOUND,
                "Metrics are off. Set metrics = true in [daemon].\n",
            ),
            path => match path.strip_prefix("/readyz/") {
                Some(name) => match health::one(&statuses(), name) {
                    Some(health) => health_answer(health),
                    None => answer::text(StatusCode::NOT_FOUND, "There is no such tunnel.\n"),
                },
                None => answer::text(
                    StatusCode::NOT_FOUND,
                    "This server has /healthz, /readyz, /readyz/NAME, /metrics and /proxy.pac.\n",
                ),
            },
        }
    }

    fn pac(&self) -> Answer {
        let mut response = answer::with_body(
            StatusCode::OK,
            "application/x-ns-proxy-autoconfig",
            self.sources.supervisor.pac(),
        );
        // A browser may keep the file, but has to ask whether it has changed.
        let fields = response.headers_mut();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::accepted(accept);
        let text = self.sources.metrics(format);
        answer::with_body(StatusCode::OK, format.content_type(), text)
    }
}

impl Sources {
    /// Returns the metrics of all tunnels.
    pub fn metrics(&self, format: Format) -> String {
        let daemon = DaemonFacts {
            version: VERSION,
            started_at: self.started_at,
            is_config_good: self.reloader.faults().is_empty(),
        };
        let now = Instant::now();
        let measurements = self.supervisor.measurements().into_iter();
        let measurements: Vec<_> = measurements
            .map(|(status, tally)| Measurement {
                status,
                downtime: tally.downtime(now),
                failures: tally.failures,
            })
            .collect();
        metrics::render(daemon, &measurements, format)
    }
}

fn health_answer(health: Health) -> Answer {
    let status = match health.is_ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::text(status, health.text)
}
