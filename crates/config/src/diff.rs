//! What a reload changes about one tunnel, and so what it takes to apply it.

use crate::model::Tunnel;

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    Same,
    /// Only what needs neither a listener nor the session touched: description, tags, notes, autostart, hold.
    Lifecycle,
    /// Forwards, or how they behave: listeners come and go, the session stays.
    Forwards,
    /// The route: a new session is needed.
    Route,
}

/// Compares two states of the tunnel of one name; the greatest change there is.
pub fn diff(old: &Tunnel, new: &Tunnel) -> Change {
    if old.route != new.route {
        Change::Route
    } else if old.forwards != new.forwards || old.forwarding != new.forwarding {
        Change::Forwards
    } else if old != new {
        Change::Lifecycle
    } else {
        Change::Same
    }
}
