//! One normal form of a path, made before anything looks at it: authorization, routing and the upstream then see the same text
//! (CVE-2021-31920, CVE-2021-29492, CVE-2021-39156, CVE-2020-8595).

use lateen_model::dataplane::PathNormalization;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Why a request's path is refused (with 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `#fragment` never belongs into a request (RFC 9112 section 3.2.1).
    #[error("the path has a '#'")]
    Fragment,
    /// A request's target must begin with `/` (or be `*`).
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    /// A byte that is no visible ASCII character; it must be escaped (RFC 3986 section 2).
    #[error("the path has a byte that must be percent-encoded")]
    Character,
    /// An escaped NUL, where escapes are made normal: programs disagree about what follows it.
    #[error("the path has %00")]
    Nul,
}

/// The normal form of `path_and_query`, borrowed where nothing changes. The query, from the first `?`, is never changed.
///
/// The normal form is that of Envoy (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`), which Istio's modes
/// stand for: escapes of unreserved characters are decoded, characters that do not belong into a path are escaped, `\` becomes
/// `/`, and dot segments are removed, also those with a path parameter (`..;x`, which some servers take for `..`). The case of
/// escapes that stay is kept, because routes and policies compare them as they are written: `%2f` and `%2F` are told apart, and who
/// wants them to be one chooses [`PathNormalization::DecodeAndMergeSlashes`].
///
/// `*` (for `OPTIONS`) is left as it is. With [`PathNormalization::None`] only the checks for `#`, for the leading `/` and for
/// characters remain.
///
/// # Errors
/// See [`PathError`]; the request must be answered with 400.
pub fn normalize(path_and_query: &str, mode: PathNormalization) -> Result<Cow<'_, str>, PathError> {
    if !path_and_query.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(PathError::Character);
    }
    if memchr::memchr(b'#', path_and_query.as_bytes()).is_some() {
        return Err(PathError::Fragment);
    }
    if path_and_query == "*" {
        return Ok(Cow::Borrowed(path_and_query));
    }
    if !path_and_query.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let (path, query) = path_and_query.split_at(memchr::memchr(b'?', path_and_query.as_bytes()).unwrap_or(path_and_query.len()));
    if mode == PathNormalization::None || is_normal(path, mode) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    let mut out = String::with_capacity(path_and_query.len());
    rewrite(path, mode, &mut out)?;
    out.push_str(query);
    Ok(Cow::Owned(out))
}

/// Whether [`rewrite`] would change nothing.
fn is_normal(path: &str, mode: PathNormalization) -> bool {
    let merges = mode != PathNormalization::Base;
    let mut rest = path.as_bytes();
    // Byte by byte: slashes are too frequent for a vectorised search to gain anything.
    while let Some((byte, after)) = rest.split_first() {
        match byte {
            b'/' if merges && after.first() == Some(&b'/') => return false,
            b'/' if after.first() == Some(&b'.') && begins_with_dot_segment(after) => return false,
            // A lone `%` is left as it is.
            b'%' if escaped_byte(rest).is_some_and(|byte| byte == 0 || decodes(byte, mode)) => return false,
            byte if must_be_escaped(*byte) || *byte == b'\\' => return false,
            _ => {}
        }
        rest = after;
    }
    true
}

/// Visible characters that do not belong into a path (RFC 3986 section 3.3, but `[` and `]`, which are in use).
fn must_be_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn begins_with_dot_segment(rest: &[u8]) -> bool {
    let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    dots(&rest[..end]) > 0
}

/// 1 for `.`, 2 for `..`, with or without a path parameter; else 0.
fn dots(segment: &[u8]) -> usize {
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    match name {
        b"." => 1,
        b".." => 2,
        _ => 0,
    }
}

/// The byte that `%XX` at the beginning of `text` stands for.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digit = |i: usize| text.get(i).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(1)? * 16 + digit(2)?).ok()
}

/// Whether an escape is replaced by the byte that it stands for: unreserved characters (RFC 3986 section 6.2.2.2), and slashes
/// where asked for.
fn decodes(byte: u8, mode: PathNormalization) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || (mode == PathNormalization::DecodeAndMergeSlashes && matches!(byte, b'/' | b'\\'))
}

/// Escapes and backslashes, then dot segments, then slashes: Envoy's order.
fn rewrite(path: &str, mode: PathNormalization, out: &mut String) -> Result<(), PathError> {
    let unescaped = unescape(path, mode)?;
    let start = out.len();
    remove_dot_segments(&unescaped, out);
    if mode != PathNormalization::Base {
        let mut previous = '\0';
        let merged: String = out[start..]
            .chars()
            .filter(|c| {
                let keep = *c != '/' || previous != '/';
                previous = *c;
                keep
            })
            .collect();
        out.truncate(start);
        out.push_str(&merged);
    }
    Ok(())
}

