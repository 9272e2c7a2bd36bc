//! The data types of RFC 4251 §5: reading with every length checked, and writing.

use bytes::{BufMut, BytesMut};

/// A field that is cut short or does not hold what its type promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub struct Malformed;

/// Reads the fields of one message, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Fails unless everything was read.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// So many bytes as they are.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    /// So many bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = tail;
        Ok(*head)
    }

    /// `byte`.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    /// `uint32`.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// `uint64`.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// `boolean`: all values but 0 are true.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        self.u8().map(|byte| byte != 0)
    }

    /// `string`.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.bytes(length)
    }

    /// A `string` that holds UTF-8.
    pub fn utf8(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// `name-list`: ASCII names parted by commas.
    pub fn name_list(&mut self) -> Result<NameList<'a>, Malformed> {
        let text = self.utf8()?;
        if text.is_ascii() {
            Ok(NameList(text))
        } else {
            Err(Malformed)
        }
    }

    /// `mpint` that is not negative: its magnitude without leading zeros.
    pub fn mpint(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.string()?;
        match bytes {
            [] => Ok(bytes),
            [0, rest @ ..] => match rest.first() {
                Some(first) if first & 0x80 != 0 => Ok(rest),
                _ => Err(Malformed),
            },
            [first, ..] if first & 0x80 != 0 => Err(Malformed),
            _ => Ok(bytes),
        }
    }
}

/// A `name-list` as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameList<'a>(&'a str);

impl<'a> NameList<'a> {
    /// The names, best first.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.split(',').filter(|name| !name.is_empty())
    }

    /// Whether a name is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|each| each == name)
    }

    /// The list as it stood on the wire.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// Writes the fields of one message.
pub trait Writer {
    /// Appends bytes as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// `byte`.
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// `uint32`.
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// `uint64`.
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// `boolean`.
    fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// `string`; what goes beyond 4 GiB is cut off, as no message comes near.
    fn string(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.raw(value.get(..length as usize).unwrap_or(value));
    }

    /// `name-list`.
    fn name_list<S: AsRef<str>>(&mut self, names: &[S]) {
        let joined = names
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<&str>>()
            .join(",");
        self.string(joined);
    }

    /// `mpint` from a magnitude, big end first.
    fn mpint(&mut self, magnitude: &[u8]) {
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let value = magnitude.get(zeros..).unwrap_or_default();
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
    fn negative_and_padded_mpints_are_refused() {
        assert!(Reader::new(&[0, 0, 0, 1, 0x80]).mpint().is_err());
        assert!(Reader::new(&[0, 0, 0, 2, 0, 0x7f]).mpint().is_err());
        assert!(Reader::new(&[0, 0, 0, 1, 0]).mpint().is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u8, b: u32, c: u64, d: bool, s: Vec<u8>, t: String) {
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
