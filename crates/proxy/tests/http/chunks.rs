//! The chunked coding.

use crate::support::{read_all, serve_bytes};
use lateen_proxy::http::{Head, StreamError};
use lateen_proxy::http1::{ChunkDecoder, Limits, Step};
use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

/// The payload, the trailers, and how many bytes they took.
type Decoded = (Vec<u8>, Option<Box<Head>>, usize);

/// Decodes with pieces of these sizes, each offered together with what was not consumed.
fn decode(raw: &[u8], splits: &[usize]) -> Result<Decoded, StreamError> {
    let mut decoder = ChunkDecoder::new(Limits::default());
    let (mut at, mut offered, mut payload) = (0, 0, Vec::new());
    let mut splits = splits.iter().copied().chain(std::iter::repeat(1));
    loop {
        match decoder.step(&raw[at..offered])? {
            Step::NeedMore if offered == raw.len() => return Err(StreamError::Closed),
            Step::NeedMore => offered = raw.len().min(offered + splits.next().unwrap_or(1).max(1)),
            Step::Size { len, .. } => at += len,
            Step::DataEnd => at += 2,
            Step::Data(n) => {
                payload.extend_from_slice(&raw[at..at + n]);
                at += n;
            }
            Step::End(n, trailers) => return Ok((payload, trailers, at + n)),
        }
    }
}

#[test]
fn every_split_gives_the_same() {
    let raw = b"5\r\nhello\r\n0000000000000001\r\n,\r\nA;a=b;c=\"d e\"\r\n0123456789\r\n6 ;x\r\n world\r\n0\r\nGrpc-Status: 0\r\nX: y\r\n\r\nNEXT";
    let expected = b"hello,0123456789 world";
    for first in 0..raw.len() {
        for second in [1, 7, raw.len()] {
            let (payload, trailers, consumed) = decode(raw, &[first, second]).unwrap();
            assert_eq!((&payload[..], consumed), (&expected[..], raw.len() - 4));
            assert_eq!(trailers.unwrap().len(), 2);
        }
    }
    for end in 0..raw.len() - 4 {
        assert_eq!(decode(&raw[..end], &[]).unwrap_err(), StreamError::Closed, "cut at {end}");
    }
}

#[test]
fn bad_chunks_are_refused_however_they_arrive() {
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    let endless_extension = format!("1;{}", "x".repeat(300));
    let many_extensions = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(90));
    let long_trailers = format!("0\r\na: {}\r\n\r\n", "x".repeat(61 * 1024));
    let table: &[(&str, &str)] = &[
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a letter", "g\r\nabc\r\n"),
        ("0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a minus", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a space first", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a space after", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a tab after", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("two numbers", "3 3\r\nabc\r\n0\r\n\r\n"),
        ("an underscore", "3_0\r\nabc\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("more than 64 bits", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("bare LF after a size", "3\nabc\r\n0\r\n\r\n"),
        ("bare LF after an extension", "3;a\nabc\r\n0\r\n\r\n"),
        ("bare CR after a size", "3\rabc\r\n0\r\n\r\n"),
        ("CR CR LF", "3\r\r\nabc\r\n0\r\n\r\n"),
        ("bare LF after a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("no line end after a chunk", "3\r\nabc0\r\n\r\n"),
        ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a NUL in an extension", "3;\0\r\nabc\r\n0\r\n\r\n"),
        ("a CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("an extension without a semicolon", "3 a\r\nabc\r\n0\r\n\r\n"),
        ("a long extension", &long_extension),
        ("an extension without an end", &endless_extension),
        ("many extensions", &many_extensions),
        ("bare LF at the end", "0\r\n\n"),
        ("bare CR at the end", "0\r\n\rX"),
        ("a bad trailer", "0\r\na b\r\n\r\n"),
        ("a folded trailer", "0\r\na: b\r\n c\r\n\r\n"),
        ("long trailers", &long_trailers),
    ];
    for (what, raw) in table {
        for splits in [&[][..], &[raw.len()], &[3, 4, 5]] {
            match decode(raw.as_bytes(), splits) {
                Err(StreamError::Malformed(_) | StreamError::HeadTooLarge) => {}
                other => panic!("{what} with {splits:?}: {other:?}"),
            }
        }
    }
    assert!(decode(b"ffffffffffffffff\r\nabc", &[100]).is_err_and(|e| e == StreamError::Closed), "64 bits are a size");
}

/// A body in chunks, with the payload it carries.
fn bodies() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let chunk =
        (prop::collection::vec(any::<u8>(), 1..200), prop::sample::select(vec!["", ";a", " ; b=c", ";\"q\""]), any::<bool>());
    let large = prop::collection::vec(any::<u8>(), 5000..9000).prop_map(|d| (d, "", false));
    let chunk = chunk.boxed().prop_union(large.boxed());
    (prop::collection::vec(chunk, 0..12), any::<bool>()).prop_map(|(chunks, trailers)| {
        let (mut raw, mut payload) = (Vec::new(), Vec::new());
        for (data, extension, zeros) in chunks {
            raw.extend_from_slice(format!("{}{:X}{extension}\r\n", if zeros { "00" } else { "" }, data.len()).as_bytes());
            raw.extend_from_slice(&data);
            raw.extend_from_slice(b"\r\n");
            payload.extend_from_slice(&data);
        }
        raw.extend_from_slice(if trailers { b"0\r\nx-t: 1\r\n\r\n" } else { b"0\r\n\r\n" });
        (raw, payload)
    })
}

proptest! {
    #[test]
    fn random_splits_give_the_same((raw, payload) in bodies(), splits in prop::collection::vec(1_usize..2000, 0..40)) {
        let (decoded, _, consumed) = decode(&raw, &splits).unwrap();
        prop_assert_eq!(decoded, payload);
        prop_assert_eq!(consumed, raw.len());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(raw in prop::collection::vec(prop::sample::select(b"0123aAfF;= \t\r\nxX:\0".to_vec()), 0..80)) {
        let _ = decode(&raw, &[]);
        let _ = decode(&raw, &[raw.len()]);
    }

    #[test]
    fn chunks_passed_on_unopened_carry_the_same((raw, payload) in bodies(), splits in prop::collection::vec(1_usize..3000, 0..20)) {
        let request = [b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", &raw[..], b"GET"].concat();
        for unopened in [false, true] {
            let (body, trailers, rest) = read_all(serve_bytes(&request, &splits), unopened);
            // A frame of chunks lacks the last one, which the writer makes.
            let decoded = if unopened { decode(&[&body[..], b"0\r\n\r\n"].concat(), &[body.len() + 5]).unwrap().0 } else { body.clone() };
            prop_assert_eq!(&decoded, &payload);
            prop_assert_eq!(trailers, raw.ends_with(b"x-t: 1\r\n\r\n"));
            prop_assert_eq!(&rest[..], &b"GET"[..]);
            prop_assert_eq!(unopened && body.windows(1).any(|w| w == b";") && !payload.contains(&b';'), false, "extensions stay here");
        }
    }
}