fn unescape(path: &str, mode: PathNormalization) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut lone = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let mut next = after;
        match (byte, escaped_byte(rest)) {
            (b'%', Some(0)) => return Err(PathError::Nul),
            (b'%', Some(decoded)) => {
                next = &rest[3..];
                if decodes(decoded, mode) {
                    out.push(if decoded == b'\\' { '/' } else { char::from(decoded) });
                } else {
                    out.push('%');
                    out.extend([char::from(rest[1]), char::from(rest[2])]);
                }
            }
            (b'%', None) => {
                lone.push(out.len());
                out.push('%');
            }
            (b'\\', _) => out.push('/'),
            (byte, _) if must_be_escaped(*byte) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
            (byte, _) => out.push(char::from(*byte)),
        }
        rest = next;
    }
    // What was decoded must not complete an escape that a lone `%` before it has begun (`%2%65`): the next reader would decode a
    // second time.
    for at in lone.into_iter().rev() {
        if escaped_byte(&out.as_bytes()[at..]).is_some() {
            out.insert_str(at + 1, "25");
        }
    }
    Ok(out)
}

/// RFC 3986 section 5.2.4 on an absolute path.
fn remove_dot_segments(path: &str, out: &mut String) {
    let start = out.len();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment.as_bytes()) {
            0 => {
                out.push('/');
                out.push_str(segment);
            }
            n => {
                if n == 2 {
                    let parent = out[start..].rfind('/').unwrap_or(0);
                    out.truncate(start + parent);
                }
                if last {
                    out.push('/');
                }
            }
        }
    }
    if out.len() == start {
        out.push('/');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Off};
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (input, mode, expected) in [
            ("/", Base, "/"),
            ("/a/b?x=/../y", Base, "/a/b?x=/../y"),
            ("/a/./b", Base, "/a/b"),
            ("/a/../b", Base, "/b"),
            ("/a/..", Base, "/"),
            ("/a/b/..", Base, "/a/"),
            ("/a/.", Base, "/a/"),
            ("/../../x", Base, "/x"),
            ("/a/%2e%2E/b", Base, "/b"),
            ("/..%2Fa", Base, "/..%2Fa"),
            ("/a\\b\\..\\c", Base, "/a/c"),
            ("/%7euser/%41", Base, "/~user/A"),
            ("/a%2fb%5cc", Base, "/a%2fb%5cc"),
            ("/%21%24%3a%5b", Base, "/%21%24%3a%5b"),
            ("/a/..;/b", Base, "/b"),
            ("/a/.;x/b", Base, "/a/b"),
            ("/a/%2e%2e;y/b", Base, "/b"),
            ("/a/..%3b/b", Base, "/a/..%3b/b"),
            ("/a;x=1/b;", Base, "/a;x=1/b;"),
            ("/a\"<b>|^`{c}[d]", Base, "/a%22%3Cb%3E%7C%5E%60%7Bc%7D[d]"),
            ("/a!$&'()*+,;=:@b", Base, "/a!$&'()*+,;=:@b"),
            ("/%%65", Base, "/%e"),
            ("//admin", Base, "//admin"),
            ("/...", Base, "/..."),
            ("/100%", Base, "/100%"),
            ("/%zz", Base, "/%zz"),
            ("/%2%65%2%65/x", Base, "/%252e%252e/x"),
            ("/%252e%252e/x", Base, "/%252e%252e/x"),
            ("//admin///x", MergeSlashes, "/admin/x"),
            ("/a//../b", MergeSlashes, "/a/b"),
            ("/a%2f%2fb", MergeSlashes, "/a%2f%2fb"),
            ("/a%2F%2fb", DecodeAndMergeSlashes, "/a/b"),
            ("/a%5c..%5Cadmin", DecodeAndMergeSlashes, "/admin"),
            ("/%252fadmin", DecodeAndMergeSlashes, "/%252fadmin"),
            ("/a/../b%2e", Off, "/a/../b%2e"),
            ("*", Base, "*"),
        ] {
            assert_eq!(normalize(input, mode).as_deref(), Ok(expected), "{input} {mode:?}");
        }
    }

    #[test]
    fn unchanged_is_borrowed() {
        for input in ["/", "/api/v1/items?id=1&x=%2e", "/a%20b", "//x", "/100%"] {
            assert!(matches!(normalize(input, Base), Ok(Cow::Borrowed(_))), "{input}");
        }
    }

    #[test]
    fn refused() {
        for (input, expected) in [
            ("/a#b", PathError::Fragment),
            ("/a?x#b", PathError::Fragment),
            ("a", PathError::NotAbsolute),
            ("", PathError::NotAbsolute),
            ("/a%00b", PathError::Nul),
            ("**", PathError::NotAbsolute),
            ("/é", PathError::Character),
            ("/a b", PathError::Character),
            ("/a?\t", PathError::Character),
        ] {
            assert_eq!(normalize(input, Base), Err(expected), "{input}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_a_fixed_point(
            path in r#"/([a.%/;"\\]|%2[eEfF]|%5[cC]|%6[15]|\.\.|2|5|e){0,24}(\?[a/.%]{0,4})?"#,
            mode in prop::sample::select(vec![Base, MergeSlashes, DecodeAndMergeSlashes]),
        ) {
            if let Ok(once) = normalize(&path, mode) {
                let twice = normalize(&once, mode).expect("a normal form is valid");
                prop_assert_eq!(&twice, &once);
                prop_assert!(matches!(twice, Cow::Borrowed(_)));
                let before_query = once.split('?').next().unwrap_or_default();
                prop_assert!(before_query.split('/').all(|s| dots(s.as_bytes()) == 0), "{} has dot segments", once);
                prop_assert!(!before_query.contains('\\'));
            }
        }
    }
}
