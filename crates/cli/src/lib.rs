//! Commands for people that ask a running mesh and show what it answers.
//!
//! Every command has `-o json`, which prints what the mesh said as it is; tables are for reading and may change.

pub mod analyze;
pub mod config;
pub mod get;
mod table;
mod yaml;
