//! What runs as sidecar: Lateen's own engine, or a real Envoy with Lateen as its agent.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What runs as sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Engine {
    /// The own one.
    #[default]
    Lateen,
    /// This Envoy.
    Envoy(PathBuf),
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "lateen" => Ok(Self::Lateen),
            Some(("envoy", path)) if !path.is_empty() => Ok(Self::Envoy(path.into())),
            _ => Err("expected lateen, or envoy=PATH with the path of an Envoy binary".to_owned()),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lateen => f.write_str("lateen"),
            Self::Envoy(path) => write!(f, "envoy={}", path.display()),
        }
    }
}

impl Engine {
    /// The engine as any process of the mesh finds it.
    ///
    /// # Errors
    /// If its binary is not there.
    pub(crate) fn resolved(self) -> Result<Self, String> {
        let Self::Envoy(path) = &self else { return Ok(self) };
        let found = path.canonicalize().map_err(|e| format!("--sidecar {self}: {e}"))?;
        if found.is_file() { Ok(Self::Envoy(found)) } else { Err(format!("--sidecar {self}: not a file")) }
    }

    /// The proxy's command.
    pub(crate) fn command(&self, gateway: bool) -> Vec<String> {
        let role = if gateway { "gateway" } else { "sidecar" };
        let mut command = ["lateen", "proxy", role].map(str::to_owned).to_vec();
        if let Self::Envoy(path) = self {
            command.extend(["--envoy".to_owned(), path.display().to_string()]);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_read_as_they_are_written() {
        for text in ["lateen", "envoy=/opt/envoy", "envoy=a=b"] {
            assert_eq!(text.parse::<Engine>().unwrap().to_string(), text);
        }
        for text in ["", "envoy", "envoy=", "Lateen", "nginx=/x"] {
            assert!(text.parse::<Engine>().unwrap_err().contains("envoy=PATH"), "{text}");
        }
        assert!(Engine::Envoy("/nonexistent/envoy".into()).resolved().unwrap_err().contains("/nonexistent/envoy"));
        assert_eq!(Engine::Lateen.command(false), ["lateen", "proxy", "sidecar"]);
        assert_eq!(Engine::Lateen.command(true), ["lateen", "proxy", "gateway"]);
    }
}
