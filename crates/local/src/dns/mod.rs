//! The mesh's DNS server: names of services, as in a cluster. It knows those of ServiceEntries too, and no others, for the mesh has no way
//! out.

mod entries;
mod server;
mod zone;

pub(crate) use server::serve;
pub(crate) use zone::{CONTROL_HOST, DOMAIN, OwnName, Pods, Zone};
