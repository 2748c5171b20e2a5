//! Batches sent to the kernel, their acknowledgements, and dumps.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use thiserror::Error;

use crate::socket::set_int;

use super::model::{Chain, Rule, Table};
use super::wire::{self, Head, Message, NFGEN, Writer, attribute, attributes, i32_at, messages, text};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DEL_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FAMILY_INET: u8 = 1;
const FAMILY_UNSPEC: u8 = 0;
/// `NFT_USERDATA_MAXLEN`; a comment has a type and a length byte before, and a NUL after it.
const COMMENT_MAX: usize = 256 - 3;

/// Why the kernel's tables could not be changed or read.
#[derive(Debug, Error)]
pub enum NftError {
    /// The netlink socket failed.
    #[error("netlink socket for nf_tables: {0}{hint}", hint = hint(.0))]
    Socket(#[source] io::Error),
    /// The kernel refused one part of a transaction; nothing was changed.
    #[error("the kernel refused {part}: {error}{detail}{hint}", hint = hint(.error))]
    Refused {
        /// The table, chain or rule in question.
        part: String,
        /// What it said.
        #[source]
        error: io::Error,
        /// Its own words, if it had any.
        detail: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (CAP_NET_ADMIN over the network namespace is needed)",
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => " (this kernel has no nf_tables)",
        Some(libc::EOPNOTSUPP) => " (this kernel lacks a part of nf_tables: NAT for the inet family needs Linux 5.2)",
        Some(libc::EMSGSIZE) => " (the transaction is larger than the socket's send buffer; raise net.core.wmem_max)",
        _ => "",
    }
}

/// Replaces tables of the `inet` family, in one transaction: afterwards each is exactly as given, whatever was there
/// before, and no packet has seen a half-made state.
///
/// # Errors
/// See [`NftError`]; on an error nothing was changed.
pub fn replace(tables: &[Table]) -> Result<(), NftError> {
    let mut batch = Batch::default();
    for table in tables {
        batch.drop_table(&table.name);
        batch.table(NEW_TABLE, CREATE, &table.name);
        for chain in &table.chains {
            batch.chain(table, chain);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                batch.rule(&table.name, &chain.name, rule);
            }
        }
    }
    batch.commit()
}

/// Removes tables of the `inet` family, in one transaction. One that is not there is no error.
///
/// # Errors
/// See [`NftError`].
pub fn remove(names: &[&str]) -> Result<(), NftError> {
    let mut batch = Batch::default();
    for name in names {
        batch.drop_table(name);
    }
    batch.commit()
}

/// A transaction under construction, with what each message stands for.
#[derive(Default)]
struct Batch {
    body: Writer,
    parts: Vec<String>,
    /// Where the last message starts in `body`.
    last_at: usize,
}

impl Batch {
    fn head(&mut self, kind: u16, flags: u16, part: String) -> Head {
        self.parts.push(part);
        self.last_at = self.body.len();
        // Sequence 1 is the batch's begin.
        let seq = u32::try_from(self.parts.len()).unwrap_or(u32::MAX - 1) + 1;
        Head { kind, flags: REQUEST | flags, seq, family: FAMILY_INET, resource: 0 }
    }

    /// Removes a table whether it is there or not: adding an existing table is no error, so add first.
    fn drop_table(&mut self, name: &str) {
        self.table(NEW_TABLE, CREATE, name);
        self.table(DEL_TABLE, 0, name);
    }

    fn table(&mut self, kind: u16, flags: u16, name: &str) {
        let head = self.head(kind, flags, format!("table inet {name}"));
        self.body.message(head, |w| w.string(1, name));
    }

