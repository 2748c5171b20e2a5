//! A response head, for every kind of request: no panic, and one framing.
#![no_main]

use lateen_proxy::http::{Head, KnownHeader};
use lateen_proxy::http1::{Framing, Limits, RequestKind, parse_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    for kind in [RequestKind::Ordinary, RequestKind::Head, RequestKind::Connect, RequestKind::Upgrade] {
        let mut head = Head::new();
        let Ok(Some(parsed)) = parse_response(raw, &mut head, Limits::default(), kind) else { continue };
        assert!(raw[..parsed.consumed].ends_with(b"\r\n\r\n"));
        assert!((100..1000).contains(&head.status()));
        assert!(!head.contains(KnownHeader::TransferEncoding) && !head.contains(KnownHeader::Connection));
        assert!(parsed.meta.framing != Framing::UntilClose || !parsed.meta.keep_alive);
        assert!(parsed.meta.framing != Framing::Tunnel || kind.opens_tunnel(head.status()));
    }
});
