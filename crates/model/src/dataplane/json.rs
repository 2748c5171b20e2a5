//! How values look in JSON that people read (`serde::Serialize` of the model).

use super::matcher::SafeRegex;
use super::route::RetryOn;
use super::secret::SecretKind;
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::time::Duration;

/// Seconds with a unit, as protobuf's JSON has them: `1.5s`.
pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = value.as_secs().to_string();
    if value.subsec_nanos() > 0 {
        let fraction = format!("{:09}", value.subsec_nanos());
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('s');
    serializer.serialize_str(&text)
}

/// As [`duration`], or null.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
pub(super) fn optional_duration<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_none(),
    }
}

impl Serialize for SafeRegex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.pattern())
    }
}

impl Serialize for RetryOn {
    /// A list of conditions.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl Serialize for SecretKind {
    /// Never holds a private key.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Certificate { chain_pem, .. } => {
                map.serialize_entry("certificate_chain", &String::from_utf8_lossy(chain_pem))?;
                map.serialize_entry("private_key", "[hidden]")?;
            }
            Self::Roots { trusted_ca_pem, crl_pem } => {
                map.serialize_entry("trusted_ca", &String::from_utf8_lossy(trusted_ca_pem))?;
                map.serialize_entry("crl", &String::from_utf8_lossy(crl_pem))?;
            }
        }
        map.end()
    }
}
