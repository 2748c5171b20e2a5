//! Which protocol a service's port speaks, as Istio selects it.

use lateen_model::resource::TransportProtocol;

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, perhaps upgraded by clients.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// TLS with HTTP inside: opaque to a sidecar.
    Https,
    /// TLS.
    Tls,
    /// Bytes.
    Tcp,
    /// MongoDB: bytes.
    Mongo,
    /// MySQL: bytes.
    Mysql,
    /// Redis: bytes.
    Redis,
    /// Not captured.
    Udp,
    /// Not declared: found out on each connection.
    Auto,
}

/// Ports of server-first protocols, on which nothing is sniffed.
const WELL_KNOWN_TCP: [i64; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// `appProtocol` wins over the prefix of the port's name; without either, well-known ports are TCP and the rest is
    /// sniffed.
    pub fn select(transport: TransportProtocol, app_protocol: Option<&str>, name: &str, port: i64) -> Self {
        if transport != TransportProtocol::Tcp {
            return Self::Udp;
        }
        let declared = match app_protocol {
            Some("kubernetes.io/h2c") => Some(Self::Http2),
            Some("kubernetes.io/ws") => Some(Self::Http),
            Some("kubernetes.io/wss") => Some(Self::Https),
            Some(text) => Self::from_prefix(text),
            None => Self::from_prefix(name),
        };
        declared.unwrap_or(if WELL_KNOWN_TCP.contains(&port) { Self::Tcp } else { Self::Auto })
    }

    fn from_prefix(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == "grpc-web" || text.starts_with("grpc-web-") {
            return Some(Self::GrpcWeb);
        }
        Some(match text.split('-').next().unwrap_or_default() {
            "http" | "http_proxy" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "mysql" => Self::Mysql,
            "redis" => Self::Redis,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// HTTP in the clear.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// HTTP/2 without an upgrade.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// gRPC of either kind.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    /// TLS from the application.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Found out on each connection.
    pub fn is_auto(self) -> bool {
        self == Self::Auto
    }

    /// As the registry's debug page shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "Mongo",
            Self::Mysql => "MySQL",
            Self::Redis => "Redis",
            Self::Udp => "UDP",
            Self::Auto => "UnsupportedProtocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        use TransportProtocol::{Tcp, Udp};
        for (transport, app, name, port, expected) in [
            (Tcp, None, "http", 80, Protocol::Http),
            (Tcp, None, "http-web", 80, Protocol::Http),
            (Tcp, None, "HTTP-web", 80, Protocol::Http),
            (Tcp, None, "httpx", 80, Protocol::Auto),
            (Tcp, None, "grpc-web", 80, Protocol::GrpcWeb),
            (Tcp, None, "grpc-web-x", 80, Protocol::GrpcWeb),
            (Tcp, None, "grpc-webby", 80, Protocol::Grpc),
            (Tcp, None, "grpc", 80, Protocol::Grpc),
            (Tcp, None, "", 80, Protocol::Auto),
            (Tcp, None, "", 3306, Protocol::Tcp),
            (Tcp, None, "db", 27017, Protocol::Tcp),
            (Tcp, None, "http", 3306, Protocol::Http),
            (Tcp, Some("tcp"), "http", 80, Protocol::Tcp),
            (Tcp, Some("kubernetes.io/h2c"), "tcp", 80, Protocol::Http2),
            (Tcp, Some("kubernetes.io/ws"), "tcp", 80, Protocol::Http),
            (Tcp, Some("kubernetes.io/wss"), "http", 80, Protocol::Https),
            (Tcp, Some("kubernetes.io/else"), "http", 80, Protocol::Auto),
            (Udp, Some("http"), "http", 53, Protocol::Udp),
            (Tcp, None, "tls-x", 443, Protocol::Tls),
        ] {
            assert_eq!(Protocol::select(transport, app, name, port), expected, "{app:?} {name} {port}");
        }
    }
}
