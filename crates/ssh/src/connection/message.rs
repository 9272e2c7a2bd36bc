//! Messages of RFC 4254, and those of OpenSSH PROTOCOL that forwarding needs.

use bytes::Bytes;

use crate::wire::{Malformed, Reader, Writer};

pub(super) const GLOBAL_REQUEST: u8 = 80;
pub(super) const REQUEST_SUCCESS: u8 = 81;
pub(super) const REQUEST_FAILURE: u8 = 82;
pub(super) const OPEN: u8 = 90;
pub(super) const OPEN_CONFIRMATION: u8 = 91;
pub(super) const OPEN_FAILURE: u8 = 92;
pub(super) const WINDOW_ADJUST: u8 = 93;
pub(super) const DATA: u8 = 94;
pub(super) const EXTENDED_DATA: u8 = 95;
pub(super) const EOF: u8 = 96;
pub(super) const CLOSE: u8 = 97;
pub(super) const CHANNEL_REQUEST: u8 = 98;
pub(super) const CHANNEL_SUCCESS: u8 = 99;
pub(super) const CHANNEL_FAILURE: u8 = 100;

/// Where the server connects a channel that we open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelTarget {
    /// A TCP connection (RFC 4254 §7.2, `direct-tcpip`).
    Tcp {
        /// Host name or address, resolved by the server. Bytes, because SOCKS clients send host names as bytes.
        host: Vec<u8>,
        /// TCP port of the target.
        port: u16,
        /// Address and port of the client that connected to us.
        originator: (String, u16),
    },
    /// A Unix socket (OpenSSH PROTOCOL §2.4).
    Unix {
        /// Path on the server, as bytes: Unix paths need not be UTF-8.
        path: Vec<u8>,
    },
}

/// Where the server listens for a remote forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemoteListen {
    /// A TCP listener (RFC 4254 §7.1, `tcpip-forward`).
    Tcp {
        /// Address to bind, as RFC 4254 §7.1 defines it: empty for all addresses, `localhost` for loopback.
        address: String,
        /// Port to bind; 0 lets the server choose.
        port: u16,
    },
    /// A Unix socket (OpenSSH PROTOCOL §2.4).
    Unix {
        /// Path of the socket that the server creates, as bytes: Unix paths need not be UTF-8.
        path: Vec<u8>,
    },
}

pub(super) fn open(target: &ChannelTarget, local_id: u32, window: u32, max_packet: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.u8(OPEN);
    match target {
        ChannelTarget::Tcp { .. } => out.string("direct-tcpip"),
        // An extension of OpenSSH: RFC 4254 knows TCP only.
        ChannelTarget::Unix { .. } => out.string("direct-streamlocal@openssh.com"),
    }
    out.u32(local_id);
    out.u32(window);
    out.u32(max_packet);
    match target {
        ChannelTarget::Tcp {
            host,
            port,
            originator,
        } => {
            out.string(host);
            out.u32(u32::from(*port));
            out.string(&originator.0);
            out.u32(u32::from(originator.1));
        }
        ChannelTarget::Unix { path } => {
            out.string(path);
            // Two reserved fields.
            out.string("");
            out.u32(0);
        }
    }
    out
}

/// The fields of the server's CHANNEL_OPEN.
#[derive(Debug)]
pub(super) struct ChannelOpen<'a> {
    pub(super) channel_type: &'a [u8],
    pub(super) sender_id: u32,
    pub(super) window: u32,
    pub(super) max_packet: u32,
    /// The fields that depend on the channel type.
    pub(super) type_fields: Reader<'a>,
}

impl<'a> ChannelOpen<'a> {
    pub(super) fn read(mut body: Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            channel_type: body.string()?,
            sender_id: body.u32()?,
            window: body.u32()?,
            max_packet: body.u32()?,
            type_fields: body,
        })
    }
}

/// The type-specific fields of a channel that the server opens for a remote forward.
#[derive(Debug)]
pub(super) enum ForwardedChannel<'a> {
    Tcp {
        address: &'a [u8],
        port: u32,
        originator_address: &'a [u8],
        originator_port: u32,
    },
    Unix {
        path: &'a [u8],
    },
}

impl<'a> ForwardedChannel<'a> {
    /// `None` for other channel types.
    pub(super) fn read(
        channel_type: &[u8],
        body: &mut Reader<'a>,
    ) -> Result<Option<Self>, Malformed> {
        match channel_type {
            b"forwarded-tcpip" => Ok(Some(Self::Tcp {
                address: body.string()?,
                port: body.u32()?,
                originator_address: body.string()?,
                originator_port: body.u32()?,
            })),
            b"forwarded-streamlocal@openssh.com" => Ok(Some(Self::Unix {
                path: body.string()?,
            })),
            _ => Ok(None),
        }
    }
}

pub(super) fn open_confirmation(
    remote_id: u32,
    local_id: u32,
    window: u32,
    max_packet: u32,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(17);
    out.u8(OPEN_CONFIRMATION);
    out.u32(remote_id);
    out.u32(local_id);
    out.u32(window);
    out.u32(max_packet);
    out
}

pub(super) fn open_failure(remote_id: u32, code: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.u8(OPEN_FAILURE);
    out.u32(remote_id);
    out.u32(code);
    out.string(text);
    // Language tag.
    out.string("");
    out
}

/// A message that consists of its number and the server's channel number.
pub(super) fn for_channel(number: u8, remote_id: u32) -> [u8; 5] {
    let [a, b, c, d] = remote_id.to_be_bytes();
    [number, a, b, c, d]
}

/// CHANNEL_DATA up to its bytes. An array: the hot path allocates nothing.
pub(super) fn data_header(remote_id: u32, len: u32) -> [u8; 9] {
    let [a, b, c, d] = remote_id.to_be_bytes();
    let [e, f, g, h] = len.to_be_bytes();
    [DATA, a, b, c, d, e, f, g, h]
}

pub(super) fn window_adjust(remote_id: u32, credit: u32) -> [u8; 9] {
    // The same layout as the header of CHANNEL_DATA.
    let mut out = data_header(remote_id, credit);
    if let Some(first) = out.first_mut() {
        *first = WINDOW_ADJUST;
    }
    out
}

/// GLOBAL_REQUEST up to its own fields, with a reply wanted.
fn global_request(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.u8(GLOBAL_REQUEST);
    out.string(name);
    // A reply is always wanted: for a keepalive it is the sign of life, for a forward its port.
    out.bool(true);
    out
}

pub(super) fn keepalive() -> Vec<u8> {
    global_request("keepalive@openssh.com")
}

/// A request to listen, or to stop listening.
pub(super) fn forward_request(listen: &RemoteListen, cancel: bool) -> Vec<u8> {
    let name = match (listen, cancel) {
        // A cancel request has the same fields as the request that it cancels (RFC 4254 §7.1).
        (RemoteListen::Tcp { .. }, false) => "tcpip-forward",
        (RemoteListen::Tcp { .. }, true) => "cancel-tcpip-forward",
        (RemoteListen::Unix { .. }, false) => "streamlocal-forward@openssh.com",
        (RemoteListen::Unix { .. }, true) => "cancel-streamlocal-forward@openssh.com",
    };
    let mut out = global_request(name);
    match listen {
        RemoteListen::Tcp { address, port } => {
            out.string(address);
            out.u32(u32::from(*port));
        }
        RemoteListen::Unix { path } => out.string(path),
    }
    out
}

pub(super) fn prove_host_keys(keys: &[Bytes]) -> Vec<u8> {
    let mut out = global_request("hostkeys-prove-00@openssh.com");
    for key in keys {
        out.string(key);
    }
    out
}
