//! The mesh on one machine: Kubernetes manifests as pods in network namespaces.
//!
//! Three kinds of processes: the *launcher* is what people start (`lateen up`); the *supervisor* is the first process of
//! namespaces made for the mesh, and runs everything in it; between it and each process stands [`init`], which enters and
//! arranges that process's own namespaces. When the supervisor ends, the kernel removes all of it.
//!
//! | module | what it does |
//! |---|---|
//! | [`launcher`], [`state_dir`] | start and stop from outside; the mesh's name, lock and files |
//! | [`supervisor`], [`mesh`] | the mesh's life; what its tasks share |
//! | [`resources`], [`controller`], [`rollout`], [`injection`] | manifests → pods wanted → pods made and stopped |
//! | [`pod`], [`container`], [`sidecar`], [`engine`], [`proxy_config`], [`probe`], [`prober`] | the life of one pod |
//! | [`environment`], [`volumes`], [`dns_files`] | what containers see |
//! | [`publisher`], [`endpoints`], [`ipam`], [`dns`], [`control`] | who learns what there is |
//! | [`spawn`], [`init`] | processes |
//! | [`api`], [`exec`], [`find`], [`status`], [`announce`], [`client`], [`cli`] | the command line, and what `lateen up` says |

mod announce;
mod api;
mod capturing;
pub mod cli;
mod client;
mod container;
mod control;
mod controller;
mod dns;
mod dns_files;
mod endpoints;
mod engine;
mod environment;
mod exec;
mod find;
mod gateways;
mod host_ports;
mod init;
mod injection;
mod ipam;
mod launcher;
mod mesh;
mod names;
mod pod;
mod probe;
mod prober;
mod proxy_config;
mod publisher;
mod report;
mod resources;
mod rollout;
mod sidecar;
mod spawn;
mod state_dir;
mod status;
mod supervisor;
mod unix_http;
mod volumes;

pub use client::Client;
pub use gateways::GatewayPort;
pub use report::coloured;
pub use resources::manifest_files;
pub use state_dir::MeshName;
pub use status::{ControlStatus, PodStatus, Status};
