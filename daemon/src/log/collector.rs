//! The tracing layer that makes an owned line of every event, with the tunnel it is about.

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
use super::sink::Writer;

/// The layer.
pub(super) struct Collector {
    ring: Arc<Ring>,
    writer: Writer,
}

impl Collector {
    pub(super) fn new(ring: Arc<Ring>, writer: Writer) -> Self {
        Self { ring, writer }
    }
}

/// The tunnel that a span is about.
struct SpanTunnel(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(tunnel), Some(span)) = (fields.tunnel, context.span(id)) {
            span.extensions_mut().insert(SpanTunnel(tunnel));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
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
            message: fields.message + &fields.rest,
        });
        self.ring.push(line.clone());
        self.writer.write(line);
    }
}

/// An event's fields, escaped as they come.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    tunnel: Option<String>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = escape(value).to_string(),
            "tunnel" => self.tunnel = Some(escape(value).to_string()),
            // What the `log` bridge adds about its own records.
            name if name.starts_with("log.") => {}
            // Writing to a String cannot fail.
            name => drop(write!(self.rest, " {name}={}", escape(value))),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, &format!("{value:?}"));
    }
}
