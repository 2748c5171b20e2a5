//! Istio's table of names (`istio.networking.nds.v1`), by which a sidecar answers DNS.

use std::collections::BTreeMap;

/// `istio.networking.nds.v1.NameTable`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameTable {
    /// By full host name, in lower case, without the final dot. A wildcard's begins with `*`.
    #[prost(btree_map = "string, message", tag = "1")]
    pub table: BTreeMap<String, NameInfo>,
}

/// `istio.networking.nds.v1.NameTable.NameInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameInfo {
    /// Where it is.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// `Kubernetes` or `External`.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// The name without its namespace.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// The namespace.
    #[prost(string, tag = "4")]
    pub namespace: String,
}
