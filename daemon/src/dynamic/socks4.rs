//! SOCKS4 and 4a, as their authors wrote them down: one request, one answer of eight bytes.

use std::net::{IpAddr, Ipv4Addr};

use super::{Host, Parsed, Protocol, Reply, Request, is_sound_name};

const VERSION: u8 = 4;
const CONNECT: u8 = 1;
/// The most bytes that the user's name, and the host's, may have.
const LONGEST: usize = 255;

/// A request from the first bytes of a connection.
pub(super) fn request(bytes: &[u8]) -> Parsed<Request> {
    match bytes.first() {
        None => return Parsed::Short,
        Some(&VERSION) => {}
        Some(_) => return Parsed::Broken,
    }
    let Some((&[_, command, port_high, port_low, a, b, c, d], rest)) = bytes.split_first_chunk()
    else {
        return Parsed::Short;
    };
    let user = match terminated(rest) {
        Parsed::Whole(_, length) => length,
        Parsed::Short => return Parsed::Short,
        Parsed::Refused(_) | Parsed::Broken => return Parsed::Broken,
    };
    let mut taken = 8 + user;
    let ip = Ipv4Addr::new(a, b, c, d);
    let host = if [a, b, c] == [0, 0, 0] && d != 0 {
        match terminated(bytes.get(taken..).unwrap_or_default()) {
            Parsed::Whole(name, length) => {
                taken += length;
                Host::Name(name.to_vec())
            }
            Parsed::Short => return Parsed::Short,
            Parsed::Refused(_) | Parsed::Broken => return Parsed::Broken,
        }
    } else {
        Host::Ip(IpAddr::V4(ip))
    };
    let port = u16::from_be_bytes([port_high, port_low]);
    if command != CONNECT {
        return Parsed::Refused(Reply::CommandNotSupported);
    }
    if port == 0 || matches!(&host, Host::Name(name) if !is_sound_name(name)) {
        return Parsed::Refused(Reply::GeneralFailure);
    }
    let request = Request {
        protocol: Protocol::Socks4,
        host,
        port,
    };
    Parsed::Whole(request, taken)
}

/// A text up to its NUL, and its length with it.
fn terminated(bytes: &[u8]) -> Parsed<&[u8]> {
    let window = bytes.get(..=LONGEST).unwrap_or(bytes);
    match window.iter().position(|&byte| byte == 0) {
        Some(end) => Parsed::Whole(window.get(..end).unwrap_or_default(), end + 1),
        None if bytes.len() > LONGEST => Parsed::Broken,
        None => Parsed::Short,
    }
}

/// The answer; SOCKS4 knows only 90, granted, and 91, refused or failed.
pub(super) fn answer(reply: Reply) -> Vec<u8> {
    let code = if reply == Reply::Granted { 90 } else { 91 };
    vec![0, code, 0, 0, 0, 0, 0, 0]
}
