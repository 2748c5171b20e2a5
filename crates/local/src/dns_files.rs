//! The files by which a pod's programs resolve names.

use lateen_model::resource::PodSpec;

use crate::dns::{CONTROL_HOST, DOMAIN};
use crate::environment::PodFields;
use crate::ipam::Network;

/// Contents of `resolv.conf`, `hosts` and `nsswitch.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) resolv_conf: String,
    pub(crate) hosts: String,
    pub(crate) nsswitch: String,
}

impl Files {
    pub(crate) fn new(network: &Network, pod: &PodFields, spec: &PodSpec) -> Self {
        let ns = &pod.namespace;
        let node = network.node_ip();
        let resolv_conf = format!("nameserver {node}\nsearch {ns}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n");
        let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        for ip in &pod.ips {
            let host = spec.hostname.as_ref().unwrap_or(&pod.name);
            let full = spec.subdomain.as_ref().map(|under| format!("{host}.{under}.{ns}.svc.{DOMAIN} ")).unwrap_or_default();
            hosts.push_str(&format!("{ip}\t{full}{host}\n"));
        }
        hosts.push_str(&format!("{node}\t{CONTROL_HOST} {CONTROL_HOST}.{DOMAIN}\n"));
        for alias in &spec.host_aliases {
            hosts.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join(" ")));
        }
        // The machine's own file may name resolvers that ask the machine instead of the mesh.
        let nsswitch =
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n";
        Self { resolv_conf, hosts, nsswitch: nsswitch.to_owned() }
    }
}
