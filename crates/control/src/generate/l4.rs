//! A VirtualService's routes for connections: `tcp` and `tls`, for sidecars and gateways.

use super::destination::MergedRule;
use super::gateway;
use super::hash;
use super::mesh;
use super::proxy::Proxy;
use super::scope::destination_host;
use crate::names;
use crate::world::{Entry, World};
use ipnet::IpNet;
use lateen_model::dataplane::{HttpTunnel, TcpDestination, TcpProxy, TunnelMethod};
use lateen_model::resource::{
    Destination, L4MatchAttributes, MESH_GATEWAY, RouteDestination, StringMap, TcpRoute, TlsMatchAttributes, VirtualService,
    is_subset,
};
use std::net::IpAddr;
use std::time::Duration;

/// Where connections are routed.
#[derive(Clone, Copy, Debug)]
pub struct L4Context<'a> {
    /// The mesh.
    pub world: &'a World,
    /// By which proxy.
    pub proxy: &'a Proxy,
    /// The full name of the gateway that has the port; `None` in a sidecar.
    pub gateway: Option<&'a str>,
    /// The port that clients connect to.
    pub port: u16,
}

/// What the conditions of both kinds of routes have in common.
struct Conditions<'a> {
    port: Option<u32>,
    gateways: &'a [String],
    source_labels: &'a StringMap,
    source_namespace: &'a str,
}

impl L4Context<'_> {
    /// The conditions that do not depend on the connection; all of them must hold.
    fn holds(&self, conditions: &Conditions<'_>, namespace: &str) -> bool {
        let here = self.gateway.unwrap_or(MESH_GATEWAY);
        let gateways = conditions.gateways;
        conditions.port.is_none_or(|p| p == u32::from(self.port))
            && (gateways.is_empty() || gateways.iter().any(|g| gateway::full_name(g, namespace) == here))
            && (conditions.source_namespace.is_empty() || *conditions.source_namespace == *self.proxy.namespace)
            && is_subset(conditions.source_labels, &self.proxy.labels)
    }

    /// Whether a condition of a `tcp` route holds for this port and proxy.
    pub fn holds_tcp(&self, condition: &L4MatchAttributes, namespace: &str) -> bool {
        let conditions = Conditions {
            port: condition.port,
            gateways: &condition.gateways,
            source_labels: &condition.source_labels,
            source_namespace: &condition.source_namespace,
        };
        self.holds(&conditions, namespace)
    }

    /// Whether a condition of a `tls` route holds for this port and proxy.
    pub fn holds_tls(&self, condition: &TlsMatchAttributes, namespace: &str) -> bool {
        let conditions = Conditions {
            port: condition.port,
            gateways: &condition.gateways,
            source_labels: &condition.source_labels,
            source_namespace: &condition.source_namespace,
        };
        self.holds(&conditions, namespace)
    }

    /// Where a route's connections go. `None` if it leads nowhere, which validation refuses.
    pub fn proxy_to(&self, entry: &Entry<VirtualService>, route: &[RouteDestination]) -> Option<TcpProxy> {
        let access_log = mesh::access_log(self.world.mesh());
        if let [single] = route {
            let destination = single.destination.as_ref()?;
            let cluster = self.cluster(entry, destination);
            return Some(TcpProxy {
                stat_prefix: cluster.clone(),
                idle_timeout: self.idle_timeout(&cluster),
                hash_source_ip: hash::by_source_ip(self.world, self.proxy, &cluster),
                tunnel: self.tunnel(&cluster, true),
                destination: TcpDestination::Cluster(cluster),
                access_log,
            });
        }
        let weighted = route.iter().filter_map(|r| {
            let weight = u32::try_from(r.weight).ok().filter(|w| *w > 0)?;
            Some((self.cluster(entry, r.destination.as_ref()?), weight))
        });
        let weighted: Vec<_> = weighted.collect();
        if weighted.is_empty() {
            return None;
        }
        // As in Istio, one destination that goes by the client's address is enough.
        let hash_source_ip = weighted.iter().any(|(cluster, _)| hash::by_source_ip(self.world, self.proxy, cluster));
        let tunnel = weighted.first().and_then(|(cluster, _)| self.tunnel(cluster, false));
        let stat_prefix = format!("{}.{}", entry.name(), entry.namespace());
        Some(TcpProxy {
            stat_prefix,
            destination: TcpDestination::Weighted(weighted),
            idle_timeout: None,
            hash_source_ip,
            tunnel,
            access_log,
        })
    }

    fn cluster(&self, entry: &Entry<VirtualService>, destination: &Destination) -> String {
        let host = destination_host(self.world, destination, entry.namespace());
        let written = destination.port.as_ref().and_then(|p| u16::try_from(p.number).ok());
        let port = written.unwrap_or_else(|| match self.world.service(&host).map(|s| s.ports.as_slice()) {
            Some([only]) => only.number,
            _ => self.port,
        });
        names::outbound_cluster(port, &destination.subset, &host)
    }

    /// `tunnel` of the DestinationRule. As in Istio it holds for routes alone, and of several destinations that of the first one's
    /// service as a whole.
    fn tunnel(&self, cluster: &str, of_subset: bool) -> Option<HttpTunnel> {
        let name = names::OutboundName::parse(cluster)?;
        let rule =
            MergedRule::lookup_for(self.world, self.proxy, self.world.service_seen_from(&self.proxy.namespace, name.host)?);
        let written = rule.policy(name.port, if of_subset { name.subset } else { "" }).tunnel?;
        let bare = &written.target_host;
        let host = if bare.contains(':') { format!("[{bare}]") } else { bare.clone() };
        Some(HttpTunnel {
            target: format!("{host}:{}", written.target_port),
            method: if written.protocol == "POST" { TunnelMethod::Post } else { TunnelMethod::Connect },
        })
    }

    /// `connectionPool.tcp.idleTimeout` of the DestinationRule.
    fn idle_timeout(&self, cluster: &str) -> Option<Duration> {
        let name = names::OutboundName::parse(cluster)?;
        let rule =
            MergedRule::lookup_for(self.world, self.proxy, self.world.service_seen_from(&self.proxy.namespace, name.host)?);
        let tcp = rule.policy(name.port, name.subset).connection_pool?.tcp.as_ref()?;
        tcp.idle_timeout.map(Duration::from)
    }
}

