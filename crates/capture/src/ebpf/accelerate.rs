//! Acceleration by eBPF: what an application and its sidecar send each other goes from socket to socket, past the rest of TCP.
//!
//! The programs (`bpf/accelerate.bpf.c`) say what is handed over and when not. An application may notice: a blocking read may end
//! with `EAGAIN`, `SO_RCVLOWAT` and `MSG_WAITALL` do not hold, `splice` from the socket finds nothing, a close with unread data
//! does not reset the connection, and the counters of `TCP_INFO` stand still. So it is for those who ask for it.

use std::fs::File;
use std::sync::{Arc, Mutex};

use aya::maps::{HashMap, SockHash};
use aya::programs::{CgroupAttachMode, CgroupSockopt, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};

use super::{EbpfError, about_namespace, at, cgroup_root, lock, map, may_load, program};
use crate::netns::NetNs;

/// The compiled programs; a test holds them against their source.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/accelerate.bpf.o");

/// The first kernel that counts what is handed over against the reader's buffer (`tcp_bpf: Charge receive socket buffer in
/// bpf_tcp_ingress()`): before, a sender could not be made to wait.
const FIRST_KERNEL: (u32, u32) = (6, 13);

/// The programs of one mesh, loaded and attached. Clones share them; they go with the last clone and the last [`Accelerated`].
#[derive(Clone)]
pub struct Accelerator {
    kernel: Arc<Mutex<Ebpf>>,
}

impl std::fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accelerator").finish_non_exhaustive()
    }
}

/// A network namespace whose connections between application and sidecar are accelerated, if they begin while this lives.
pub struct Accelerated {
    kernel: Arc<Mutex<Ebpf>>,
    netns: [u8; 8],
}

impl std::fmt::Debug for Accelerated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accelerated").field("netns", &self.netns).finish_non_exhaustive()
    }
}

impl Accelerator {
    /// Loads the programs and attaches them; they do nothing before [`Self::accelerate`].
    ///
    /// # Errors
    /// What the system lacks or refuses.
    pub fn load() -> Result<Self, EbpfError> {
        if !may_load() {
            return Err(EbpfError::Forbidden);
        }
        let release = nix::sys::utsname::uname().map_err(at("uname"))?.release().to_string_lossy().into_owned();
        if version(&release).is_none_or(|version| version < FIRST_KERNEL) {
            return Err(EbpfError::Old { release, needed: FIRST_KERNEL });
        }
        let cgroup = File::open(cgroup_root().ok_or(EbpfError::NoCgroup)?).map_err(at("open the cgroup"))?;
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(at("load"))?;
        let sockets = map::<SockHash<_, [u8; 48]>>(&mut ebpf, "sockets")?.fd().try_clone().map_err(at("sockets"))?;
        // A socket gets what is attached when it enters the map: this first.
        let redirect = program::<SkMsg>(&mut ebpf, "hand_over")?;
        redirect.load().map_err(at("hand_over"))?;
        redirect.attach(&sockets).map_err(at("hand_over"))?;
        let answers = program::<CgroupSockopt>(&mut ebpf, "unread")?;
        answers.load().map_err(at("unread"))?;
        answers.attach(&cgroup, CgroupAttachMode::Single).map_err(at("unread"))?;
        let watch = program::<SockOps>(&mut ebpf, "watch")?;
        watch.load().map_err(at("watch"))?;
        watch.attach(&cgroup, CgroupAttachMode::Single).map_err(at("watch"))?;
        Ok(Self { kernel: Arc::new(Mutex::new(ebpf)) })
    }

    /// Accelerates the connections of a namespace that begin from now on, between applications and the sidecar whose port for
    /// outbound connections is `proxy_port`. The sidecar must know (see `LIMIT` in `bpf/accelerate.bpf.c`), and traffic be captured
    /// by [`super::Programs`]: address translation would hide the ends from each other.
    ///
    /// # Errors
    /// What the kernel refuses; the namespace is left alone then.
    pub fn accelerate(&self, ns: &NetNs, proxy_port: u16) -> Result<Accelerated, EbpfError> {
        let (netns, _) = ns.run(about_namespace).and_then(|found| found).map_err(at("read the namespace's number"))?;
        let netns = netns.to_ne_bytes();
        let mut ebpf = lock(&self.kernel);
        let mut sidecars = map::<HashMap<_, [u8; 8], u32>>(&mut ebpf, "sidecars")?;
        sidecars.insert(netns, u32::from(proxy_port), 0).map_err(at("sidecars"))?;
        Ok(Accelerated { kernel: self.kernel.clone(), netns })
    }
}

impl Drop for Accelerated {
    fn drop(&mut self) {
        let mut ebpf = lock(&self.kernel);
        if let Ok(mut sidecars) = map::<HashMap<_, [u8; 8], u32>>(&mut ebpf, "sidecars") {
            let _ = sidecars.remove(&self.netns);
        }
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert!(version("6.9-rc1") < Some((6, 13)));
        assert_eq!(version("7"), None);
        assert_eq!(version("unknown"), None);
    }
}
