//! The PROXY protocol before the bytes of a transport socket.

use crate::any::any;
use crate::pb::{core, extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol};
use lateen_model::dataplane::ProxyProtocolVersion;

const SOCKET: &str = "envoy.transport_sockets.upstream_proxy_protocol";

/// The socket inside of one that says first whose connection it is, where that is asked for.
pub(super) fn wrap(version: Option<ProxyProtocolVersion>, inner: core::TransportSocket) -> core::TransportSocket {
    use core::proxy_protocol_config::Version;
    let Some(version) = version else { return inner };
    let version = match version {
        ProxyProtocolVersion::V1 => Version::V1,
        ProxyProtocolVersion::V2 => Version::V2,
    };
    let config = proxy_protocol::ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig { version: version.into(), ..Default::default() }),
        transport_socket: Some(inner),
        ..Default::default()
    };
    core::TransportSocket {
        name: SOCKET.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&config))),
    }
}
