//! Framing: one JSON object per line, at most [`MAX_LINE`] bytes.
//!
//! A line over the limit ends the connection, because the reader does not know where the next one starts. A line that is
//! not JSON does not: the next line can still be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};

use crate::text::is_unsafe;
use crate::version::MAX_LINE;

/// Splits a byte stream into lines; for `Framed`, `FramedRead` and `FramedWrite`.
///
/// ```
/// use bytes::BytesMut;
/// use tokio_util::codec::Decoder as _;
/// use tunneld_proto::codec::LineCodec;
///
/// let mut codec = LineCodec::default();
/// let mut buffer = BytesMut::from("{\"id\":1}\n{\"id\"");
/// assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "{\"id\":1}");
/// assert!(codec.decode(&mut buffer).unwrap().is_none());
/// ```
#[derive(Debug)]
pub struct LineCodec {
    /// Longest line, in bytes without the line feed.
    max: usize,
    /// Bytes of the buffer that are known to hold no line feed: each byte is scanned once.
    scanned: usize,
}

/// Why no more lines can be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A line is longer than the limit, which is given in bytes.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// Reading from or writing to the stream failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

impl Default for LineCodec {
    fn default() -> Self {
        Self::with_max(MAX_LINE)
    }
}

impl LineCodec {
    /// Makes a codec with another limit than [`MAX_LINE`], in bytes without the line feed.
    pub fn with_max(max: usize) -> Self {
        Self { max, scanned: 0 }
    }
}

impl Decoder for LineCodec {
    type Item = Bytes;
    type Error = CodecError;

    /// Returns the next line without its line end. Empty lines are skipped, a carriage return before the line feed is
    /// removed, and the last line may lack the line feed: the protocol can be used by hand.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        loop {
            let unscanned = buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = unscanned.iter().position(|byte| *byte == b'\n') else {
                // A line that arrives byte by byte must not be scanned from its start each time.
                self.scanned = buffer.len();
                // Refused before its end is seen: a line without an end would fill the memory.
                if self.scanned > self.max {
                    return Err(CodecError::TooLong(self.max));
                }
                return Ok(None);
            };
            let end = self.scanned + found;
            self.scanned = 0;
            if end > self.max {
                return Err(CodecError::TooLong(self.max));
            }
            // Split off, not copied.
            let mut line = buffer.split_to(end);
            buffer.advance(1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line.freeze()));
            }
        }
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, CodecError> {
        if let Some(line) = self.decode(buffer)? {
            return Ok(Some(line));
        }
        self.scanned = 0;
        // The last line may lack its line feed: `printf '{...}' | nc -U` has to work.
        let rest = buffer.split().freeze();
        Ok((!rest.iter().all(u8::is_ascii_whitespace)).then_some(rest))
    }
}

impl Encoder<Bytes> for LineCodec {
    type Error = CodecError;

    /// Writes a line as [`to_line`] returns it, line feed included.
    fn encode(&mut self, line: Bytes, buffer: &mut BytesMut) -> Result<(), CodecError> {
        // One byte more for the line feed. Refused here, because the peer would close the connection.
        if line.len() > self.max + 1 {
            return Err(CodecError::TooLong(self.max));
        }
        buffer.put(line);
        Ok(())
    }
}

/// Serializes `message` to one line with a line feed; see [`to_json`] for the escapes.
///
/// # Errors
/// If `message` has no JSON form, such as a map with keys that are not strings.
pub fn to_line<T: Serialize + ?Sized>(message: &T) -> serde_json::Result<Bytes> {
    let mut line = to_json(message)?;
    line.push(b'\n');
    Ok(line.into())
}

/// Serializes `message` to compact JSON that is safe to show in a terminal: DEL, C1 and bidirectional controls, which
/// serde_json leaves as they are, become `\uXXXX`.
///
/// ```
/// use tunneld_proto::codec::to_json;
/// assert_eq!(to_json("\u{9b}31m").unwrap(), br#""\u009b31m""#);
/// ```
///
/// # Errors
/// As [`to_line`].
pub fn to_json<T: Serialize + ?Sized>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    message.serialize(&mut Serializer::with_formatter(
        &mut out,
        SafeFormatter(CompactFormatter),
    ))?;
    Ok(out)
}

/// Compact JSON in which unsafe characters of strings are escaped.
struct SafeFormatter(CompactFormatter);

impl Formatter for SafeFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        // JSON may escape any character, so that programs read the same text.
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            let (before, after) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            // RFC 8259 §7: a character above U+FFFF is written as two surrogates.
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        out.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(out, escape)
    }
}

/// A stream with bytes in front that were read too early: `connect` turns a connection from lines into bytes, and the line
/// reader may have buffered the first of them.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    /// Makes a stream that yields `prefix`, then the bytes of `stream`.
    pub fn new(prefix: impl Into<Bytes>, stream: S) -> Self {
        Self {
            prefix: prefix.into(),
            stream,
        }
    }

    /// Returns the inner stream, without the prefix.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    fn lines(codec: &mut LineCodec, chunks: &[&[u8]]) -> Result<Vec<String>, CodecError> {
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(line) = codec.decode(&mut buffer)? {
                out.push(String::from_utf8_lossy(&line).into_owned());
            }
        }
        if let Some(line) = codec.decode_eof(&mut buffer)? {
            out.push(String::from_utf8_lossy(&line).into_owned());
        }
        Ok(out)
    }

    #[test]
    fn carriage_returns_empty_lines_and_a_missing_last_line_feed_are_accepted() {
        let got = lines(
            &mut LineCodec::default(),
            &[b"{}\r\n\n  \n[1]\n{\"a\":", b"1}"],
        );
        assert_eq!(got.unwrap(), ["{}", "[1]", "{\"a\":1}"]);
    }

    #[test]
    fn a_line_at_the_limit_is_accepted_and_one_byte_more_is_not() {
        assert_eq!(
            lines(&mut LineCodec::with_max(4), &[b"1234\n"]).unwrap(),
            ["1234"]
        );
        for chunks in [&[&b"12345\n"[..]][..], &[&b"123"[..], &b"45"[..]][..]] {
            let got = lines(&mut LineCodec::with_max(4), chunks);
            assert!(matches!(got, Err(CodecError::TooLong(4))), "{got:?}");
        }
    }

    #[test]
    fn json_has_no_control_characters_and_parses_back() {
        let text = "a\u{9b}31m\u{e0041}\u{7f}\u{202e}\x1b\n\"\\ ü";
        let json = String::from_utf8(to_json(text).unwrap()).unwrap();
        assert!(!json.chars().any(is_unsafe), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[tokio::test]
    async fn the_prefix_comes_first_and_complete() {
        let mut got = Vec::new();
        Prefixed::new(&b"early "[..], &b"late"[..])
            .read_to_end(&mut got)
            .await
            .unwrap();
        assert_eq!(got, b"early late");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(text in "([a-c]{0,5}\n){0,6}[a-c]{0,3}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let whole = lines(&mut LineCodec::default(), &[text.as_bytes()]).unwrap();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < text.len()).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut from = 0;
            let chunks: Vec<_> = cuts.iter().map(|to| { let chunk = &text.as_bytes()[from..*to]; from = *to; chunk }).collect();
            prop_assert_eq!(lines(&mut LineCodec::default(), &chunks).unwrap(), whole);
        }

        #[test]
        fn json_round_trips(text in any::<String>()) {
            let json = to_json(&text).unwrap();
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }
}
