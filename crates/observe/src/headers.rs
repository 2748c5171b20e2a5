//! How this crate reads headers, whichever codec holds them.

/// Headers that can be looked up by lower-case name.
pub trait HeaderLookup {
    /// The `index`-th value of a name, in order of arrival; [`None`] past the last one.
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]>;

    /// The first value of a name.
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.nth(name, 0)
    }

    /// The first value of a name, if it is UTF-8 text.
    fn first_text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.first(name)?).ok()
    }
}

impl HeaderLookup for http::HeaderMap {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        self.get_all(name).iter().nth(index).map(http::HeaderValue::as_bytes)
    }
}

/// For heads that are already gone, and for tests: names are compared without regard to case.
impl HeaderLookup for [(&str, &[u8])] {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        self.iter().filter(|(held, _)| held.eq_ignore_ascii_case(name)).nth(index).map(|(_, value)| *value)
    }
}

/// No headers.
impl HeaderLookup for () {
    fn nth(&self, _: &str, _: usize) -> Option<&[u8]> {
        None
    }
}
