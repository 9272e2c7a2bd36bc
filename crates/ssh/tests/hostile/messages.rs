//! The numbers of the messages (RFC 4252 §6, RFC 4254 §9), and the payloads that the scripts send.

#![allow(
    dead_code,
    reason = "several tests share it, and each needs a part of it"
)]

use tunneld_ssh::wire::{Reader, Writer};

use crate::peer::message;

pub(crate) const REQUEST: u8 = 50;
pub(crate) const FAILURE: u8 = 51;
pub(crate) const SUCCESS: u8 = 52;
pub(crate) const BANNER: u8 = 53;
pub(crate) const INFO_REQUEST: u8 = 60;
pub(crate) const GLOBAL_REQUEST: u8 = 80;
pub(crate) const REQUEST_SUCCESS: u8 = 81;
pub(crate) const REQUEST_FAILURE: u8 = 82;
pub(crate) const OPEN: u8 = 90;
pub(crate) const CONFIRMATION: u8 = 91;
pub(crate) const OPEN_FAILURE: u8 = 92;
pub(crate) const ADJUST: u8 = 93;
pub(crate) const DATA: u8 = 94;
pub(crate) const EOF: u8 = 96;
pub(crate) const CLOSE: u8 = 97;
pub(crate) const CHANNEL_REQUEST: u8 = 98;

/// Code and text of a DISCONNECT.
pub(crate) fn disconnect_text(payload: &[u8]) -> String {
    let mut body = Reader::new(&payload[1..]);
    let code = body.u32().unwrap_or(0);
    let text = body.string().unwrap_or_default();
    format!("{code} {}", String::from_utf8_lossy(text))
}

pub(crate) fn confirmation(id: u32, window: u32, packet: u32) -> Vec<u8> {
    message(CONFIRMATION, |out| {
        out.u32(id);
        out.u32(7);
        out.u32(window);
        out.u32(packet);
    })
}

pub(crate) fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    message(DATA, |out| {
        out.u32(id);
        out.string(bytes);
    })
}

/// A message that consists of its number and a channel number.
pub(crate) fn for_channel(number: u8, id: u32) -> Vec<u8> {
    message(number, |out| out.u32(id))
}

pub(crate) fn adjust(id: u32, credit: u32) -> Vec<u8> {
    message(ADJUST, |out| {
        out.u32(id);
        out.u32(credit);
    })
}

pub(crate) fn global(name: &str, wants_reply: bool, body: &[u8]) -> Vec<u8> {
    message(GLOBAL_REQUEST, |out| {
        out.string(name);
        out.bool(wants_reply);
        out.raw(body);
    })
}
