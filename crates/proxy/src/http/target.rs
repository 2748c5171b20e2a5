//! The parts of a request line and of framing headers that both versions check by the same rules.

use super::name::is_token;

/// Whether this is a method (RFC 9110 §9.1): a token.
pub(crate) fn is_method(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token(b))
}

/// Whether this is an origin-form target (RFC 9112 §3.2.1): `/`, then visible ASCII. A fragment is refused, for it would let
/// two parties see two paths.
pub(crate) fn is_origin_form(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'/') && bytes.iter().all(|&b| matches!(b, 0x21..=0x7e) && b != b'#')
}

/// Whether this is a host with an optional port (RFC 3986 §3.2 without user information): a name, an IPv4 address or an IPv6
/// address in brackets.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let (host_ok, port) = if let Some(rest) = bytes.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let address = &rest[..end];
        let ok = !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
        match &rest[end + 1..] {
            [] => (ok, None),
            [b':', port @ ..] => (ok, Some(port)),
            _ => return false,
        }
    } else {
        match memchr::memchr(b':', bytes) {
            Some(at) => (is_reg_name(&bytes[..at]), Some(&bytes[at + 1..])),
            None => (is_reg_name(bytes), None),
        }
    };
    host_ok && port.is_none_or(is_port)
}

/// `unreserved`, `pct-encoded` and `sub-delims` of RFC 3986 §3.2.2, at least one.
fn is_reg_name(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|&b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'_' | b'~' | b'%')
                || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
        })
}

/// A port may be empty (RFC 3986 §3.2.3), else is a number up to 65535.
fn is_port(bytes: &[u8]) -> bool {
    bytes.len() <= 5
        && bytes.iter().all(u8::is_ascii_digit)
        && bytes.iter().fold(0_u32, |n, b| n * 10 + u32::from(b - b'0')) <= u32::from(u16::MAX)
}

/// A `content-length`: digits alone, no sign, no list, no overflow.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0_u64, |n, &b| {
        if !b.is_ascii_digit() {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in ["a", "a.b:80", "a:", "127.0.0.1:65535", "[::1]", "[::1]:80", "a_b-c~.%41", "xn--a"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:65536",
            "a:123456",
            "a:b",
            "a:1:2",
            "a b",
            "u@h",
            "a/b",
            "a?b",
            "a#b",
            "[::1",
            "::1]",
            "[fe80::1%25eth0]",
            "[]",
            "[::1]x",
            "[g::]",
            "[::1]:x",
            "a\\b",
            "a\"",
            "é",
            "a\0",
            "a,b\r",
            "a:+1",
            "<a>",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn targets() {
        for good in ["/", "/a?b=c&d", "/%2f//a", "/a\"<>|", "/a;b"] {
            assert!(is_origin_form(good.as_bytes()), "{good}");
        }
        for bad in ["", "a", "/a b", "/a#b", "/a\t", "/\x7f", "/é", "*"] {
            assert!(!is_origin_form(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"007"), Some(7));
        assert_eq!(parse_length(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "+1",
            "-1",
            "1,1",
            "1 ",
            " 1",
            "0x1",
            "18446744073709551616",
            "99999999999999999999",
            "000000000000000000001",
            "1.0",
        ] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad}");
        }
    }
}
