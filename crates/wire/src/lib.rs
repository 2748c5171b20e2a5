//! The data plane's model as Envoy's protobuf, in both directions.
//!
//! [`encode`] writes resources that a real Envoy accepts, with the names and type URLs that Istio uses. [`decode`] is total
//! on hostile bytes: it yields a model, or an error that carries the path of the field. A field that Lateen does not
//! support is an error where leaving it out would change behaviour, and is listed beside the model ([`Ignored`]) where it
//! would not. [`json`] renders the model for people.

mod any;
pub mod decode;
#[cfg(test)]
mod decode_tests;
pub mod encode;
mod error;
mod istio;
pub mod json;
mod pb;
mod rate_limit;
#[cfg(test)]
mod roundtrip_tests;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod type_url;

pub use encode::{EncodeOptions, ProxyFlavor};
pub use error::{DecodeError, Decoded, Ignored, Path};
