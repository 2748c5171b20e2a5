//! The demonstration: a mesh on this machine from the project's own manifests, and a tour that sends real traffic through it
//! and says, feature by feature, what was expected and what was observed.
//!
//! The tour knows the mesh only as people do: through `lateen exec`, the sidecars' admin pages, the access log, and edits of
//! the manifests. So it is also a check of the whole, `lateen demo --check`.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command |
//! | [`manifests`] | the YAML of `demo/`, written where the mesh reads it and where people can edit it |
//! | [`running`] | the process `lateen up`, started and ended |
//! | [`mesh`], [`load`], [`access_log`], [`metrics`] | what the tour asks of the running mesh |
//! | [`step`], [`chance`] | what was expected, what was observed, and what chance allows |
//! | [`tour`] | the features, a file each |

mod access_log;
pub mod chance;
mod cli;
mod load;
mod manifests;
mod mesh;
mod metrics;
mod running;
mod step;
mod tour;

pub use cli::Demo;
