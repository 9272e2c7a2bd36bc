//! SOCKS5, RFC 1928: a greeting, the choice of a method, a request, an answer.
//! No method but "no authentication" is offered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Host, Parsed, Protocol, Reply, Request, is_sound_name};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;

/// The choice of a method when none of those offered will do.
pub(super) const NO_METHOD: [u8; 2] = [VERSION, 0xff];
/// The choice of no authentication.
pub(super) const METHOD_CHOSEN: [u8; 2] = [VERSION, NO_AUTHENTICATION];

/// The greeting: whether a method that is spoken here is among those offered.
pub(super) fn greeting(bytes: &[u8]) -> Parsed<bool> {
    match bytes {
        [] => Parsed::Short,
        [VERSION, count, methods @ ..] => match methods.get(..usize::from(*count)) {
            Some(offered) => Parsed::Whole(offered.contains(&NO_AUTHENTICATION), 2 + offered.len()),
            None => Parsed::Short,
        },
        [VERSION] => Parsed::Short,
        [_, ..] => Parsed::Broken,
    }
}

/// The request after the greeting.
pub(super) fn request(bytes: &[u8]) -> Parsed<Request> {
    match bytes.first() {
        None => return Parsed::Short,
        Some(&VERSION) => {}
        Some(_) => return Parsed::Broken,
    }
    let Some((&[_, command, _reserved, kind], rest)) = bytes.split_first_chunk() else {
        return Parsed::Short;
    };
    let (host, length) = match address(kind, rest) {
        Parsed::Whole(host, length) => (host, length),
        Parsed::Short => return Parsed::Short,
        // Whatever follows cannot be measured, so this is said before the port is read.
        Parsed::Refused(_) if command != CONNECT => {
            return Parsed::Refused(Reply::CommandNotSupported);
        }
        Parsed::Refused(reply) => return Parsed::Refused(reply),
        Parsed::Broken => return Parsed::Broken,
    };
    let Some(&port) = rest.get(length..).and_then(<[u8]>::first_chunk) else {
        return Parsed::Short;
    };
    let port = u16::from_be_bytes(port);
    if command != CONNECT {
        return Parsed::Refused(Reply::CommandNotSupported);
    }
    if port == 0 || matches!(&host, Host::Name(name) if !is_sound_name(name)) {
        return Parsed::Refused(Reply::GeneralFailure);
    }
    let request = Request {
        protocol: Protocol::Socks5,
        host,
        port,
    };
    Parsed::Whole(request, 4 + length + 2)
}

fn address(kind: u8, bytes: &[u8]) -> Parsed<Host> {
    let found = match kind {
        1 => bytes
            .first_chunk::<4>()
            .map(|&ip| (Host::Ip(IpAddr::V4(Ipv4Addr::from(ip))), 4)),
        4 => bytes
            .first_chunk::<16>()
            .map(|&ip| (Host::Ip(IpAddr::V6(Ipv6Addr::from(ip))), 16)),
        3 => bytes.split_first().and_then(|(&length, rest)| {
            let name = rest.get(..usize::from(length))?;
            Some((Host::Name(name.to_vec()), 1 + name.len()))
        }),
        _ => return Parsed::Refused(Reply::AddressTypeNotSupported),
    };
    match found {
        Some((host, length)) => Parsed::Whole(host, length),
        None => Parsed::Short,
    }
}

/// The answer; the bound address is not known here and stands as 0.0.0.0:0, as OpenSSH has it.
pub(super) fn answer(reply: Reply) -> Vec<u8> {
    vec![VERSION, reply.code(), 0, 1, 0, 0, 0, 0, 0, 0]
}
