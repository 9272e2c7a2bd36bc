//! The identification exchange, RFC 4253 §4.2, with bounds on what may come before it.

use bytes::BytesMut;

use crate::error::{Error, bounded};

/// The longest identification, line end included.
const MAX_IDENT: usize = 255;
/// The longest line before it, and how many such lines are skipped.
const MAX_LINE: usize = 8 * 1024;
const MAX_LINES: usize = 1024;
/// How much of the lines before it is kept for a person to read.
const MAX_KEPT: usize = 1024;

/// Looks for the server's identification.
#[derive(Default)]
pub(super) struct IdentReader {
    lines: usize,
    /// How much of the current line is known to hold no line end.
    searched: usize,
    kept: String,
}

impl IdentReader {
    /// What the server said before its identification, cut.
    pub(super) fn pre_banner(&self) -> &str {
        &self.kept
    }

    /// The identification without its line end, once it is there.
    pub(super) fn poll(&mut self, read: &mut BytesMut) -> Result<Option<String>, Error> {
        loop {
            let new = read.get(self.searched..).unwrap_or_default();
            let Some(at) = new.iter().position(|byte| *byte == b'\n') else {
                self.searched = read.len();
                let is_ident = read.starts_with(b"SSH-");
                return if read.len() >= if is_ident { MAX_IDENT } else { MAX_LINE } {
                    Err(self.failed(read, "a line without an end"))
                } else {
                    Ok(None)
                };
            };
            let length = self.searched + at + 1;
            self.searched = 0;
            let line = read.split_to(length);
            let text = line.get(..length - 1).unwrap_or_default();
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.starts_with(b"SSH-") {
                return self.ident(text, length).map(Some);
            }
            self.skip(text)?;
        }
    }

    fn ident(&self, text: &[u8], length: usize) -> Result<String, Error> {
        if length > MAX_IDENT {
            return Err(self.failed(text, "an identification that is too long"));
        }
        if !text.starts_with(b"SSH-2.0-") && !text.starts_with(b"SSH-1.99-") {
            return Err(self.failed(text, "another version of the protocol"));
        }
        // The bytes go into the exchange hash: what is not text could not be kept as it is.
        match std::str::from_utf8(text) {
            Ok(ident) if !ident.contains('\0') => Ok(ident.to_owned()),
            _ => Err(self.failed(text, "an identification that is no text")),
        }
    }

    fn skip(&mut self, text: &[u8]) -> Result<(), Error> {
        if text.len() >= MAX_LINE {
            return Err(self.failed(text, "a line without an end"));
        }
        if text.starts_with(b"HTTP/") {
            return Err(self.failed(text, "HTTP"));
        }
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(self.failed(text, "too many lines before it"));
        }
        let room = MAX_KEPT.saturating_sub(self.kept.len() + 1);
        if room > 0 && !text.is_empty() {
            if !self.kept.is_empty() {
                self.kept.push('\n');
            }
            self.kept.push_str(&bounded(text, room));
        }
        Ok(())
    }

    fn failed(&self, line: &[u8], what: &str) -> Error {
        Error::Ident(format!("{what}: {}", bounded(line, MAX_IDENT)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<String>, Error> {
        IdentReader::default().poll(&mut BytesMut::from(bytes))
    }

    #[test]
    fn identifications_of_both_line_ends_and_after_lines() {
        for (bytes, ident) in [
            (&b"SSH-2.0-x\r\n"[..], "SSH-2.0-x"),
            (b"SSH-2.0-x y z\n", "SSH-2.0-x y z"),
            (b"SSH-1.99-old\r\n", "SSH-1.99-old"),
            (b"hello\r\n\nSSH-2.0-x\r\n", "SSH-2.0-x"),
        ] {
            assert_eq!(read(bytes).unwrap().as_deref(), Some(ident));
        }
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for bytes in [
            &b"SSH-1.5-old\r\n"[..],
            b"SSH-2.0-\xff\r\n",
            b"SSH-2.0-a\0b\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(matches!(read(bytes), Err(Error::Ident(_))));
        }
        let long = [b"SSH-2.0-".to_vec(), vec![b'a'; 300]].concat();
        assert!(read(&long).is_err());
        assert!(read(&vec![b'a'; MAX_LINE]).is_err());
        assert!(read(&b"line\n".repeat(MAX_LINES)).is_ok());
        assert!(read(&b"line\n".repeat(MAX_LINES + 1)).is_err());
    }

    #[test]
    fn lines_before_are_kept_for_a_person() {
        let mut reader = IdentReader::default();
        let mut bytes = BytesMut::from(&b"go away\r\nSSH-2.0-x\r\nrest"[..]);
        assert!(reader.poll(&mut bytes).unwrap().is_some());
        assert_eq!(reader.pre_banner(), "go away");
        assert_eq!(&bytes[..], b"rest");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in "(a{0,5}\n){0,4}SSH-2[.]0-b{0,9}\r\n", cut in 0usize..40) {
            let cut = cut.min(bytes.len());
            let (head, tail) = bytes.as_bytes().split_at(cut);
            let (mut reader, mut buffer) = (IdentReader::default(), BytesMut::from(head));
            let first = reader.poll(&mut buffer).unwrap();
            buffer.extend_from_slice(tail);
            let ident = first.or_else(|| reader.poll(&mut buffer).unwrap());
            prop_assert_eq!(ident, read(bytes.as_bytes()).unwrap());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
