//! Bytes to text: UTF-8, UTF-16 with a mark or without, and Windows-1252 where old programs of Windows write it.

use encoding_rs::{UTF_16BE, UTF_16LE, WINDOWS_1252};

use crate::exit::Exit;

/// What bytes that are not UTF-8 mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// An error.
    Refuse,
    /// Windows-1252, the code page of Western Windows.
    Windows1252,
}

/// Decodes a file.
///
/// # Errors
/// The text is in none of the encodings.
pub(crate) fn decode(bytes: &[u8], fallback: Fallback) -> Result<String, Exit> {
    let wrong = |what: &str| {
        Err(Exit::usage(format!("the file is {what}"))
            .hint("give the file that the program exported, as it is"))
    };
    let utf16 = match bytes {
        [0xff, 0xfe, rest @ ..] => Some((UTF_16LE, rest)),
        [0xfe, 0xff, rest @ ..] => Some((UTF_16BE, rest)),
        // regedit writes a mark, other tools do not: the first characters are ASCII.
        [first, 0, third, 0, ..] if *first != 0 && *third != 0 => Some((UTF_16LE, bytes)),
        _ => None,
    };
    let text = if let Some((encoding, rest)) = utf16 {
        match encoding.decode_without_bom_handling_and_without_replacement(rest) {
            Some(text) => text.into_owned(),
            None => return wrong("not valid UTF-16"),
        }
    } else {
        let rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match (std::str::from_utf8(rest), fallback) {
            (Ok(text), _) => text.to_owned(),
            (Err(_), Fallback::Windows1252) => WINDOWS_1252
                .decode_without_bom_handling(rest)
                .0
                .into_owned(),
            (Err(_), Fallback::Refuse) => return wrong("not text in UTF-8"),
        }
    };
    if text.contains('\0') {
        return wrong("not a text file: it has NUL bytes");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, mark: bool) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter()
            .chain(text.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect()
    }

    #[test]
    fn text_of_windows_is_decoded() {
        let ansi = Fallback::Windows1252;
        for (bytes, text) in [
            (utf16("Windows é", true), "Windows é"),
            (utf16("Windows", false), "Windows"),
            (b"\xfe\xff\0a\0b".to_vec(), "ab"),
            (b"\xef\xbb\xbfa".to_vec(), "a"),
            (b"caf\xe9".to_vec(), "café"),
            ("é".as_bytes().to_vec(), "é"),
            (Vec::new(), ""),
        ] {
            assert_eq!(decode(&bytes, ansi).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_text_is_one_error() {
        for (bytes, part) in [
            (&b"caf\xe9"[..], "not text in UTF-8"),
            (b"\xff\xfe\0\xd8", "not valid UTF-16"),
            (b"\xff\xfea", "not valid UTF-16"),
            (b"a\0\0b", "NUL"),
        ] {
            let exit = decode(bytes, Fallback::Refuse).unwrap_err();
            assert!(exit.message.unwrap().contains(part), "{bytes:?}");
            assert_eq!(exit.code, 2);
        }
    }
}
