//! RFC 4254's messages on the wire, and those of OpenSSH's PROTOCOL that forwarding needs.

use bytes::Bytes;

use crate::wire::{Malformed, Reader, Writer};

pub(crate) const GLOBAL_REQUEST: u8 = 80;
pub(crate) const REQUEST_SUCCESS: u8 = 81;
pub(crate) const REQUEST_FAILURE: u8 = 82;
pub(crate) const OPEN: u8 = 90;
pub(crate) const OPEN_CONFIRMATION: u8 = 91;
pub(crate) const OPEN_FAILURE: u8 = 92;
pub(crate) const WINDOW_ADJUST: u8 = 93;
pub(crate) const DATA: u8 = 94;
pub(crate) const EXTENDED_DATA: u8 = 95;
pub(crate) const EOF: u8 = 96;
pub(crate) const CLOSE: u8 = 97;
pub(crate) const CHANNEL_REQUEST: u8 = 98;
pub(crate) const CHANNEL_SUCCESS: u8 = 99;
pub(crate) const CHANNEL_FAILURE: u8 = 100;

/// Where a channel that we open leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host and port as the server resolves them (RFC 4254 §7.2).
    Tcp {
        /// The host; bytes, because SOCKS clients name hosts in bytes.
        host: Vec<u8>,
        /// The port.
        port: u16,
        /// Who connected to us: address and port.
        originator: (String, u16),
    },
    /// A Unix socket on the server (OpenSSH PROTOCOL §2.4).
    Unix {
        /// Its path.
        path: Vec<u8>,
    },
}

/// What the server is asked to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address and a port; port 0 lets the server choose (RFC 4254 §7.1).
    Tcp {
        /// The address, in the words of RFC 4254 §7.1.
        address: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket (OpenSSH PROTOCOL §2.4).
    Unix {
        /// Its path.
        path: Vec<u8>,
    },
}

/// CHANNEL_OPEN as we send it.
pub(crate) fn open(target: &Target, local: u32, window: u32, packet: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.u8(OPEN);
    match target {
        Target::Tcp { .. } => out.string("direct-tcpip"),
        Target::Unix { .. } => out.string("direct-streamlocal@openssh.com"),
    }
    out.u32(local);
    out.u32(window);
    out.u32(packet);
    match target {
        Target::Tcp {
            host,
            port,
            originator,
        } => {
            out.string(host);
            out.u32(u32::from(*port));
            out.string(&originator.0);
            out.u32(u32::from(originator.1));
        }
        Target::Unix { path } => {
            out.string(path);
            out.string("");
            out.u32(0);
        }
    }
    out
}

/// CHANNEL_OPEN as the server sends it.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    pub(crate) kind: &'a [u8],
    pub(crate) sender: u32,
    pub(crate) window: u32,
    pub(crate) packet: u32,
    pub(crate) rest: Reader<'a>,
}

impl<'a> Open<'a> {
    pub(crate) fn read(mut body: Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            kind: body.string()?,
            sender: body.u32()?,
            window: body.u32()?,
            packet: body.u32()?,
            rest: body,
        })
    }
}

/// What a forwarded channel says of itself.
#[derive(Debug)]
pub(crate) enum Forwarded<'a> {
    Tcp {
        address: &'a [u8],
        port: u32,
        from: &'a [u8],
        from_port: u32,
    },
    Unix {
        path: &'a [u8],
    },
}

impl<'a> Forwarded<'a> {
    /// `None` for kinds that are no forward.
    pub(crate) fn read(kind: &[u8], body: &mut Reader<'a>) -> Result<Option<Self>, Malformed> {
        match kind {
            b"forwarded-tcpip" => Ok(Some(Self::Tcp {
                address: body.string()?,
                port: body.u32()?,
                from: body.string()?,
                from_port: body.u32()?,
            })),
            b"forwarded-streamlocal@openssh.com" => Ok(Some(Self::Unix {
                path: body.string()?,
            })),
            _ => Ok(None),
        }
    }
}

pub(crate) fn open_confirmation(remote: u32, local: u32, window: u32, packet: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(17);
    out.u8(OPEN_CONFIRMATION);
    out.u32(remote);
    out.u32(local);
    out.u32(window);
    out.u32(packet);
    out
}

pub(crate) fn open_failure(remote: u32, code: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.u8(OPEN_FAILURE);
    out.u32(remote);
    out.u32(code);
    out.string(text);
    out.string("");
    out
}

/// A message that is a number and a channel.
pub(crate) fn of_channel(number: u8, remote: u32) -> [u8; 5] {
    let [a, b, c, d] = remote.to_be_bytes();
    [number, a, b, c, d]
}

/// CHANNEL_DATA up to where the bytes begin.
pub(crate) fn data_header(remote: u32, len: u32) -> [u8; 9] {
    let [a, b, c, d] = remote.to_be_bytes();
    let [e, f, g, h] = len.to_be_bytes();
    [DATA, a, b, c, d, e, f, g, h]
}

pub(crate) fn window_adjust(remote: u32, credit: u32) -> [u8; 9] {
    let mut out = data_header(remote, credit);
    if let Some(first) = out.first_mut() {
        *first = WINDOW_ADJUST;
    }
    out
}

fn global(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.u8(GLOBAL_REQUEST);
    out.string(name);
    out.bool(true);
    out
}

pub(crate) fn keepalive() -> Vec<u8> {
    global("keepalive@openssh.com")
}

pub(crate) fn forward(listen: &Listen, cancel: bool) -> Vec<u8> {
    let name = match (listen, cancel) {
        (Listen::Tcp { .. }, false) => "tcpip-forward",
        (Listen::Tcp { .. }, true) => "cancel-tcpip-forward",
        (Listen::Unix { .. }, false) => "streamlocal-forward@openssh.com",
        (Listen::Unix { .. }, true) => "cancel-streamlocal-forward@openssh.com",
    };
    let mut out = global(name);
    match listen {
        Listen::Tcp { address, port } => {
            out.string(address);
            out.u32(u32::from(*port));
        }
        Listen::Unix { path } => out.string(path),
    }
    out
}

pub(crate) fn prove_host_keys(keys: &[Bytes]) -> Vec<u8> {
    let mut out = global("hostkeys-prove-00@openssh.com");
    for key in keys {
        out.string(key);
    }
    out
}
