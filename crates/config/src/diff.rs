//! What a reload changes about one tunnel, and so what it takes to apply the change.
//!
//! `keys::Scope` says the same per key; a test walks over the key table and compares the two.

use crate::model::{Auth, Crypto, HostKeys, Liveness, Route, Tunnel, Via};

/// The difference between two configurations of one tunnel, by what it takes to apply it. Each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// No difference: there is nothing to apply.
    Same,
    /// Applied in place: description, tags, notes, autostart, hold.
    Metadata,
    /// Forwards or how they behave: listeners open and close, the session stays.
    Forwards,
    /// Read at the next dial only, such as `backoff` and `connect_timeout`: a live session stays.
    DialPolicy,
    /// How the session is reached, authenticated or protected: a new session is needed.
    Session,
}

/// Compares two configurations of the tunnel of one name and returns the change that takes the most to apply.
pub fn diff(old: &Tunnel, new: &Tunnel) -> Change {
    // From the change that takes the most to the one that takes the least: the caller applies all of them.
    if !same_session(&old.route, &new.route) {
        Change::Session
    } else if old.route != new.route {
        Change::DialPolicy
    } else if old.forwards != new.forwards || old.forwarding != new.forwarding {
        Change::Forwards
    } else if old != new {
        Change::Metadata
    } else {
        Change::Same
    }
}

/// Whether a session that was made by `old` is also one that `new` would make.
///
/// The patterns here name every field, without `..`: a new field does not compile until its author has decided whether
/// a change of it needs a new session. The fields that are ignored are the dial policy.
fn same_session(old: &Route, new: &Route) -> bool {
    let Route {
        alias,
        host,
        port,
        user,
        host_command,
        address_family,
        bind_address,
        bind_interface,
        connect_timeout: _,
        login_timeout: _,
        via,
        auth,
        host_keys,
        crypto,
        liveness,
    } = old;
    (alias, host, port, user) == (&new.alias, &new.host, &new.port, &new.user)
        && *host_command == new.host_command
        && *address_family == new.address_family
        && *bind_address == new.bind_address
        && *bind_interface == new.bind_interface
        && same_via(via, &new.via)
        && same_auth(auth, &new.auth)
        && same_host_keys(host_keys, &new.host_keys)
        && same_crypto(crypto, &new.crypto)
        && same_liveness(liveness, &new.liveness)
}

fn same_via(old: &Via, new: &Via) -> bool {
    match (old, new) {
        (Via::Jump(old), Via::Jump(new)) => {
            old.len() == new.len()
                && std::iter::zip(old, new).all(|(old, new)| same_session(old, new))
        }
        (old, new) => old == new,
    }
}

fn same_auth(old: &Auth, new: &Auth) -> bool {
    let Auth {
        identity_files,
        identity_files_explicit,
        identities_only,
        agent,
        certificate_files,
        preferred,
        pubkey_algorithms,
        password_prompts: _,
        // Another source of the same user's secrets: a session that is logged in has no use for it.
        password_command: _,
        passphrase_command: _,
        answers: _,
        add_keys_to_agent: _,
    } = old;
    *identity_files == new.identity_files
        && *identity_files_explicit == new.identity_files_explicit
        && *identities_only == new.identities_only
        && *agent == new.agent
        && *certificate_files == new.certificate_files
        && *preferred == new.preferred
        && *pubkey_algorithms == new.pubkey_algorithms
}

fn same_host_keys(old: &HostKeys, new: &HostKeys) -> bool {
    let HostKeys {
        checking,
        user_files,
        global_files,
        revoked_files,
        command,
        alias,
        hash: _,
        update: _,
        algorithms,
        min_rsa_bits,
    } = old;
    *checking == new.checking
        && *user_files == new.user_files
        && *global_files == new.global_files
        && *revoked_files == new.revoked_files
        && *command == new.command
        && *alias == new.alias
        && *algorithms == new.algorithms
        && *min_rsa_bits == new.min_rsa_bits
}

fn same_crypto(old: &Crypto, new: &Crypto) -> bool {
    // All of it is agreed on in the handshake.
    old == new
}

fn same_liveness(old: &Liveness, new: &Liveness) -> bool {
    let Liveness {
        // The SSH client takes the keepalive interval and count at the handshake, and the socket option is set when
        // the socket is made: a live session cannot change them.
        interval,
        count_max,
        tcp_keep_alive,
        backoff_initial: _,
        backoff_max: _,
    } = old;
    *interval == new.interval
        && *count_max == new.count_max
        && *tcp_keep_alive == new.tcp_keep_alive
}
