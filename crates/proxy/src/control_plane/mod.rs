//! What the proxy asks of its control plane: configuration over ADS, certificates from the CA.

pub(crate) mod ads;
mod ca;
pub(crate) mod channel;
pub(crate) mod identity;
