//! The mesh's DNS server: names of services, as in a cluster. Names of ServiceEntries are the sidecars' to answer, and there are no
//! others, for the mesh has no way out.

mod server;
mod zone;

pub(crate) use server::serve;
pub(crate) use zone::{CONTROL_HOST, DOMAIN, Zone};
