//! Messages of RFC 4252 and RFC 4256.

use zeroize::Zeroizing;

use crate::wire::{Malformed, Reader, Writer};

pub(crate) const SERVICE_REQUEST: u8 = 5;
pub(crate) const SERVICE_ACCEPT: u8 = 6;
pub(crate) const REQUEST: u8 = 50;
pub(crate) const FAILURE: u8 = 51;
pub(crate) const SUCCESS: u8 = 52;
pub(crate) const BANNER: u8 = 53;
/// The meaning of 60 and 61 depends on the method (RFC 4252 §6).
pub(crate) const METHOD_60: u8 = 60;
pub(crate) const METHOD_61: u8 = 61;

/// A message that may hold a secret; its memory is overwritten when it is dropped.
pub type SecretMessage = Zeroizing<Vec<u8>>;

/// Starts a message with room for `variable_len` bytes of names and secrets.
fn start(variable_len: usize, number: u8) -> SecretMessage {
    // Enough capacity from the start: a reallocation would leave a copy of a secret behind.
    let mut out = Zeroizing::new(Vec::with_capacity(256 + variable_len));
    out.u8(number);
    out
}

pub(crate) fn service_request() -> SecretMessage {
    let mut out = start(0, SERVICE_REQUEST);
    out.string("ssh-userauth");
    out
}

/// USERAUTH_REQUEST up to the fields of the method, which need `fields_len` bytes.
pub(crate) fn request(user: &str, method: &str, fields_len: usize) -> SecretMessage {
    let mut out = start(user.len() + fields_len, REQUEST);
    out.string(user);
    // The service that starts after the login (RFC 4254); the only one that is ever requested.
    out.string("ssh-connection");
    out.string(method);
    out
}

pub(crate) fn password(user: &str, password: &str, new_password: Option<&str>) -> SecretMessage {
    let fields_len = password.len() + new_password.map_or(0, str::len);
    let mut out = request(user, "password", fields_len);
    out.bool(new_password.is_some());
    out.string(password);
    if let Some(new_password) = new_password {
        out.string(new_password);
    }
    out
}

/// A publickey request without its signature: a query, or (with `signed`) what the signature covers.
pub(crate) fn public_key(user: &str, algorithm: &str, key: &[u8], signed: bool) -> SecretMessage {
    let mut out = request(user, "publickey", algorithm.len() + key.len());
    out.bool(signed);
    out.string(algorithm);
    out.string(key);
    out
}

/// The data that a publickey signature covers (RFC 4252 §7).
pub(crate) fn signed_data(session_id: &[u8], request: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(session_id.len() + request.len() + 4);
    // The session identifier keeps a server from passing the signature on to another one.
    out.string(session_id);
    out.raw(request);
    out
}

pub(crate) fn keyboard_interactive(user: &str, submethods: &str) -> SecretMessage {
    let mut out = request(user, "keyboard-interactive", submethods.len());
    // Language tag.
    out.string("");
    out.string(submethods);
    out
}

pub(crate) fn info_response<S: AsRef<str>>(responses: &[S]) -> SecretMessage {
    let fields_len = responses
        .iter()
        .map(|response| response.as_ref().len() + 4)
        .sum();
    let mut out = start(fields_len, METHOD_61);
    out.u32(u32::try_from(responses.len()).unwrap_or(u32::MAX));
    for response in responses {
        out.string(response.as_ref());
    }
    out
}

/// Reads USERAUTH_FAILURE: the methods that may continue, and whether the request was a partial success.
pub(crate) fn failure(body: &mut Reader<'_>) -> Result<(Vec<String>, bool), Malformed> {
    let remaining = body
        .name_list()?
        .iter()
        // More than any server has: bounds what a hostile one makes us keep.
        .take(32)
        .map(|name| name.chars().take(64).collect())
        .collect();
    Ok((remaining, body.bool()?))
}
