//! The tracing layer that turns each event into an owned [`LogLine`] with the name of the tunnel it concerns.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tunneld_proto::message::LogLine;
use tunneld_proto::text::escape;

use super::ring::Ring;
use super::sink::LogWriter;

/// Passes every event to the ring (for `log.tail`) and to the writer thread.
pub(super) struct Collector {
    ring: Arc<Ring>,
    writer: LogWriter,
}

impl Collector {
    pub(super) fn new(ring: Arc<Ring>, writer: LogWriter) -> Self {
        Self { ring, writer }
    }
}

/// Value of a span's field `tunnel`, stored in the span's extensions.
struct SpanTunnel(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = EventFields::default();
        attributes.record(&mut fields);
        if let (Some(tunnel), Some(span)) = (fields.tunnel, context.span(id)) {
            span.extensions_mut().insert(SpanTunnel(tunnel));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        // The event's own field wins over that of the enclosing spans, and an inner span over an outer one.
        let tunnel = fields.tunnel.or_else(|| {
            let scope = context.event_scope(event)?;
            scope
                .into_iter()
                .find_map(|span| Some(span.extensions().get::<SpanTunnel>()?.0.clone()))
        });
        let line = Arc::new(LogLine {
            at: Timestamp::now(),
            level: event.metadata().level().as_str().to_ascii_lowercase(),
            tunnel,
            message: fields.message + &fields.other,
        });
        self.ring.push(line.clone());
        self.writer.write(line);
    }
}

/// Fields of an event or a span. Values are escaped as they are recorded, because many repeat text from servers.
#[derive(Default)]
struct EventFields {
    message: String,
    /// All fields without a meaning of their own, as ` name=value`.
    other: String,
    tunnel: Option<String>,
}

impl EventFields {
    fn record(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = escape(value).to_string(),
            "tunnel" => self.tunnel = Some(escape(value).to_string()),
            // The `log` bridge adds these to records of libraries that log through the `log` crate.
            name if name.starts_with("log.") => {}
            // Writing to a String cannot fail.
            name => drop(write!(self.other, " {name}={}", escape(value))),
        }
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &format!("{value:?}"));
    }
}
