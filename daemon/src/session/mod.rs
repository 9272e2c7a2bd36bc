//! One SSH session from the dial to its end: transport, key exchange, host key, login, channels.
//!
//! The only module that uses the SSH library `tunneld_ssh`. Relaying bytes is done in `forward`, retrying in `tunnel`.

mod auth;
pub mod connect_limiter;
mod context;
mod deadline;
mod dial;
mod handshake;
mod host_key;
mod incoming;
mod login_budget;
mod server_id;
#[expect(
    clippy::module_inception,
    reason = "the file holds the type Session and nothing else of the module"
)]
mod session;
mod slots;
mod ssh_error;
mod transport;

pub use self::auth::agent::socket as agent_socket;
pub(crate) use self::auth::key_file::certificate_path;
pub use self::context::{DialContext, DialState, PhaseReporter};
pub use self::dial::dial;
pub use self::incoming::Incoming;
pub use self::session::{
    Channel, ChannelReader, ChannelWriter, Established, OpenError, Session, SessionInfo,
};
pub use self::slots::Priority;
