//! The PROXY protocol before the bytes of a transport socket.

use super::cx::{Cx, Result, fields};
use crate::pb::{core, extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol};
use core::transport_socket::ConfigType;
use lateen_model::dataplane as m;

const URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// What a socket says first, and the socket in it.
pub(super) type Unwrapped = (Option<m::ProxyProtocolVersion>, core::TransportSocket);

/// Takes a socket out of the one that says first whose connection it is; any other socket is as it was.
pub(super) fn unwrap(cx: &mut Cx, socket: core::TransportSocket) -> Result<Unwrapped> {
    match socket.config_type {
        Some(ConfigType::TypedConfig(config)) if config.type_url == URL => {
            cx.at("typed_config", |cx| transport(cx, cx.message(&config.value)?))
        }
        _ => Ok((None, socket)),
    }
}

fn transport(cx: &mut Cx, value: proxy_protocol::ProxyProtocolUpstreamTransport) -> Result<Unwrapped> {
    fields!(cx, value => proxy_protocol::ProxyProtocolUpstreamTransport {
        use: [config, transport_socket],
        refuse: [allow_unspecified_address, tlv_as_pool_key],
        ignore: [],
    });
    let version = cx.at("config", |cx| version(cx, config.unwrap_or_default()))?;
    let inner = cx.required("transport_socket", transport_socket, |_, socket| Ok(socket))?;
    Ok((Some(version), inner))
}

fn version(cx: &mut Cx, value: core::ProxyProtocolConfig) -> Result<m::ProxyProtocolVersion> {
    use core::proxy_protocol_config::Version;
    fields!(cx, value => core::ProxyProtocolConfig {
        use: [version],
        refuse: [pass_through_tlvs, added_tlvs],
        ignore: [],
    });
    match Version::try_from(version) {
        Ok(Version::V1) => Ok(m::ProxyProtocolVersion::V1),
        Ok(Version::V2) => Ok(m::ProxyProtocolVersion::V2),
        Err(_) => cx.fail_at("version", format!("{version} is not known; V1 and V2 are")),
    }
}
