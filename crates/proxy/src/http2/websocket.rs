//! Upgrades over HTTP/2 (RFC 8441): an extended `CONNECT` there is a `GET` with `upgrade` in HTTP/1 and in our heads.

use crate::http::{Head, InvalidHead, KnownHeader, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Turns the head of an extended `CONNECT` into that of an upgrade. A WebSocket handshake needs a key in HTTP/1.
///
/// # Errors
/// If the protocol is not a token.
pub(super) fn to_upgrade(head: &mut Head, protocol: &str) -> Result<(), InvalidHead> {
    if protocol.is_empty() || !protocol.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/')) {
        return Err(InvalidHead::Method);
    }
    head.set_method("GET")?;
    head.set(KnownHeader::Upgrade, Value::from_checked(protocol.as_bytes()));
    head.remove(KnownHeader::ContentLength);
    if protocol.eq_ignore_ascii_case("websocket") {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        head.set(KnownHeader::SecWebsocketKey, Value::from_checked(key.as_bytes()));
    }
    Ok(())
}

/// The response to an extended `CONNECT`: a 101 becomes a 200.
pub(super) fn from_switching(head: &Head) -> Head {
    let mut head = head.clone();
    if head.status() == 101 {
        let set = head.set_status(200);
        debug_assert!(set.is_ok(), "200 is a status");
        head.remove(KnownHeader::Upgrade);
        head.remove(KnownHeader::SecWebsocketAccept);
    }
    head
}

/// The response to an upgrade that was sent as an extended `CONNECT`: a 2xx becomes a 101, with the proof of the key.
pub(super) fn to_switching(head: &mut Head, upgrade: &Upgrade) {
    if !(200..300).contains(&head.status()) {
        return;
    }
    let set = head.set_status(101);
    debug_assert!(set.is_ok(), "101 is a status");
    head.remove(KnownHeader::ContentLength);
    head.set(KnownHeader::Upgrade, Value::from_checked(&upgrade.protocol));
    if let Some(key) = &upgrade.key {
        head.set(KnownHeader::SecWebsocketAccept, Value::from_checked(accept(key).as_bytes()));
    }
}

/// What the response to an upgrade needs of the request.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) protocol: Vec<u8>,
    key: Option<Vec<u8>>,
}

impl Upgrade {
    pub(super) fn of(head: &Head) -> Option<Self> {
        let protocol = head.upgrade()?.to_vec();
        Some(Self { protocol, key: head.get(KnownHeader::SecWebsocketKey).map(<[u8]>::to_vec) })
    }
}

/// `sec-websocket-accept` (RFC 6455 §4.2.2).
fn accept(key: &[u8]) -> String {
    STANDARD.encode(sha1(&[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()))
}

/// SHA-1 (RFC 3174). The handshake uses it to prove that a server speaks WebSocket, not for security.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(64) {
        let mut w = [0_u32; 80];
        for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |n, &b| (n << 8) | u32::from(b));
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (s, v) in state.iter_mut().zip([a, b, c, d, e]) {
            *s = s.wrapping_add(v);
        }
    }
    let mut digest = [0; 20];
    for (out, word) in digest.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha1() {
        let hex = |m: &[u8]| sha1(m).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(two_blocks), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        // Every length around the padding's edges; the values are those of coreutils' sha1sum.
        assert_eq!(hex(&[b'a'; 55]), "c1c8bbdc22796e28c0e15163d20899b65621d65a");
        assert_eq!(hex(&[b'a'; 64]), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    }

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
