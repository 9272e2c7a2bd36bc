//! The configuration: read raw, proved, resolved, compared.

pub mod model;
