//! The configuration: read raw, proved, resolved, compared.

pub mod algorithms;
mod conflict;
pub mod destination;
pub mod diff;
pub mod env;
pub mod fault;
pub mod file;
pub mod forward;
pub mod load;
pub mod model;
pub mod raw;
mod read;
mod read_lists;
mod read_login;
pub mod resolve;
mod resolve_forwards;
mod route;
pub mod save;
mod scan;
pub mod spec;
mod table;
pub mod values;

pub use conflict::overlap;
pub use diff::{Change, diff};
pub use env::Env;
pub use load::{Loaded, Loader, ad_hoc};
pub use save::save;
pub use scan::{Scan, Scanned, is_config};
