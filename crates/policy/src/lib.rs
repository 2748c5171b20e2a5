//! Pure decisions of the data plane: match a route, authorize, pick an endpoint, eject a host, retry.
//!
//! Everything here is a function over borrowed data: no I/O, no runtime, no clock of its own. What the control plane sends
//! ([`lateen_model::dataplane`]) is compiled once into immutable tables; a request then asks them questions through the
//! views of [`request`]. State that workers share (ejections, circuit breakers) is made of atomics; state that a worker
//! keeps for itself (a round-robin cursor) is a separate value. Nothing locks, except workers that make the table of a
//! consistent choice, which happens when hosts come or go.
//!
//! | question | module |
//! |---|---|
//! | what is this path, in its one normal form? | [`path`] |
//! | which filter chain serves this connection? | [`filter_chain`] |
//! | who is the client? | [`forwarded`] |
//! | may it? | [`rbac`] |
//! | too often? | [`rate_limit`] |
//! | which route, which cluster, which changes? | [`route`], [`template`] |
//! | how long may it take? | [`timeout`] |
//! | is there room? | [`breaker`] |
//! | which endpoint? | [`balance`], [`hash`], [`outlier`] |
//! | again? | [`retry`] |

pub mod balance;
pub mod breaker;
pub mod cors;
mod error;
pub mod fault;
pub mod filter_chain;
pub mod forwarded;
pub mod hash;
pub mod header_match;
pub mod outlier;
pub mod path;
pub mod rate_limit;
pub mod rbac;
pub mod request;
pub mod retry;
pub mod route;
pub mod template;
pub mod timeout;
mod weighted;

pub use error::CompileError;
pub use request::{ConnectionView, Peer, RequestView};
pub use weighted::WeightedIndex;
