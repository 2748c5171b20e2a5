//! What two proxies tell each other, and what a hostile one may try.

use lateen_observe::peer_metadata::{MAX_FRAME, MAX_HEADER, PeerMetadata, PeerMetadataError};
use proptest::prelude::*;

fn metadata() -> impl Strategy<Value = PeerMetadata> {
    let text = || "\\PC{0,20}";
    let labels = proptest::collection::btree_map("[a-z./-]{1,20}", text(), 0..5);
    (text(), text(), text(), text(), text(), labels).prop_map(|(id, name, namespace, owner, workload_name, labels)| {
        PeerMetadata { id, name, namespace, owner, workload_name, cluster_id: "Kubernetes".into(), labels }
    })
}

#[test]
fn the_header_is_istios() {
    // Written out by hand from the definition of google.protobuf.Struct: {"NAME":"a","NAMESPACE":"b"}.
    let bytes = b"\x0a\x0b\x0a\x04NAME\x12\x03\x1a\x01a\x0a\x10\x0a\x09NAMESPACE\x12\x03\x1a\x01b";
    let expected = PeerMetadata { name: "a".into(), namespace: "b".into(), ..PeerMetadata::default() };
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    assert_eq!(expected.to_header(), encoded);
    assert_eq!(PeerMetadata::from_header(encoded.as_bytes()), Ok(expected.clone()));
    assert_eq!(PeerMetadata::from_header(encoded.trim_end_matches('=').as_bytes()), Ok(expected));
}

#[test]
fn canonical_names_fall_back() {
    let mut metadata = PeerMetadata { workload_name: "web-v1".into(), ..PeerMetadata::default() };
    assert_eq!((metadata.canonical_service(), metadata.canonical_revision()), ("web-v1", "latest"));
    for (label, value) in [("app", "a"), ("app.kubernetes.io/name", "b"), ("service.istio.io/canonical-name", "c")] {
        metadata.labels.insert(label.into(), value.into());
        assert_eq!(metadata.canonical_service(), value);
    }
    for (label, value) in [("version", "1"), ("app.kubernetes.io/version", "2"), ("service.istio.io/canonical-revision", "3")] {
        metadata.labels.insert(label.into(), value.into());
        assert_eq!(metadata.canonical_revision(), value);
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    assert_eq!(PeerMetadata::from_header(&vec![b'A'; MAX_HEADER + 1]), Err(PeerMetadataError::TooLarge(MAX_HEADER + 1)));
    let mut frame = vec![0x3d, 0x23, 0x04, 0x67];
    frame.extend_from_slice(&u32::try_from(MAX_FRAME + 1).expect("small").to_be_bytes());
    assert_eq!(PeerMetadata::from_frame(&frame), Err(PeerMetadataError::TooLarge(MAX_FRAME + 1)));
}

#[test]
fn what_is_no_frame_is_known_at_its_first_wrong_byte() {
    assert_eq!(PeerMetadata::from_frame(b""), Ok(None));
    assert_eq!(PeerMetadata::from_frame(&[0x3d, 0x23]), Ok(None));
    assert!(PeerMetadata::from_frame(b"G").is_err());
    assert_eq!(PeerMetadata::from_frame(b"GET /"), Err(PeerMetadataError::Magic(u32::from_be_bytes(*b"GET "))));
    assert_eq!(PeerMetadata::from_frame(&[0x3d, 0x23, 0x04, 0x67, 0, 0, 0, 2, 0xff, 0xff]), Err(PeerMetadataError::Struct));
    // An Any of nothing has no Struct in it.
    assert_eq!(PeerMetadata::from_frame(&[0x3d, 0x23, 0x04, 0x67, 0, 0, 0, 0]), Err(PeerMetadataError::Struct));
}

proptest! {
    #[test]
    fn headers_read_back(metadata in metadata()) {
        let read = PeerMetadata::from_header(metadata.to_header().as_bytes());
        prop_assert_eq!(read, Ok(PeerMetadata { id: String::new(), ..metadata }));
    }

    #[test]
    fn frames_read_back_in_any_pieces(metadata in metadata(), payload in proptest::collection::vec(any::<u8>(), 0..20)) {
        let mut sent = metadata.to_frame();
        let length = sent.len();
        sent.extend_from_slice(&payload);
        for cut in 0..length {
            prop_assert_eq!(PeerMetadata::from_frame(&sent[..cut]), Ok(None));
        }
        prop_assert_eq!(PeerMetadata::from_frame(&sent), Ok(Some((metadata, length))));
    }

    #[test]
    fn hostile_bytes_are_an_error_at_most(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(u8, u8)>()) {
        let _ = PeerMetadata::from_header(&bytes);
        let _ = PeerMetadata::from_frame(&bytes);
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
        let _ = PeerMetadata::from_header(encoded.as_bytes());
        let mut framed = vec![0x3d, 0x23, 0x04, 0x67, 0, 0, 0, u8::try_from(bytes.len()).expect("at most 200")];
        framed.extend_from_slice(&bytes);
        let _ = PeerMetadata::from_frame(&framed);
        let mut frame = PeerMetadata { name: "x".into(), ..PeerMetadata::default() }.to_frame();
        let at = usize::from(flip.0) % frame.len();
        frame[at] = flip.1;
        let _ = PeerMetadata::from_frame(&frame);
    }
}

/// A value nested deeper than any honest one must not use up the stack.
#[test]
fn deep_nesting_is_an_error() {
    let mut value: Vec<u8> = Vec::new();
    for _ in 0..2_000 {
        // Value { list_value { values: [value] } }
        let mut list = vec![0x0a];
        prost::encoding::encode_varint(value.len() as u64, &mut list);
        list.extend_from_slice(&value);
        let mut outer = vec![0x32];
        prost::encoding::encode_varint(list.len() as u64, &mut outer);
        outer.extend_from_slice(&list);
        value = outer;
    }
    let mut entry = b"\x0a\x01k\x12".to_vec();
    prost::encoding::encode_varint(value.len() as u64, &mut entry);
    entry.extend_from_slice(&value);
    let mut message = vec![0x0a];
    prost::encoding::encode_varint(entry.len() as u64, &mut message);
    message.extend_from_slice(&entry);
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &message);
    assert!(encoded.len() < MAX_HEADER);
    assert_eq!(PeerMetadata::from_header(encoded.as_bytes()), Err(PeerMetadataError::Struct));
}
