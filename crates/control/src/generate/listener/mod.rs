//! Listeners (LDS).

mod egress;
mod entry;
pub mod gateway;
mod http;
mod http_proxy;
pub mod inbound;
mod l4;
pub mod outbound;

use crate::names;
use lateen_model::dataplane::Direction;
use lateen_model::dataplane::{
    AccessLog, FilterChain, FilterChainMatch, NetworkFilter, StatsFilter, TcpDestination, TcpProxy, Terminal,
};

/// Application protocols of plain HTTP as the inspector finds them; HTTP/1.0 only for proxies that serve it.
fn plain_http(http10: bool) -> Vec<String> {
    let mut out = vec!["http/1.1".to_owned(), "h2c".to_owned()];
    if http10 {
        out.insert(0, "http/1.0".to_owned());
    }
    out
}

/// The statistics filter of a direction. Only a server may take the service's name from the host header: a client knows it
/// from its cluster.
fn stats(direction: Direction) -> StatsFilter {
    StatsFilter { direction, host_header_fallback: direction == Direction::Inbound }
}

/// Bytes to a cluster.
fn tcp_proxy(cluster: &str, access_log: &[AccessLog]) -> TcpProxy {
    TcpProxy {
        stat_prefix: cluster.to_owned(),
        destination: TcpDestination::Cluster(cluster.to_owned()),
        idle_timeout: None,
        hash_source_ip: false,
        tunnel: None,
        access_log: access_log.to_vec(),
    }
}

/// A chain in plain text that passes bytes on.
fn tcp_chain(name: &str, matches: FilterChainMatch, direction: Direction, proxy: TcpProxy) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        matches,
        tls: None,
        network_filters: vec![NetworkFilter::Stats(stats(direction))],
        terminal: Terminal::Tcp(proxy),
    }
}

/// Connections to the proxy's own port would come back for ever: they end here.
fn black_hole(name: &str, port: u16, direction: Direction) -> FilterChain {
    let matches = FilterChainMatch { destination_port: Some(port), ..FilterChainMatch::default() };
    tcp_chain(name, matches, direction, tcp_proxy(names::BLACK_HOLE, &[]))
}
