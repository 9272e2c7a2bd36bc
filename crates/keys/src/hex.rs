//! Hexadecimal text.

/// Decodes an even number of hexadecimal digits. `None` if there is any other character.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end();
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    odd.is_empty().then_some(())?;
    pairs.iter().map(|pair| byte(pair)).collect()
}
