//! The names of generated resources: Istio's (`pilot` naming), which tools and dashboards parse.

use std::net::IpAddr;

/// Traffic that must go nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Traffic to destinations that the mesh does not know.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// The routes of the port at which sidecars are HTTP proxies (`proxyHttpPort`).
pub const HTTP_PROXY_ROUTE: &str = "http_proxy";
/// Inbound traffic to ports that no service names.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The port that captured outbound traffic arrives at (`MeshConfig.proxyListenPort`).
pub const OUTBOUND_PORT: u16 = 15001;
/// The port that captured inbound traffic arrives at (`MeshConfig.proxyInboundListenPort`).
pub const INBOUND_PORT: u16 = 15006;

/// `outbound|80|v1|a.ns.svc.cluster.local`.
pub fn outbound_cluster(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `outbound_.80_.v1_.a.ns.svc.cluster.local`: the SNI between sidecars.
pub fn mtls_sni(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// `inbound|8080||`.
pub fn inbound_cluster(target_port: u16) -> String {
    format!("inbound|{target_port}||")
}

/// `0.0.0.0_80`, `10.1.2.3_443`.
pub fn listener(ip: IpAddr, port: u16) -> String {
    format!("{ip}_{port}")
}

/// `a.ns.svc.cluster.local:80`.
pub fn virtual_host(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// `/apis/networking.istio.io/v1/namespaces/ns/destination-rule/name`, as Istio names a resource in metadata.
pub fn config_source(kind: &str, namespace: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}")
}

/// An outbound cluster's name taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundName<'a> {
    /// The service's port.
    pub port: u16,
    /// Empty for the whole service.
    pub subset: &'a str,
    /// The service's host.
    pub host: &'a str,
}

impl<'a> OutboundName<'a> {
    /// Parses `outbound|PORT|SUBSET|HOST`, or `outbound_.PORT_.SUBSET_.HOST`.
    pub fn parse(name: &'a str) -> Option<Self> {
        if let Some(rest) = name.strip_prefix("outbound_.") {
            let (port, rest) = rest.split_once("_.")?;
            let (subset, host) = rest.split_once("_.")?;
            return (!host.is_empty()).then_some(Self { port: port.parse().ok()?, subset, host });
        }
        let mut parts = name.split('|');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("outbound"), Some(port), Some(subset), Some(host), None) if !host.is_empty() => {
                Some(Self { port: port.parse().ok()?, subset, host })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbound_names_round_trip() {
        let name = outbound_cluster(80, "v1", "a.ns.svc.cluster.local");
        assert_eq!(OutboundName::parse(&name), Some(OutboundName { port: 80, subset: "v1", host: "a.ns.svc.cluster.local" }));
        for bad in ["", "outbound", "outbound|80||", "outbound|x||a", "inbound|80||", "outbound|80||a|b", "outbound|70000||a"] {
            assert_eq!(OutboundName::parse(bad), None, "{bad}");
        }
    }
}