    fn chain(&mut self, table: &Table, chain: &Chain) {
        let head = self.head(NEW_CHAIN, CREATE, format!("chain inet {} {}", table.name, chain.name));
        self.body.message(head, |w| {
            w.string(1, &table.name);
            w.string(3, &chain.name);
            if let Some(base) = chain.base {
                w.nested(4, |w| {
                    w.be32(1, base.hook.number());
                    w.attr(2, &base.priority.to_be_bytes());
                });
                w.string(7, base.kind.name());
            }
        });
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let words = rule.to_string();
        let head = self.head(NEW_RULE, CREATE | APPEND, format!("rule `{words}` in inet {table} {chain}"));
        self.body.message(head, |w| {
            w.string(1, table);
            w.string(2, chain);
            w.nested(4, |w| rule.encode(w));
            w.attr(7, &comment(&words));
        });
    }

    fn commit(self) -> Result<(), NftError> {
        let last = u32::try_from(self.parts.len()).unwrap_or(u32::MAX - 1) + 1;
        if self.parts.is_empty() {
            return Ok(());
        }
        let mut whole = Writer::default();
        let marker = |kind, seq| Head { kind, flags: REQUEST, seq, family: FAMILY_UNSPEC, resource: SUBSYSTEM };
        whole.message(marker(BATCH_BEGIN, 1), |_| {});
        let mut bytes = whole.into_bytes();
        let last_at = bytes.len() + self.last_at;
        bytes.extend_from_slice(&self.body.into_bytes());
        // Errors always come back; one acknowledgement, of the last message, says that there was none. Asking for all
        // of them would overflow the receive buffer.
        wire::add_flags(&mut bytes[last_at..], ACK);
        let mut end = Writer::default();
        end.message(marker(BATCH_END, last + 1), |_| {});
        bytes.extend_from_slice(&end.into_bytes());

        let netlink = Netlink::open(bytes.len()).map_err(NftError::Socket)?;
        netlink.send(&bytes).map_err(NftError::Socket)?;
        let mut failure = None;
        netlink
            .receive(|m| {
                if m.kind != NLMSG_ERROR {
                    return false;
                }
                if let Some(refused) = refusal(m, &self.parts) {
                    failure.get_or_insert(refused);
                }
                // The kernel answers for the begin only when it refuses the batch as a whole.
                m.seq <= 1 || m.seq >= last
            })
            .map_err(NftError::Socket)?;
        failure.map_or(Ok(()), Err)
    }
}

fn refusal(message: &Message<'_>, parts: &[String]) -> Option<NftError> {
    let code = i32_at(message.payload, 0)?;
    if code == 0 {
        return None;
    }
    let index = usize::try_from(message.seq).ok()?.checked_sub(2);
    let part = index.and_then(|i| parts.get(i)).cloned().unwrap_or_else(|| "the transaction".to_owned());
    let detail = if message.flags & ACK_TLVS == 0 {
        String::new()
    } else {
        // After the error comes the original header, and, unless capped, its whole message.
        let original = wire::u32_at(message.payload, 4).and_then(|l| usize::try_from(l).ok()).unwrap_or(wire::HEADER);
        let skip = 4 + if message.flags & CAPPED == 0 { original.next_multiple_of(4) } else { wire::HEADER };
        message.payload.get(skip..).and_then(|rest| attribute(rest, 1)).map(|m| format!(" ({})", text(m))).unwrap_or_default()
    };
    Some(NftError::Refused { part, error: io::Error::from_raw_os_error(-code), detail })
}

