//! Sample tunnels for the unit tests.

use jiff::Timestamp;
use tunneld_proto::failure::FailureKind;
use tunneld_proto::status::{
    Desired, ForwardKind, ForwardState, ForwardStatus, LastError, SessionStatus, State,
    TunnelStatus,
};

pub(crate) const SINCE: Timestamp = Timestamp::UNIX_EPOCH;

/// A tunnel without session, forwards and errors.
pub(crate) fn tunnel(name: &str, state: State) -> TunnelStatus {
    TunnelStatus {
        name: name.into(),
        state,
        phase: None,
        since: SINCE,
        host: "deploy@example.org".into(),
        via: Vec::new(),
        tags: Vec::new(),
        description: None,
        desired: Desired::Up,
        attempt: 1,
        retry_at: None,
        last_error: None,
        prompt: None,
        session: None,
        reconnects: 0,
        forwards: Vec::new(),
        proxy_for: Vec::new(),
        proxy_user: None,
        notes: Vec::new(),
    }
}

pub(crate) fn error(kind: &str, at: Timestamp) -> LastError {
    LastError::new(
        FailureKind::from(kind.to_owned()),
        "the server refused",
        Some("ask its owner".into()),
        at,
    )
}

pub(crate) fn session(since: Timestamp) -> SessionStatus {
    SessionStatus {
        since,
        server: "SSH-2.0-OpenSSH_9.2p1".into(),
        kex: "curve25519-sha256".into(),
        cipher: "aes128-ctr".into(),
        mac: Some("hmac-sha2-256".into()),
        host_key: "ssh-ed25519 SHA256:abc".into(),
        auth: "publickey".into(),
        rtt_ms: Some(12.5),
        offences: 0,
    }
}

/// A degraded tunnel in which every field is set.
pub(crate) fn busy(name: &str) -> TunnelStatus {
    let forward = |kind, listen: &str, state| ForwardStatus {
        kind,
        listen: listen.into(),
        to: (kind != ForwardKind::Dynamic).then(|| "localhost:8088".into()),
        state,
        error: (state == ForwardState::Failed).then(|| error("remote_forward_refused", SINCE)),
        exposed: listen.starts_with("0.0.0.0"),
        connections: 2,
        held: 1,
        total: 30,
        bytes_in: 4000,
        bytes_out: 500,
        refused: None,
    };
    TunnelStatus {
        via: vec!["jump".into()],
        tags: vec!["work".into()],
        description: Some("the database".into()),
        session: Some(session(SINCE)),
        reconnects: 3,
        forwards: vec![
            forward(
                ForwardKind::Local,
                "127.0.0.1:8088",
                ForwardState::Listening,
            ),
            forward(ForwardKind::Remote, "0.0.0.0:9000", ForwardState::Failed),
            forward(
                ForwardKind::Dynamic,
                "127.0.0.1:8157",
                ForwardState::Listening,
            ),
        ],
        notes: vec!["~/.ssh/config is not read".into()],
        ..tunnel(name, State::Degraded)
    }
}
