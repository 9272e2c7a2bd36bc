//! RFC 4252's and RFC 4256's messages on the wire.

use zeroize::Zeroizing;

use crate::wire::{Malformed, Reader, Writer};

pub(crate) const SERVICE_REQUEST: u8 = 5;
pub(crate) const SERVICE_ACCEPT: u8 = 6;
pub(crate) const REQUEST: u8 = 50;
pub(crate) const FAILURE: u8 = 51;
pub(crate) const SUCCESS: u8 = 52;
pub(crate) const BANNER: u8 = 53;
/// What number 60 and 61 mean depends on the method.
pub(crate) const METHOD_60: u8 = 60;
pub(crate) const METHOD_61: u8 = 61;

/// A message that may hold a secret: wiped when it is let go of.
pub type Message = Zeroizing<Vec<u8>>;

/// A message whose bytes never move while it is written: no copy of a secret stays behind.
fn start(room: usize, number: u8) -> Message {
    let mut out = Zeroizing::new(Vec::with_capacity(256 + room));
    out.u8(number);
    out
}

pub(crate) fn service_request() -> Message {
    let mut out = start(0, SERVICE_REQUEST);
    out.string("ssh-userauth");
    out
}

/// USERAUTH_REQUEST up to where the method's own fields begin.
pub(crate) fn request(user: &str, method: &str, room: usize) -> Message {
    let mut out = start(user.len() + room, REQUEST);
    out.string(user);
    out.string("ssh-connection");
    out.string(method);
    out
}

pub(crate) fn password(user: &str, password: &str, new: Option<&str>) -> Message {
    let room = password.len() + new.map_or(0, str::len);
    let mut out = request(user, "password", room);
    out.bool(new.is_some());
    out.string(password);
    if let Some(new) = new {
        out.string(new);
    }
    out
}

/// A publickey request without its signature: a query, or what is to be signed.
pub(crate) fn public_key(user: &str, algorithm: &str, key: &[u8], signed: bool) -> Message {
    let mut out = request(user, "publickey", algorithm.len() + key.len());
    out.bool(signed);
    out.string(algorithm);
    out.string(key);
    out
}

/// What a publickey signature covers (RFC 4252 §7).
pub(crate) fn to_sign(session_id: &[u8], request: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(session_id.len() + request.len() + 4);
    out.string(session_id);
    out.raw(request);
    out
}

pub(crate) fn keyboard_interactive(user: &str, submethods: &str) -> Message {
    let mut out = request(user, "keyboard-interactive", submethods.len());
    out.string("");
    out.string(submethods);
    out
}

pub(crate) fn info_response<S: AsRef<str>>(answers: &[S]) -> Message {
    let room = answers.iter().map(|answer| answer.as_ref().len() + 4).sum();
    let mut out = start(room, METHOD_61);
    out.u32(u32::try_from(answers.len()).unwrap_or(u32::MAX));
    for answer in answers {
        out.string(answer.as_ref());
    }
    out
}

/// USERAUTH_FAILURE: what may go on, and whether this was a step forward.
pub(crate) fn failure(body: &mut Reader<'_>) -> Result<(Vec<String>, bool), Malformed> {
    let remaining = body
        .name_list()?
        .iter()
        .take(32)
        .map(|name| name.chars().take(64).collect())
        .collect();
    Ok((remaining, body.bool()?))
}