/// `NFTNL_UDATA_RULE_COMMENT`, so that `nft list ruleset` shows the rule's words too.
fn comment(words: &str) -> Vec<u8> {
    let bytes = &words.as_bytes()[..words.len().min(COMMENT_MAX)];
    let mut out = vec![0, u8::try_from(bytes.len() + 1).unwrap_or(u8::MAX)];
    out.extend_from_slice(bytes);
    out.push(0);
    out
}

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledTable {
    /// Name.
    pub name: String,
    /// Chains in the kernel's order.
    pub chains: Vec<InstalledChain>,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledChain {
    /// Name.
    pub name: String,
    /// `nat` or `filter`, with hook number and priority, for base chains.
    pub base: Option<(String, u32, i32)>,
    /// Rules in order.
    pub rules: Vec<InstalledRule>,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRule {
    /// The words with which it was installed; `None` if another program made it.
    pub words: Option<String>,
    /// Packets counted; in NAT chains: connections.
    pub packets: u64,
}

/// The tables of the `inet` family among `names` that exist, with their chains and rules.
///
/// # Errors
/// See [`NftError`].
pub fn installed(names: &[&str]) -> Result<Vec<InstalledTable>, NftError> {
    let mut tables: Vec<InstalledTable> = Vec::new();
    dump(GET_TABLE, |body| {
        if let Some(name) = attribute(body, 1).map(text).filter(|n| names.contains(&n.as_str())) {
            tables.push(InstalledTable { name, chains: Vec::new() });
        }
    })?;
    dump(GET_CHAIN, |body| {
        let (Some(table), Some(name)) = (attribute(body, 1).map(text), attribute(body, 3).map(text)) else { return };
        let base = attribute(body, 4).map(|hook| {
            let number = attribute(hook, 1).and_then(be32).unwrap_or_default();
            let priority = attribute(hook, 2).and_then(be32).map(u32::cast_signed).unwrap_or_default();
            (attribute(body, 7).map(text).unwrap_or_default(), number, priority)
        });
        if let Some(found) = tables.iter_mut().find(|t| t.name == table) {
            found.chains.push(InstalledChain { name, base, rules: Vec::new() });
        }
    })?;
    dump(GET_RULE, |body| {
        let (Some(table), Some(chain)) = (attribute(body, 1).map(text), attribute(body, 2).map(text)) else { return };
        let words = attribute(body, 7).filter(|u| u.first() == Some(&0)).and_then(|u| u.get(2..)).map(text);
        let packets = attribute(body, 4).map(counted).unwrap_or_default();
        let found = tables.iter_mut().find(|t| t.name == table).and_then(|t| t.chains.iter_mut().find(|c| c.name == chain));
        if let Some(found) = found {
            found.rules.push(InstalledRule { words, packets });
        }
    })?;
    Ok(tables)
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The packets of a rule's first counter.
fn counted(expressions: &[u8]) -> u64 {
    attributes(expressions)
        .find(|(_, e)| attribute(e, 1).is_some_and(|n| text(n) == "counter"))
        .and_then(|(_, e)| attribute(e, 2))
        .and_then(|data| attribute(data, 2))
        .and_then(|v| v.try_into().ok())
        .map(u64::from_be_bytes)
        .unwrap_or_default()
}

fn dump(kind: u16, mut each: impl FnMut(&[u8])) -> Result<(), NftError> {
    let mut w = Writer::default();
    w.message(Head { kind, flags: REQUEST | DUMP, seq: 1, family: FAMILY_INET, resource: 0 }, |_| {});
    let netlink = Netlink::open(0).map_err(NftError::Socket)?;
    netlink.send(&w.into_bytes()).map_err(NftError::Socket)?;
    let mut failure = None;
    netlink
        .receive(|m| match m.kind {
            NLMSG_DONE => true,
            NLMSG_ERROR => {
                failure = refusal(m, &[]);
                true
            }
            _ => {
                if let Some(body) = m.payload.get(NFGEN..) {
                    each(body);
                }
                false
            }
        })
        .map_err(NftError::Socket)?;
    failure.map_or(Ok(()), Err)
}

/// A socket to the kernel's netfilter.
struct Netlink(OwnedFd);

impl Netlink {
    /// `size`: of the largest message that will be sent.
    fn open(size: usize) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers in the calling thread; a wait this long means that it will not.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
        let wanted = size.saturating_mul(2).max(256 * 1024);
        if setsockopt(&fd, sockopt::SndBufForce, &wanted).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &wanted)?;
        }
        // Without the refused message's copy, and with the kernel's own words. Both are refinements (Linux 4.12).
        let _ = set_int(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        let _ = set_int(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        Ok(Self(fd))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads until `last` says so.
    fn receive(&self, mut last: impl FnMut(&Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = vec![0_u8; 128 * 1024];
        loop {
            let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for message in messages(&buffer[..len]) {
                if last(&message) {
                    return Ok(());
                }
            }
        }
    }
}
