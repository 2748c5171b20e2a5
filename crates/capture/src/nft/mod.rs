//! nf_tables over netlink: replace whole tables in one transaction, remove them, read them back.
//!
//! Only what capture and service addresses need is spoken, without the `nft` program. The messages are those of
//! `linux/netfilter/nf_tables.h`; a batch is applied by the kernel as a whole or not at all.

mod model;
mod transaction;
mod wire;

pub use model::{Action, Base, Chain, ChainKind, Hook, Match, Rule, Table, Transport};
pub use transaction::{InstalledChain, InstalledRule, InstalledTable, NftError, installed, remove, replace};
