//! The transport's own messages (RFC 4253 §11 and RFC 8308).

use crate::error::bounded;
use crate::wire::{Malformed, Reader, Writer};

pub(super) const DISCONNECT: u8 = 1;
pub(super) const IGNORE: u8 = 2;
pub(super) const UNIMPLEMENTED: u8 = 3;
pub(super) const DEBUG: u8 = 4;
pub(super) const SERVICE_ACCEPT: u8 = 6;
pub(super) const EXT_INFO: u8 = 7;
pub(super) const NEWKEYS: u8 = 21;
/// First message number of the key exchange methods (RFC 4253 §12); each method gives 30 to 49 its own meaning.
pub(super) const KEX_FIRST: u8 = 30;
pub(super) const KEX_LAST: u8 = 49;
/// USERAUTH_SUCCESS: zlib@openssh.com compresses everything after it.
pub(super) const AUTH_SUCCESS: u8 = 52;

/// First message number of the connection protocol (RFC 4254).
pub(super) const CONNECTION_FIRST: u8 = 80;

pub(super) const PROTOCOL_ERROR: u32 = 2;
pub(super) const KEY_EXCHANGE_FAILED: u32 = 3;
pub(super) const MAC_ERROR: u32 = 5;
pub(super) const HOST_KEY_NOT_VERIFIABLE: u32 = 9;
pub(super) const BY_APPLICATION: u32 = 11;

const MAX_EXTENSIONS: u32 = 64;
const MAX_ALGORITHMS: usize = 128;

pub(super) fn disconnect(code: u32, text: &str) -> Vec<u8> {
    let mut payload = vec![DISCONNECT];
    payload.u32(code);
    payload.string(bounded(text.as_bytes(), 256));
    // Language tag.
    payload.string("");
    payload
}

/// Code and text of a DISCONNECT, the text cut to 1 KiB. Lenient: a malformed message ends the session all the same.
pub(super) fn read_disconnect(payload: &[u8]) -> (u32, String) {
    let mut reader = Reader::new(payload);
    let _ = reader.u8();
    let code = reader.u32().unwrap_or_default();
    let text = reader.string().unwrap_or_default();
    // Bounded here, at the edge: the text goes into logs and the status.
    (code, bounded(text, 1024))
}

pub(super) fn unimplemented(sequence: u32) -> Vec<u8> {
    let mut payload = vec![UNIMPLEMENTED];
    payload.u32(sequence);
    payload
}

/// Sequence number of our packet that the server does not implement. `None` if the message is malformed.
pub(super) fn read_unimplemented(payload: &[u8]) -> Option<u32> {
    Reader::new(payload.get(1..)?).u32().ok()
}

/// Value of the extension `server-sig-algs`. `None` if the message does not have it.
pub(super) fn read_ext_info(payload: &[u8]) -> Result<Option<Vec<String>>, Malformed> {
    let mut reader = Reader::new(payload);
    reader.u8()?;
    let count = reader.u32()?;
    // RFC 8308 defines a handful of extensions: a larger number only makes us parse.
    if count > MAX_EXTENSIONS {
        return Err(Malformed);
    }
    let mut algorithms = None;
    for _ in 0..count {
        // A copy of the reader, because values of other extensions are not lists and must be skipped unparsed.
        let (name, mut value) = (reader.string()?, reader.clone());
        reader.string()?;
        if name == b"server-sig-algs" {
            let names = value.name_list()?;
            // Cut and not refused: a long list is harmless, and the names that matter come first.
            let names = names.iter().take(MAX_ALGORITHMS);
            algorithms = Some(names.map(|name| bounded(name.as_bytes(), 128)).collect());
        }
    }
    reader.end()?;
    Ok(algorithms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn server_sig_algs_is_found_among_other_extensions() {
        let mut payload = vec![EXT_INFO];
        payload.u32(2);
        payload.string("other");
        payload.string([0xff]);
        payload.string("server-sig-algs");
        payload.string("ssh-ed25519,rsa-sha2-512");
        let names = read_ext_info(&payload).unwrap().unwrap();
        assert_eq!(names, ["ssh-ed25519", "rsa-sha2-512"]);
        payload.u8(0);
        assert!(read_ext_info(&payload).is_err());
    }

    #[test]
    fn a_disconnect_is_read_and_bounded() {
        let (code, text) = read_disconnect(&disconnect(2, "no"));
        assert_eq!((code, text.as_str()), (2, "no"));
        let mut payload = vec![DISCONNECT];
        payload.u32(11);
        payload.string(vec![0xc3; 100_000]);
        assert!(read_disconnect(&payload).1.len() <= 1024);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = read_ext_info(&bytes);
            let _ = read_disconnect(&bytes);
            let _ = read_unimplemented(&bytes);
        }
    }
}
