//! The data types of RFC 4251 §5: a reader that checks every length, and a writer.
//!
//! ```
//! use tunneld_ssh::wire::{Reader, Writer};
//!
//! let mut out = Vec::new();
//! out.string("ssh-ed25519");
//! out.u32(7);
//!
//! let mut reader = Reader::new(&out);
//! assert_eq!(reader.utf8()?, "ssh-ed25519");
//! assert_eq!(reader.u32()?, 7);
//! reader.end()?;
//! # Ok::<(), tunneld_ssh::wire::Malformed>(())
//! ```

use bytes::{BufMut, BytesMut};

/// A field is truncated, or its content does not fit its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub struct Malformed;

/// Reads the fields of one message from front to back. Allocates nothing.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the bytes that are not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all bytes are read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that all bytes are read.
    ///
    /// # Errors
    /// [`Malformed`] if bytes are left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Reads `count` bytes without a length prefix.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// Reads `N` bytes without a length prefix.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = tail;
        Ok(*head)
    }

    /// Reads a `byte` (RFC 4251 §5).
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    /// Reads a `uint32`, most significant byte first.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a `uint64`, most significant byte first.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a `boolean`: every value but 0 is true.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        self.u8().map(|byte| byte != 0)
    }

    /// Reads a `string` of any bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        // The length is checked against the message before anything uses it: a false one allocates nothing.
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.bytes(length)
    }

    /// Reads a `string` that has to be UTF-8.
    pub fn utf8(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// Reads a `name-list`: ASCII names, separated by commas.
    pub fn name_list(&mut self) -> Result<NameList<'a>, Malformed> {
        let text = self.utf8()?;
        if text.is_ascii() {
            Ok(NameList(text))
        } else {
            Err(Malformed)
        }
    }

    /// Reads an `mpint` that is not negative. Returns its big-endian magnitude without leading zeros, empty for 0.
    pub fn mpint(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.string()?;
        match bytes {
            [] => Ok(bytes),
            // A zero byte is only allowed in front of a byte with its sign bit set.
            [0, rest @ ..] => match rest.first() {
                Some(first) if first & 0x80 != 0 => Ok(rest),
                _ => Err(Malformed),
            },
            [first, ..] if first & 0x80 != 0 => Err(Malformed),
            _ => Ok(bytes),
        }
    }
}

/// A `name-list`, borrowed from its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameList<'a>(&'a str);

impl<'a> NameList<'a> {
    /// Returns the names, preferred first.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        // RFC 4251 §5 forbids empty names; they are skipped and do not end the session.
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// Whether the list has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|each| each == name)
    }

    /// Returns the list with its commas.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// Appends the fields of one message; implemented for [`Vec<u8>`] and [`BytesMut`].
pub trait Writer {
    /// Appends bytes without a length prefix.
    fn raw(&mut self, bytes: &[u8]);

    /// Appends a `byte` (RFC 4251 §5).
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// Appends a `uint32`, most significant byte first.
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends a `uint64`, most significant byte first.
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends a `boolean`: 1 for true, the only value that RFC 4251 §5 lets a sender use.
    fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Appends a `string`, cut to 4 GiB; no packet can hold nearly as much.
    fn string(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.raw(value.get(..length as usize).unwrap_or(value));
    }

    /// Appends a `name-list`: the names with commas between them. A name must not contain a comma.
    fn name_list<S: AsRef<str>>(&mut self, names: &[S]) {
        let joined = names
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<&str>>()
            .join(",");
        self.string(joined);
    }

    /// Appends an `mpint` with this big-endian magnitude, which may have leading zeros.
    fn mpint(&mut self, magnitude: &[u8]) {
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let value = magnitude.get(zeros..).unwrap_or_default();
        // A leading zero byte keeps a number with its top bit set from being negative.
        let sign = usize::from(value.first().is_some_and(|first| first & 0x80 != 0));
        self.u32(u32::try_from(value.len() + sign).unwrap_or(u32::MAX));
        if sign == 1 {
            self.u8(0);
        }
        self.raw(value);
    }
}

impl Writer for Vec<u8> {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Writer for BytesMut {
    fn raw(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mpint_examples_of_rfc_4251() {
        for (magnitude, wire) in [
            (&[][..], &[0, 0, 0, 0][..]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
        ] {
            let mut out = Vec::new();
            out.mpint(magnitude);
            assert_eq!(out, wire);
            assert_eq!(Reader::new(wire).mpint(), Ok(magnitude));
        }
    }

    #[test]
    fn negative_mpints_and_leading_zeros_are_refused() {
        assert!(Reader::new(&[0, 0, 0, 1, 0x80]).mpint().is_err());
        assert!(Reader::new(&[0, 0, 0, 2, 0, 0x7f]).mpint().is_err());
        assert!(Reader::new(&[0, 0, 0, 1, 0]).mpint().is_err());
    }

    proptest! {
        #[test]
        fn written_fields_are_read_back(a: u8, b: u32, c: u64, d: bool, s: Vec<u8>, t: String) {
            let mut out = Vec::new();
            out.u8(a);
            out.u32(b);
            out.u64(c);
            out.bool(d);
            out.string(&s);
            out.string(&t);
            out.name_list(&["one", "two"]);
            out.mpint(&s);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.u32(), Ok(b));
            prop_assert_eq!(reader.u64(), Ok(c));
            prop_assert_eq!(reader.bool(), Ok(d));
            prop_assert_eq!(reader.string(), Ok(&s[..]));
            prop_assert_eq!(reader.utf8(), Ok(&t[..]));
            prop_assert!(reader.name_list().is_ok_and(|names| names.iter().eq(["one", "two"])));
            let zeros = s.iter().take_while(|b| **b == 0).count();
            prop_assert_eq!(reader.mpint(), Ok(&s[zeros..]));
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let reader = Reader::new(&bytes);
            let _ = reader.clone().string();
            let _ = reader.clone().utf8();
            let _ = reader.clone().name_list().map(|names| names.iter().count());
            let _ = reader.clone().mpint();
            let _ = reader.clone().u64();
        }
    }
}
