//! From a new world to the proxies that it concerns.
//!
//! A change reaches a proxy as the names of those of its resources that may differ; the connection's own state machine
//! (`lateen_xds::server`) makes the smallest message of it. Proxies that get equal resources are one class: what differs is
//! worked out and encoded once for all of them.

mod affected;
mod convergence;
mod hub;
mod memo;
mod nds;
mod set;
mod shared;
mod view;

pub use convergence::Convergence;
pub use hub::{Hub, HubControlPlane};
pub use memo::{Memo, Reads, Work};
pub use view::View;

#[cfg(test)]
mod effect_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod work_tests;
