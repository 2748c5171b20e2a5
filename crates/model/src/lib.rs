//! The resources as people write them, and the model that Lateen's parts share.
//!
//! Nothing here knows protobuf, an async runtime, or a file: text comes in as `&str`, and every type is plain data with
//! checked constructors. The control plane turns [`resource`]s into the [`dataplane`] configuration; `wire` carries it as
//! Envoy's xDS; the proxy compiles it.

pub mod analysis;
pub mod dataplane;
pub mod identity;
pub mod manifest;
pub mod mesh_config;
pub mod place;
pub mod resource;
