//! The configuration: read raw, proved, resolved, compared.

pub mod forward;
pub mod model;
