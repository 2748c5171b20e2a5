//! A chunked body: no panic, and the same result however it is split. The first byte says how.
#![no_main]

use lateen_proxy::http1::{ChunkDecoder, Limits, Step};
use libfuzzer_sys::fuzz_target;

/// The payload and how many bytes it took, `None` if the body is not complete; or an error.
fn decode(raw: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let mut decoder = ChunkDecoder::new(Limits::default());
    let (mut at, mut offered, mut payload) = (0, 0, Vec::new());
    loop {
        match decoder.step(&raw[at..offered]).map_err(drop)? {
            Step::NeedMore if offered == raw.len() => return Ok(None),
            Step::NeedMore => offered = raw.len().min(offered + piece),
            Step::Size { len, .. } => at += len,
            Step::DataEnd => at += 2,
            Step::Data(n) => {
                payload.extend_from_slice(&raw[at..at + n]);
                at += n;
            }
            Step::End(n, _) => return Ok(Some((payload, at + n))),
        }
    }
}

fuzz_target!(|raw: &[u8]| {
    let Some((&first, raw)) = raw.split_first() else { return };
    let whole = decode(raw, raw.len().max(1));
    assert_eq!(decode(raw, usize::from(first).max(1)), whole);
    assert_eq!(decode(raw, 1), whole);
});
