//! The server's identification line (RFC 4253 §4.2), with bounds on the lines that may precede it.

use bytes::BytesMut;

use crate::error::{Error, bounded};

/// Longest identification in bytes, line end included.
const MAX_IDENT: usize = 255;
/// Longest line before the identification in bytes, and the number of such lines.
const MAX_LINE: usize = 8 * 1024;
const MAX_LINES: usize = 1024;
/// Bytes of these lines that are kept to be shown to the user.
const MAX_PRE_BANNER: usize = 1024;

/// Finds the server's identification in the received bytes.
#[derive(Default)]
pub(crate) struct IdentReader {
    lines: usize,
    /// Bytes of the current line that are known to hold no line end, so that they are searched once.
    searched: usize,
    pre_banner: String,
    /// The beginning of the current line.
    unfinished: String,
}

impl IdentReader {
    /// The lines before the identification, cut to [`MAX_PRE_BANNER`].
    pub(crate) fn pre_banner(&self) -> &str {
        &self.pre_banner
    }

    /// Everything that was received so far, for the case that the connection ends here.
    pub(crate) fn received(&self) -> String {
        match (self.pre_banner.as_str(), self.unfinished.as_str()) {
            ("", line) | (line, "") => line.to_owned(),
            (lines, line) => format!("{lines}\n{line}"),
        }
    }

    /// Returns the identification without its line end. `None` if more bytes are needed.
    pub(crate) fn poll(&mut self, buffer: &mut BytesMut) -> Result<Option<String>, Error> {
        loop {
            // Only the new bytes are searched: a server that sends one byte at a time must not cost quadratic time.
            let new = buffer.get(self.searched..).unwrap_or_default();
            let Some(at) = new.iter().position(|byte| *byte == b'\n') else {
                self.searched = buffer.len();
                self.unfinished = bounded(buffer, MAX_IDENT);
                // RFC 4253 §4.2 bounds the identification to 255 bytes, but not the lines before it: those get
                // OpenSSH's bounds.
                let is_ident = buffer.starts_with(b"SSH-");
                return if buffer.len() >= if is_ident { MAX_IDENT } else { MAX_LINE } {
                    Err(self.error(buffer, "a line without an end"))
                } else {
                    Ok(None)
                };
            };
            let length = self.searched + at + 1;
            self.searched = 0;
            self.unfinished.clear();
            let line = buffer.split_to(length);
            let text = line.get(..length - 1).unwrap_or_default();
            // Some servers end the line with LF alone; the exchange hash covers the line without either.
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.starts_with(b"SSH-") {
                return self.parse_ident(text, length).map(Some);
            }
            self.skip_line(text)?;
        }
    }

    fn parse_ident(&self, text: &[u8], length: usize) -> Result<String, Error> {
        if length > MAX_IDENT {
            return Err(self.error(text, "an identification that is too long"));
        }
        // RFC 4253 §5.1: 1.99 is a server that also speaks version 1.
        if !text.starts_with(b"SSH-2.0-") && !text.starts_with(b"SSH-1.99-") {
            return Err(self.error(text, "another version of the protocol"));
        }
        // The exchange hash covers the exact bytes, which a lossy conversion would change.
        match std::str::from_utf8(text) {
            Ok(ident) if !ident.contains('\0') => Ok(ident.to_owned()),
            _ => Err(self.error(text, "an identification that is not text")),
        }
    }

    fn skip_line(&mut self, text: &[u8]) -> Result<(), Error> {
        if text.len() >= MAX_LINE {
            return Err(self.error(text, "a line without an end"));
        }
        // A web server or an HTTP proxy: the error can name it before its whole page is read.
        if text.starts_with(b"HTTP/") {
            return Err(self.error(text, "HTTP"));
        }
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(self.error(text, "too many lines before it"));
        }
        // The text is kept because it often is the reason for a closed connection, such as "Exceeded MaxStartups".
        let room = MAX_PRE_BANNER.saturating_sub(self.pre_banner.len() + 1);
        if room > 0 && !text.is_empty() {
            if !self.pre_banner.is_empty() {
                self.pre_banner.push('\n');
            }
            self.pre_banner.push_str(&bounded(text, room));
        }
        Ok(())
    }

    fn error(&self, line: &[u8], what: &str) -> Error {
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
    fn both_line_ends_and_preceding_lines_are_accepted() {
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
    fn other_protocols_and_endless_lines_are_refused() {
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
    fn preceding_lines_are_kept_for_the_user() {
        let mut reader = IdentReader::default();
        let mut bytes = BytesMut::from(&b"go away\r\nSSH-2.0-x\r\nrest"[..]);
        assert!(reader.poll(&mut bytes).unwrap().is_some());
        assert_eq!(reader.pre_banner(), "go away");
        assert_eq!(reader.received(), "go away");
        assert_eq!(&bytes[..], b"rest");
    }

    proptest! {
        #[test]
        fn the_split_into_reads_makes_no_difference(bytes in "(a{0,5}\n){0,4}SSH-2[.]0-b{0,9}\r\n", cut in 0usize..40) {
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
