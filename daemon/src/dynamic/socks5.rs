//! SOCKS5 (RFC 1928): greeting, choice of an authentication method, request, reply; user and password (RFC 1929).
//! GSSAPI and the commands other than CONNECT are not supported.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::login::ClientLogin;
use super::reply::ConnectReply;
use super::request::{ConnectRequest, Host, ParseOutcome};
use super::sniff::Protocol;

const VERSION: u8 = 5;
const METHOD_NO_AUTHENTICATION: u8 = 0;
const METHOD_PASSWORD: u8 = 2;
const METHOD_NONE_ACCEPTABLE: u8 = 0xff;
/// The version of the login itself (RFC 1929 §2); not that of SOCKS.
const LOGIN_VERSION: u8 = 1;
const COMMAND_CONNECT: u8 = 1;
const ADDRESS_IPV4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_IPV6: u8 = 4;

/// The method selection when the client offers no method that is supported here; the client must then close (RFC 1928 §3).
pub const NO_ACCEPTABLE_METHOD: [u8; 2] = [VERSION, METHOD_NONE_ACCEPTABLE];
/// The method selection that chooses "no authentication required".
pub const METHOD_SELECTED: [u8; 2] = [VERSION, METHOD_NO_AUTHENTICATION];
/// The method selection that chooses "username/password".
pub const PASSWORD_SELECTED: [u8; 2] = [VERSION, METHOD_PASSWORD];
/// The reply to a login that is accepted (RFC 1929 §2).
pub const LOGIN_ACCEPTED: [u8; 2] = [LOGIN_VERSION, 0];
/// The reply to a login that is refused; the server must then close (RFC 1929 §2).
pub const LOGIN_REFUSED: [u8; 2] = [LOGIN_VERSION, 1];

/// The authentication methods that a client offers, as far as they are supported here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedMethods {
    /// "No authentication required".
    pub none: bool,
    /// "Username/password" (RFC 1929).
    pub password: bool,
}

/// Parses the greeting (RFC 1928 §3).
pub fn parse_greeting(bytes: &[u8]) -> ParseOutcome<OfferedMethods> {
    match bytes {
        [] | [VERSION] => ParseOutcome::Incomplete,
        [VERSION, count, methods @ ..] => match methods.get(..usize::from(*count)) {
            Some(offered) => ParseOutcome::Complete {
                // The order of the client's list does not matter: the server chooses (RFC 1928 §3).
                value: OfferedMethods {
                    none: offered.contains(&METHOD_NO_AUTHENTICATION),
                    password: offered.contains(&METHOD_PASSWORD),
                },
                consumed: 2 + offered.len(),
            },
            None => ParseOutcome::Incomplete,
        },
        [_, ..] => ParseOutcome::Malformed,
    }
}

/// Parses the user name and password that follow the selection of that method (RFC 1929 §2).
pub fn parse_login(bytes: &[u8]) -> ParseOutcome<ClientLogin> {
    match bytes.first() {
        None => return ParseOutcome::Incomplete,
        Some(&LOGIN_VERSION) => {}
        Some(_) => return ParseOutcome::Malformed,
    }
    let found = bytes.get(1..).and_then(|rest| {
        let (user, rest) = counted(rest)?;
        let (password, _) = counted(rest)?;
        Some((user, password))
    });
    match found {
        Some((user, password)) => ParseOutcome::Complete {
            value: ClientLogin::new(user, password),
            consumed: 1 + 1 + user.len() + 1 + password.len(),
        },
        None => ParseOutcome::Incomplete,
    }
}

/// Splits off a text that one byte with its length precedes.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// Parses the request that follows the method selection (RFC 1928 §4).
pub fn parse_request(bytes: &[u8]) -> ParseOutcome<ConnectRequest> {
    match bytes.first() {
        None => return ParseOutcome::Incomplete,
        Some(&VERSION) => {}
        Some(_) => return ParseOutcome::Malformed,
    }
    let Some((&[_, command, _reserved, address_type], rest)) = bytes.split_first_chunk() else {
        return ParseOutcome::Incomplete;
    };
    let (host, address_len) = match parse_address(address_type, rest) {
        ParseOutcome::Complete { value, consumed } => (value, consumed),
        ParseOutcome::Incomplete => return ParseOutcome::Incomplete,
        // The length of an unknown address type is unknown too, so the port cannot be found and the command is
        // answered here instead of below.
        ParseOutcome::Rejected(_) if command != COMMAND_CONNECT => {
            return ParseOutcome::Rejected(ConnectReply::CommandNotSupported);
        }
        ParseOutcome::Rejected(reply) => return ParseOutcome::Rejected(reply),
        ParseOutcome::Malformed => return ParseOutcome::Malformed,
    };
    let Some(&port) = rest.get(address_len..).and_then(<[u8]>::first_chunk) else {
        return ParseOutcome::Incomplete;
    };
    let port = u16::from_be_bytes(port);
    if command != COMMAND_CONNECT {
        return ParseOutcome::Rejected(ConnectReply::CommandNotSupported);
    }
    if port == 0 || !host.is_acceptable() {
        // After the whole request was received, so that the client has sent all of it when it reads the reply.
        return ParseOutcome::Rejected(ConnectReply::GeneralFailure);
    }
    let value = ConnectRequest {
        protocol: Protocol::Socks5,
        host,
        port,
    };
    let consumed = 4 + address_len + 2;
    ParseOutcome::Complete { value, consumed }
}

/// Parses a destination address of the given type (RFC 1928 §5).
fn parse_address(address_type: u8, bytes: &[u8]) -> ParseOutcome<Host> {
    let found = match address_type {
        ADDRESS_IPV4 => bytes
            .first_chunk::<4>()
            .map(|&ip| (Host::Ip(IpAddr::V4(Ipv4Addr::from(ip))), 4)),
        ADDRESS_IPV6 => bytes
            .first_chunk::<16>()
            .map(|&ip| (Host::Ip(IpAddr::V6(Ipv6Addr::from(ip))), 16)),
        ADDRESS_NAME => bytes.split_first().and_then(|(&length, rest)| {
            let name = rest.get(..usize::from(length))?;
            Some((Host::Name(name.to_vec()), 1 + name.len()))
        }),
        _ => return ParseOutcome::Rejected(ConnectReply::AddressTypeNotSupported),
    };
    match found {
        Some((value, consumed)) => ParseOutcome::Complete { value, consumed },
        None => ParseOutcome::Incomplete,
    }
}

/// Encodes the reply (RFC 1928 §6). The bound address is always 0.0.0.0:0, as in OpenSSH: the server connects, and SSH
/// does not report the address from which it does so.
pub fn encode_reply(reply: ConnectReply) -> Vec<u8> {
    vec![VERSION, reply.code(), 0, ADDRESS_IPV4, 0, 0, 0, 0, 0, 0]
}
