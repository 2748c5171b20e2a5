//! Capture by eBPF: without address translation, and so without connection tracking.
//!
//! The programs (`bpf/capture.bpf.c`) are attached to the topmost cgroup that this process sees and act on the network
//! namespaces that they are told of. Nothing is pinned: when the process that holds [`Programs`] ends, by whatever hand, the
//! kernel detaches and frees everything, and no directory or file is left.

mod accelerate;
mod plan;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapError};
use aya::programs::sk_lookup::SkLookupLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader};
use thiserror::Error;

use crate::netns::NetNs;
pub use accelerate::{Accelerated, Accelerator};
pub use plan::{Plan, Unsupported};

/// The compiled programs; a test holds them against their source.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/capture.bpf.o");

const ADDRESS_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Why traffic cannot be captured by eBPF.
#[derive(Debug, Error)]
pub enum EbpfError {
    /// The process may not load programs.
    #[error("eBPF needs root outside of a user namespace (CAP_BPF and CAP_NET_ADMIN)")]
    Forbidden,
    /// The kernel lacks what cannot be done without.
    #[error("acceleration needs Linux {}.{} or later, and this is {release}", needed.0, needed.1)]
    Old {
        /// What runs.
        release: String,
        /// Major and minor number of the first that will do.
        needed: (u32, u32),
    },
    /// There is nothing to attach to.
    #[error("eBPF needs a cgroup2 file system, and none is mounted")]
    NoCgroup,
    /// The kernel refuses something; with its words.
    #[error("the kernel does not take the eBPF programs: {step}: {reason}")]
    Kernel {
        /// What was tried.
        step: String,
        /// The kernel's or the loader's answer.
        reason: String,
    },
}

fn at<E: std::error::Error>(step: impl Into<String>) -> impl FnOnce(E) -> EbpfError {
    let step = step.into();
    move |e| {
        let mut reason = e.to_string();
        let mut source = e.source();
        while let Some(inner) = source {
            // The verifier's log is for those who write programs.
            let text = inner.to_string();
            if !reason.contains(&text) && text.len() < 200 {
                reason = format!("{reason}: {text}");
            }
            source = inner.source();
        }
        EbpfError::Kernel { step, reason: reason.lines().next().unwrap_or_default().to_owned() }
    }
}

/// The programs of one mesh, loaded and attached. Clones share them; they go with the last clone and the last [`Captured`].
#[derive(Clone)]
pub struct Programs {
    kernel: Arc<Mutex<Ebpf>>,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

/// A network namespace whose traffic is captured, for as long as this lives.
pub struct Captured {
    kernel: Arc<Mutex<Ebpf>>,
    link: Option<SkLookupLink>,
    netns: u64,
    plan: Plan,
    addresses: Vec<IpAddr>,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").field("netns", &self.netns).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Programs {
    /// Loads the programs and attaches them; they do nothing before [`Self::capture`].
    ///
    /// # Errors
    /// What the system lacks or refuses: a reason to use nftables instead.
    pub fn load() -> Result<Self, EbpfError> {
        if !may_load() {
            return Err(EbpfError::Forbidden);
        }
        let cgroup = File::open(cgroup_root().ok_or(EbpfError::NoCgroup)?).map_err(at("open the cgroup"))?;
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(at("load"))?;
        // First what the newest kernel is needed for (5.9), so that an older one refuses before anything is attached.
        program::<SkLookup>(&mut ebpf, "inbound")?.load().map_err(at("inbound"))?;
        for name in ADDRESS_PROGRAMS {
            let program = program::<CgroupSockAddr>(&mut ebpf, name)?;
            program.load().map_err(at(name))?;
        }
        let answers = program::<CgroupSockopt>(&mut ebpf, "original_destination")?;
        answers.load().map_err(at("original_destination"))?;
        program::<SockOps>(&mut ebpf, "established")?.load().map_err(at("established"))?;
        for name in ADDRESS_PROGRAMS {
            program::<CgroupSockAddr>(&mut ebpf, name)?.attach(&cgroup, CgroupAttachMode::Single).map_err(at(name))?;
        }
        let answers = program::<CgroupSockopt>(&mut ebpf, "original_destination")?;
        answers.attach(&cgroup, CgroupAttachMode::Single).map_err(at("original_destination"))?;
        program::<SockOps>(&mut ebpf, "established")?.attach(&cgroup, CgroupAttachMode::Single).map_err(at("established"))?;
        Ok(Self { kernel: Arc::new(Mutex::new(ebpf)) })
    }

