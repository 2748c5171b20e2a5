//! The table of names (NDS) for a proxy's own DNS: services that its scope knows, with their addresses.

use super::memo::resource;
use super::view::View;
use lateen_xds::Resource;
use prost::Message;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// `istio.networking.nds.v1.NameTable`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NameTable {
    /// By full host name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) table: BTreeMap<String, NameInfo>,
}

/// `istio.networking.nds.v1.NameTable.NameInfo`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NameInfo {
    /// Where it is.
    #[prost(string, repeated, tag = "1")]
    pub(super) ips: Vec<String>,
    /// `Kubernetes`.
    #[prost(string, tag = "2")]
    pub(super) registry: String,
    /// The name without its namespace.
    #[prost(string, tag = "3")]
    pub(super) shortname: String,
    /// The namespace.
    #[prost(string, tag = "4")]
    pub(super) namespace: String,
}

/// The table of a view: one resource without a name. A service without any address is left out.
pub(super) fn table(view: &View) -> Option<Arc<Resource>> {
    let mut table = BTreeMap::new();
    for scoped in view.scope.visible() {
        let service = &scoped.service;
        let pods =
            || view.world.endpoints_of(service).map(|e| e.ready.iter().filter_map(|p| p.ip()).collect()).unwrap_or_default();
        let ips: Vec<IpAddr> = if service.headless { pods() } else { service.vips.clone() };
        if ips.is_empty() {
            continue;
        }
        let info = NameInfo {
            ips: ips.iter().map(IpAddr::to_string).collect(),
            registry: if service.entry.is_some() { "External" } else { "Kubernetes" }.to_owned(),
            shortname: service.name.to_string(),
            namespace: service.namespace.to_string(),
        };
        table.insert(service.host.to_string(), info);
    }
    Some(resource("", NameTable { table }.encode_to_vec().into()))
}
