//! Bytes that travel in something else: the PROXY protocol before them, an HTTP tunnel around them.

use serde::Serialize;

/// Version of the PROXY protocol's header (HAProxy's proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A connection's bytes go through an HTTP proxy (`TcpProxy.tunneling_config`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpTunnel {
    /// Where the tunnel leads, `host:port`.
    pub target: String,
    /// How it is asked for.
    pub method: TunnelMethod,
}

/// How a tunnel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelMethod {
    /// `CONNECT`: any 2xx opens it.
    Connect,
    /// `POST /`, whose body and whose answer's body are the bytes (`use_post`): a 200 opens it.
    Post,
}
