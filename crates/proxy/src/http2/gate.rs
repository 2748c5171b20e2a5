//! Holds back the bytes of a tunnel until the response has opened it.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Open,
    Refused,
}

/// What became of a tunnel that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Open,
    Refused,
}

/// Shared by who decides and who waits, both in one task or at least in one worker.
#[derive(Clone, Debug)]
pub(super) struct Gate(Rc<RefCell<State>>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(State::Waiting(None))))
    }

    pub(super) fn decide(&self, passage: Passage) {
        let next = match passage {
            Passage::Open => State::Open,
            Passage::Refused => State::Refused,
        };
        if let State::Waiting(Some(waker)) = self.0.replace(next) {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Passage> {
        match &mut *self.0.borrow_mut() {
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Open => Poll::Ready(Passage::Open),
            State::Refused => Poll::Ready(Passage::Refused),
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(*self.0.borrow(), State::Refused)
    }
}