/// Addresses as `destinationSubnets` has them; what cannot be read was refused when the manifest was read.
pub fn subnets(written: &[String]) -> Vec<IpNet> {
    let parse = |text: &String| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    written.iter().filter_map(parse).collect()
}

/// One way that connections to a service go in a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Server names; empty: any.
    pub server_names: Vec<String>,
    /// Destination addresses; empty: any.
    pub subnets: Vec<IpNet>,
    /// Where they go.
    pub proxy: TcpProxy,
}

/// The branches that `tls` routes of a service's VirtualServices make, in order; of equal conditions the first holds.
pub fn tls_branches(context: L4Context<'_>, entries: &[&Entry<VirtualService>]) -> Vec<Branch> {
    let mut out: Vec<Branch> = Vec::new();
    for entry in entries {
        for route in &entry.resource.spec.tls {
            for condition in route.matches.iter().filter(|m| context.holds_tls(m, entry.namespace())) {
                let Some(proxy) = context.proxy_to(entry, &route.route) else { continue };
                let subnets = subnets(&condition.destination_subnets);
                let mut names: Vec<String> = condition.sni_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
                // What an earlier route has taken, in whatever company, is its own.
                names.retain(|n| !out.iter().any(|b| b.server_names.contains(n) && b.subnets == subnets));
                names.sort();
                names.dedup();
                if !names.is_empty() {
                    out.push(Branch { server_names: names, subnets, proxy });
                }
            }
        }
    }
    out
}

/// The branches that `tcp` routes make: those for some addresses, then, if there is one, that for all others.
pub fn tcp_branches(context: L4Context<'_>, entries: &[&Entry<VirtualService>]) -> (Vec<Branch>, Option<TcpProxy>) {
    let mut out: Vec<Branch> = Vec::new();
    for entry in entries {
        for route in &entry.resource.spec.tcp {
            let Some(proxy) = context.proxy_to(entry, &route.route) else { continue };
            let mut wanted: Vec<IpNet> = Vec::new();
            match addresses(context, entry, route) {
                Addresses::None => continue,
                Addresses::All => return (out, Some(proxy)),
                Addresses::Some(nets) => wanted.extend(nets),
            }
            wanted.retain(|net| !out.iter().any(|b| b.subnets.contains(net)));
            wanted.sort();
            wanted.dedup();
            if !wanted.is_empty() {
                out.push(Branch { server_names: Vec::new(), subnets: wanted, proxy });
            }
        }
    }
    (out, None)
}

/// For which destination addresses a `tcp` route holds.
enum Addresses {
    None,
    All,
    Some(Vec<IpNet>),
}

fn addresses(context: L4Context<'_>, entry: &Entry<VirtualService>, route: &TcpRoute) -> Addresses {
    if route.matches.is_empty() {
        return Addresses::All;
    }
    let mut out = Vec::new();
    for condition in route.matches.iter().filter(|m| context.holds_tcp(m, entry.namespace())) {
        if condition.destination_subnets.is_empty() {
            return Addresses::All;
        }
        out.extend(subnets(&condition.destination_subnets));
    }
    if out.is_empty() { Addresses::None } else { Addresses::Some(out) }
}

/// Whether a `tcp` route holds at a gateway, where addresses have no meaning.
pub fn holds_at_gateway(context: L4Context<'_>, entry: &Entry<VirtualService>, route: &TcpRoute) -> bool {
    !matches!(addresses(context, entry, route), Addresses::None)
}
