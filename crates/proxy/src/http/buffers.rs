//! Buffers of a worker, lent to a connection only while it has something in them. An idle connection holds none, and a busy
//! worker allocates none.

use bytes::BytesMut;
use std::cell::RefCell;

/// Capacity of a lent buffer in bytes: one read or one write of it carries nearly every request and response whole.
pub(crate) const LENT: usize = 16 * 1024;

/// Buffers of each kind that a worker keeps for the next connection; more are freed.
const KEPT: usize = 16;

thread_local! {
    static READ: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty read buffer with at least [`LENT`] bytes of room.
pub(crate) fn take_read() -> BytesMut {
    READ.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(LENT))
}

/// Gives back a read buffer whose content is done with. It is freed if a slice of it still lives or if it has grown.
pub(crate) fn give_read(buffer: &mut BytesMut) {
    let mut buffer = std::mem::take(buffer);
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    READ.with_borrow_mut(|kept| {
        if kept.len() < KEPT && buffer.try_reclaim(LENT) && buffer.capacity() <= 2 * LENT {
            kept.push(buffer);
        }
    });
}

/// An empty write buffer with at least [`LENT`] bytes of room.
pub(crate) fn take_write() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(LENT))
}

/// Gives back a write buffer. It is freed if it has grown.
pub(crate) fn give_write(buffer: &mut Vec<u8>) {
    let mut buffer = std::mem::take(buffer);
    if buffer.capacity() < LENT || buffer.capacity() > 2 * LENT {
        return;
    }
    buffer.clear();
    WRITE.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_whole() {
        let mut buffer = take_read();
        buffer.extend_from_slice(b"abc");
        let slice = buffer.split_to(2).freeze();
        drop(slice);
        let address = buffer.as_ptr() as usize - 2;
        give_read(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        let again = take_read();
        assert!(again.is_empty() && again.capacity() >= LENT);
        assert_eq!(again.as_ptr() as usize, address, "the same memory is lent again");
    }

    #[test]
    fn a_buffer_that_is_still_referred_to_is_not_lent() {
        let mut buffer = take_read();
        buffer.extend_from_slice(b"abc");
        let slice = buffer.split_to(2).freeze();
        give_read(&mut buffer);
        let mut other = take_read();
        other.extend_from_slice(b"zzz");
        assert_eq!(&slice[..], b"ab");
    }

    #[test]
    fn grown_buffers_are_freed() {
        let mut buffer = Vec::with_capacity(4 * LENT);
        buffer.push(1);
        give_write(&mut buffer);
        assert!(take_write().capacity() <= 2 * LENT);
    }
}
