//! Keeping bytes from outside inside their field.

use crate::request_id::HEX;

/// Appends text for a plain line: printable characters as they are; quotes, backslashes, control characters and bytes that
/// are not UTF-8 as `\xHH`, which no reader of the format takes for an end of a field or a line.
pub(super) fn plain(out: &mut Vec<u8>, value: &[u8]) {
    let value = copy_ordinary(out, value);
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '"' || c == '\\' || is_control(c) {
                hex(out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        hex(out, chunk.invalid());
    }
}

/// Appends what stands before the first byte that needs a closer look, and gives the rest: most values have none.
fn copy_ordinary<'a>(out: &mut Vec<u8>, value: &'a [u8]) -> &'a [u8] {
    let special = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    let (ordinary, rest) = value.split_at(value.iter().position(special).unwrap_or(value.len()));
    out.extend_from_slice(ordinary);
    rest
}

/// Control characters, and the two separators that some readers take for line ends.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
    }
}

/// Appends text inside a JSON string (RFC 8259), without its quotes; bytes that are not UTF-8 become U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, value: &[u8]) {
    let value = copy_ordinary(out, value);
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c if is_control(c) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let [high, low] = unit.to_be_bytes();
                        let digits = [high >> 4, high & 0xf, low >> 4, low & 0xf];
                        out.extend_from_slice(b"\\u");
                        out.extend(digits.map(|digit| HEX[usize::from(digit)]));
                    }
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn plain(value: &[u8]) -> String {
        let mut out = Vec::new();
        super::plain(&mut out, value);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn plain_text() {
        assert_eq!(plain(b"a b/c?d=e"), "a b/c?d=e");
        assert_eq!(plain("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(plain(b"x\" 200\r\n[forged"), "x\\x22 200\\x0d\\x0a[forged");
        assert_eq!(plain(b"\xff\\"), "\\xff\\x5c");
        assert_eq!(plain("\u{85}\u{2028}".as_bytes()), "\\xc2\\x85\\xe2\\x80\\xa8");
    }

    proptest! {
        #[test]
        fn plain_text_stays_in_its_field(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = plain(&value);
            prop_assert!(!text.contains(['"', '\n', '\r']) && !text.chars().any(char::is_control), "{text}");
        }

        #[test]
        fn json_strings_read_back(value in any::<String>()) {
            let mut out = vec![b'"'];
            super::json(&mut out, value.as_bytes());
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("a JSON string"), value);
        }
    }
}
