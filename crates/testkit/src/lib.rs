//! What Lateen's tests share: certificates good and bad, a real Envoy, a running mesh, and HTTP
//! clients polite and hostile. For tests only: failures panic where a test could do nothing else.

pub mod certificates;
pub mod envoy;
pub mod http_client;
pub mod lab;
pub mod prometheus;
pub mod raw_http;
