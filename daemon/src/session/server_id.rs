//! What makes two dials go to the same server.

/// Names one server by the way that leads to it and its address: the same address may be another machine from there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ServerId(pub(super) String);