    /// Captures the traffic of a namespace from now on. Its addresses must be there: connections to one that comes later are
    /// refused. Processes that listen on the sidecar's inbound port must do so afterwards.
    ///
    /// # Errors
    /// What the kernel refuses; the namespace is left alone then.
    pub fn capture(&self, ns: &NetNs, plan: Plan) -> Result<Captured, EbpfError> {
        let (netns, addresses) = ns.run(about_namespace).and_then(|found| found).map_err(at("read the namespace's addresses"))?;
        let mut captured = Captured { kernel: self.kernel.clone(), link: None, netns, plan, addresses };
        let mut ebpf = lock(&self.kernel);
        let written = captured.write(&mut ebpf).and_then(|()| {
            let program = program::<SkLookup>(&mut ebpf, "inbound")?;
            let id = program.attach(ns).map_err(at("attach to the namespace"))?;
            program.take_link(id).map_err(at("attach to the namespace"))
        });
        drop(ebpf);
        // When something failed, dropping `captured` takes back what was written.
        captured.link = Some(written?);
        Ok(captured)
    }
}

impl Captured {
    fn write(&self, ebpf: &mut Ebpf) -> Result<(), EbpfError> {
        let netns = self.netns.to_ne_bytes();
        let mut values = map::<HashMap<_, [u8; 16], u8>>(ebpf, "values")?;
        for key in self.plan.values(self.netns) {
            values.insert(key, 1, 0).map_err(at("values"))?;
        }
        let mut ranges = map::<LpmTrie<_, [u8; 28], u8>>(ebpf, "ranges")?;
        for (bits, data) in self.plan.ranges(self.netns) {
            ranges.insert(&Key::new(bits, data), 1, 0).map_err(at("ranges"))?;
        }
        let mut pods = map::<HashMap<_, [u8; 8], [u8; 48]>>(ebpf, "pods")?;
        pods.insert(netns, self.plan.pod(&self.addresses), 0).map_err(at("pods"))?;
        let mut addresses = map::<HashMap<_, [u8; 16], [u8; 8]>>(ebpf, "addresses")?;
        for ip in &self.addresses {
            addresses.insert(plan::mapped(*ip), netns, 0).map_err(at("addresses"))?;
        }
        Ok(())
    }

    /// Takes every entry back; one that is not there is none to take back.
    fn erase(&self, ebpf: &mut Ebpf) -> Result<(), EbpfError> {
        let mut pods = map::<HashMap<_, [u8; 8], [u8; 48]>>(ebpf, "pods")?;
        let _ = pods.remove(&self.netns.to_ne_bytes());
        let mut addresses = map::<HashMap<_, [u8; 16], [u8; 8]>>(ebpf, "addresses")?;
        for ip in &self.addresses {
            let key = plan::mapped(*ip);
            // The address may be another pod's by now.
            if addresses.get(&key, 0).is_ok_and(|netns| netns == self.netns.to_ne_bytes()) {
                let _ = addresses.remove(&key);
            }
        }
        let mut values = map::<HashMap<_, [u8; 16], u8>>(ebpf, "values")?;
        for key in self.plan.values(self.netns) {
            let _ = values.remove(&key);
        }
        let mut ranges = map::<LpmTrie<_, [u8; 28], u8>>(ebpf, "ranges")?;
        for (bits, data) in self.plan.ranges(self.netns) {
            let _ = ranges.remove(&Key::new(bits, data));
        }
        Ok(())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // First the program that refuses what it does not know.
        self.link = None;
        let kernel = self.kernel.clone();
        let _ = self.erase(&mut lock(&kernel));
    }
}

fn lock(kernel: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(name: &str) -> EbpfError {
    EbpfError::Kernel { step: name.to_owned(), reason: "it is not in the object".to_owned() }
}

fn program<'e, P>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut P, EbpfError>
where
    &'e mut P: TryFrom<&'e mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name).ok_or_else(|| missing(name))?.try_into().map_err(at(name))
}

fn map<'e, M>(ebpf: &'e mut Ebpf, name: &str) -> Result<M, EbpfError>
where
    M: TryFrom<&'e mut aya::maps::Map, Error = MapError>,
{
    M::try_from(ebpf.map_mut(name).ok_or_else(|| missing(name))?).map_err(at(name))
}

/// Whether this process holds, over the machine itself, the powers to load and attach programs.
fn may_load() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON_AND_BPF: u64 = 1 << 38 | 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = effective.and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or_default();
    let powers = held & NET_ADMIN != 0 && (held & SYS_ADMIN != 0 || held & PERFMON_AND_BPF == PERFMON_AND_BPF);
    // The first user namespace maps every id to itself.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    powers && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Where the topmost cgroup is, of version 2, that this process sees.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The cookie of the calling thread's network namespace, and its addresses but those of the loopback.
fn about_namespace() -> io::Result<(u64, Vec<IpAddr>)> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses: BTreeSet<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(plan::counts)
        .collect();
    Ok((netns_cookie()?, addresses.into_iter().collect()))
}

fn netns_cookie() -> io::Result<u64> {
    let socket = OwnedFd::from(socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?);
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call; the pointer and the length describe `cookie`, which lives
    // until the call returns, and the kernel writes at most `size` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast::<libc::c_void>(),
            &raw mut size,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
