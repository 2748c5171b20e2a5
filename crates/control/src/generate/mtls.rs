//! Which PeerAuthentication holds, for servers and as their clients guess it.

use super::proxy::Proxy;
use crate::world::{Entry, World};
use lateen_model::resource::{MutualTlsMode, PeerAuthentication, StringMap};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a port accepts; `UNSET` is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Plain text only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl Mode {
    fn set(mode: MutualTlsMode) -> Option<Self> {
        match mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable => Some(Self::Disable),
            MutualTlsMode::Permissive => Some(Self::Permissive),
            MutualTlsMode::Strict => Some(Self::Strict),
        }
    }
}

/// What a workload accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadModes {
    /// On ports that are not listed.
    pub default: Mode,
    /// By the pod's port.
    pub ports: BTreeMap<u16, Mode>,
}

impl WorkloadModes {
    /// What holds for a pod with these labels. Policies with a selector in the root namespace select nothing elsewhere.
    pub fn of(world: &World, namespace: &str, labels: &StringMap) -> Self {
        let workload = selected(world, namespace, labels);
        let inherited = namespace_mode(world, namespace);
        let Some(policy) = workload else { return Self { default: inherited, ports: BTreeMap::new() } };
        let spec = &policy.resource.spec;
        let default = Mode::set(spec.mode()).unwrap_or(inherited);
        let port = |(port, mtls): (&u32, &lateen_model::resource::MutualTls)| {
            Some((u16::try_from(*port).ok()?, Mode::set(mtls.mode).unwrap_or(default)))
        };
        Self { default, ports: spec.port_level_mtls.iter().flatten().filter_map(port).collect() }
    }

    /// What holds for a proxy's pod.
    pub fn of_proxy(world: &World, proxy: &Proxy) -> Self {
        Self::of(world, &proxy.namespace, &proxy.labels)
    }

    /// What a port accepts.
    pub fn port(&self, port: u16) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}

fn selected<'a>(world: &'a World, namespace: &str, labels: &StringMap) -> Option<&'a Arc<Entry<PeerAuthentication>>> {
    if namespace == world.root_namespace() {
        return None;
    }
    let list = &world.namespace(namespace)?.peer_authentications;
    list.iter().find(|e| {
        let spec = &e.resource.spec;
        spec.has_selector() && spec.selector.as_ref().is_some_and(|s| s.matches(labels))
    })
}

/// The mode of a namespace without regard to single workloads: its own policy, else the mesh's, else PERMISSIVE.
pub fn namespace_mode(world: &World, namespace: &str) -> Mode {
    let of = |namespace: &str| {
        let list = &world.namespace(namespace)?.peer_authentications;
        let policy = list.iter().find(|e| !e.resource.spec.has_selector())?;
        Mode::set(policy.resource.spec.mode())
    };
    of(namespace).or_else(|| of(world.root_namespace())).unwrap_or(Mode::Permissive)
}
