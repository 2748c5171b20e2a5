//! A request head: no panic, no bare line end accepted, and what is accepted reads the same after it has been written.
#![no_main]

use lateen_proxy::http::{Head, KnownHeader};
use lateen_proxy::http1::{Limits, parse_request, write_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let mut head = Head::new();
    let Ok(Some(parsed)) = parse_request(raw, &mut head, Limits::default(), true) else { return };
    let consumed = &raw[..parsed.consumed];
    assert!(consumed.ends_with(b"\r\n\r\n"));
    assert!(consumed.iter().enumerate().all(|(i, &b)| b != b'\n' || consumed[i - 1] == b'\r'));
    assert!(head.get_all(KnownHeader::Host).count() <= 1);
    assert!(!head.contains(KnownHeader::TransferEncoding) && !head.contains(KnownHeader::Connection));
    if head.authority().is_none() {
        return;
    }
    let mut out = Vec::new();
    write_request(&mut out, &head, parsed.meta.framing);
    let mut again = Head::new();
    let reparsed = parse_request(&out, &mut again, Limits { max_head_bytes: 1 << 20, max_headers: 256 }, false);
    let reparsed = reparsed.expect("what was written is valid").expect("and complete");
    assert_eq!(reparsed.consumed, out.len());
    assert_eq!(reparsed.meta.framing, parsed.meta.framing);
    assert_eq!((again.method(), again.path_and_query(), again.authority()), (head.method(), head.path_and_query(), head.authority()));
});
