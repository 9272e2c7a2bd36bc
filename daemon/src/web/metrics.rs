//! Metrics of the daemon and its tunnels as text. Pure: made from the statuses when somebody asks, so that nothing is
//! counted twice.
//!
//! Labels are the tunnel's name and its forward as configured, never a destination, user or host.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tunneld_proto::status::{
    Desired, ForwardKind, ForwardState, ForwardStatus, State, TunnelStatus,
};

/// One tunnel at the moment of the request.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Its status.
    pub status: TunnelStatus,
    /// Failed dials and lost sessions since the daemon started, by kind.
    pub failures: BTreeMap<String, u64>,
    /// For how long it was not up although it was to be.
    pub downtime: Duration,
}

/// Facts about the daemon itself.
#[derive(Debug, Clone, Copy)]
pub struct DaemonFacts {
    /// Version, such as `0.1.0`.
    pub version: &'static str,
    /// Start of the daemon.
    pub started_at: Timestamp,
    /// Whether the last reading of the configuration found no error.
    pub is_config_good: bool,
}

/// The format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4, which node_exporter's textfile collector reads.
    Prometheus,
}

impl Format {
    /// Returns the format that a client with this Accept field wants.
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// Returns the Content-Type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

type Labels = Vec<(&'static str, String)>;
type Count = Family<Labels, Counter<u64, AtomicU64>>;
type Value = Family<Labels, Gauge<f64, AtomicU64>>;

/// The metrics of one answer, registered and empty.
struct Metrics {
    registry: Registry,
}

impl Metrics {
    fn count(&mut self, name: &str, help: &str) -> Count {
        let family = Count::default();
        self.registry.register(name, help, family.clone());
        family
    }

    fn value(&mut self, name: &str, help: &str) -> Value {
        let family = Value::default();
        self.registry.register(name, help, family.clone());
        family
    }

    fn count_of(&mut self, name: &str, help: &str, unit: Unit) -> Count {
        let family = Count::default();
        self.registry
            .register_with_unit(name, help, unit, family.clone());
        family
    }

    fn value_of(&mut self, name: &str, help: &str, unit: Unit) -> Value {
        let family = Value::default();
        self.registry
            .register_with_unit(name, help, unit, family.clone());
        family
    }
}

/// Returns the text for these tunnels.
pub fn render(daemon: DaemonFacts, tunnels: &[Measurement], format: Format) -> String {
    let mut metrics = Metrics {
        registry: Registry::with_prefix("tunneld"),
    };
    daemon_metrics(&mut metrics, daemon);
    tunnel_metrics(&mut metrics, tunnels);
    forward_metrics(&mut metrics, tunnels);
    let mut encoded = String::new();
    // Writing to a String cannot fail.
    let _ = match format {
        Format::OpenMetrics => text::encode(&mut encoded, &metrics.registry),
        Format::Prometheus => prometheus_text::encode(&mut encoded, &metrics.registry),
    };
    encoded
}

fn daemon_metrics(metrics: &mut Metrics, daemon: DaemonFacts) {
    let build = metrics.value("build_info", "The version of the daemon, as a label");
    build
        .get_or_create(&vec![("version", daemon.version.to_owned())])
        .set(1.0);
    metrics
        .value_of("start_timestamp", "When the daemon started", Unit::Seconds)
        .get_or_create(&vec![])
        .set(seconds(daemon.started_at));
    metrics
        .value(
            "config_last_reload_successful",
            "Whether the last reading of the configuration found no error",
        )
        .get_or_create(&vec![])
        .set(flag(daemon.is_config_good));
}

fn tunnel_metrics(metrics: &mut Metrics, tunnels: &[Measurement]) {
    let up = metrics.value("tunnel_up", "Whether the session and every forward work");
    let wanted = metrics.value("tunnel_wanted", "Whether the tunnel is to be up");
    let state = metrics.value("tunnel_state", "1 for the state that the tunnel is in");
    let since = metrics.value_of(
        "tunnel_session_start_timestamp",
        "When the session was logged in",
        Unit::Seconds,
    );
    let reconnects = metrics.count("tunnel_reconnects", "Sessions that replaced a lost one");
    let failures = metrics.count(
        "tunnel_failures",
        "Failed connection attempts and lost sessions, by kind",
    );
    let down = metrics.value_of(
        "tunnel_down",
        "For how long the tunnel was not up although it was to be, since the daemon started",
        Unit::Seconds,
    );
    let rtt = metrics.value_of("tunnel_rtt", "Round trip time to the server", Unit::Seconds);
    let retry = metrics.value_of(
        "tunnel_retry_timestamp",
        "When the next attempt is made",
        Unit::Seconds,
    );
    for tunnel in tunnels {
        let status = &tunnel.status;
        let name = vec![("tunnel", status.name.clone())];
        let with = |label, value: &str| {
            let mut labels = name.clone();
            labels.push((label, value.to_owned()));
            labels
        };
        up.get_or_create(&name).set(flag(status.state == State::Up));
        wanted
            .get_or_create(&name)
            .set(flag(status.desired == Desired::Up));
        state
            .get_or_create(&with("state", status.state.as_str()))
            .set(1.0);
        reconnects.get_or_create(&name).inc_by(status.reconnects);
        down.get_or_create(&name).set(tunnel.downtime.as_secs_f64());
        for (kind, number) in &tunnel.failures {
            failures
                .get_or_create(&with("reason", kind))
                .inc_by(*number);
        }
        if let Some(session) = &status.session {
            since.get_or_create(&name).set(seconds(session.since));
            if let Some(millis) = session.rtt_ms {
                rtt.get_or_create(&name).set(millis / 1e3);
            }
        }
        if let Some(at) = status.retry_at {
            retry.get_or_create(&name).set(seconds(at));
        }
    }
}

fn forward_metrics(metrics: &mut Metrics, tunnels: &[Measurement]) {
    let listening = metrics.value(
        "forward_listening",
        "Whether the forward accepts connections",
    );
    let open = metrics.value("forward_connections", "Connections that are open now");
    let held = metrics.value(
        "forward_held_connections",
        "Open connections that wait for the session",
    );
    let accepted = metrics.count("forward_accepted_connections", "Connections so far");
    let refused = metrics.count(
        "forward_refused_connections",
        "Connections that the far side refused",
    );
    let received = metrics.count_of(
        "forward_received",
        "Bytes from the SSH session to the local side",
        Unit::Bytes,
    );
    let sent = metrics.count_of(
        "forward_sent",
        "Bytes from the local side to the SSH session",
        Unit::Bytes,
    );
    for tunnel in tunnels {
        for forward in &tunnel.status.forwards {
            let labels = vec![
                ("tunnel", tunnel.status.name.clone()),
                ("forward", forward_name(forward)),
            ];
            listening
                .get_or_create(&labels)
                .set(flag(forward.state == ForwardState::Listening));
            open.get_or_create(&labels).set(float(forward.connections));
            held.get_or_create(&labels).set(float(forward.held));
            accepted.get_or_create(&labels).inc_by(forward.total);
            let count = forward.refused.as_ref().map_or(0, |refused| refused.count);
            refused.get_or_create(&labels).inc_by(count);
            received.get_or_create(&labels).inc_by(forward.bytes_in);
            sent.get_or_create(&labels).inc_by(forward.bytes_out);
        }
    }
}

/// Names a forward as ssh's options do, such as `L 5432` or `D 0.0.0.0:1080`.
fn forward_name(forward: &ForwardStatus) -> String {
    let letter = match forward.kind {
        ForwardKind::Local => "L",
        ForwardKind::Remote => "R",
        ForwardKind::Dynamic => "D",
        ForwardKind::Dns => "N",
        // Not made by this daemon.
        ForwardKind::Unknown => "?",
    };
    let listen = forward.listen.as_str();
    let loopback = ["127.0.0.1:", "localhost:", "[::1]:"];
    let listen = loopback
        .iter()
        .find_map(|prefix| listen.strip_prefix(prefix))
        .unwrap_or(listen);
    format!("{letter} {listen}")
}

fn flag(is_true: bool) -> f64 {
    f64::from(u8::from(is_true))
}

/// Numbers above 2^53 lose their last digits.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Seconds since 1970, to the millisecond.
#[expect(clippy::cast_precision_loss, reason = "milliseconds fit in 53 bits")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}
