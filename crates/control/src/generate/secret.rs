//! Secrets (SDS): the mesh's roots, and certificates from the platform's Secrets.

use super::proxy::Proxy;
use crate::world::World;
use lateen_model::dataplane::{Secret, SecretKind};
use lateen_model::resource::gateway_api::{CORE_GROUP, GATEWAY_GROUP};

/// The name of the mesh's roots.
pub const ROOT_CA: &str = "ROOTCA";
/// How names of the platform's Secrets begin.
pub const KUBERNETES: &str = "kubernetes://";
/// How names of the platform's ConfigMaps begin, which hold roots only.
pub const CONFIG_MAP: &str = "configmap://";
/// How names of the roots in one of the platform's Secrets end.
pub const CA_SUFFIX: &str = "-cacert";

/// The secret of this name, if there is one and the proxy may have it: the roots are everybody's, a Secret of the platform
/// belongs to proxies that have proven to be of its namespace.
pub fn of_name(world: &World, proxy: &Proxy, name: &str) -> Option<Secret> {
    let kind = if name == ROOT_CA {
        if world.roots().is_empty() {
            return None;
        }
        SecretKind::Roots { trusted_ca_pem: world.roots().to_vec(), crl_pem: Vec::new() }
    } else if let Some(reference) = name.strip_prefix(CONFIG_MAP) {
        of_config_map(world, reference)?
    } else {
        of_kubernetes(world, proxy, name.strip_prefix(KUBERNETES)?)?
    };
    Some(Secret { name: name.to_owned(), kind })
}

/// Roots are no secret: every proxy may have those of a ConfigMap.
fn of_config_map(world: &World, reference: &str) -> Option<SecretKind> {
    let (namespace, name) = reference.strip_suffix(CA_SUFFIX)?.split_once('/')?;
    let map = world.gateway_api().config_maps.get(&(namespace.to_owned(), name.to_owned()))?;
    let get = |key: &str| map.get(key).map(<[u8]>::to_vec);
    Some(SecretKind::Roots { trusted_ca_pem: get("ca.crt")?, crl_pem: get("ca.crl").unwrap_or_default() })
}

/// Whether a ReferenceGrant gives Gateways of `own` a Secret of another namespace.
fn is_granted(world: &World, own: &str, namespace: &str, name: &str) -> bool {
    let base = name.strip_suffix(CA_SUFFIX).unwrap_or(name);
    let grants = |name| world.gateway_api().grants((GATEWAY_GROUP, "Gateway", own), (CORE_GROUP, "Secret", namespace, name));
    grants(name) || grants(base)
}

fn of_kubernetes(world: &World, proxy: &Proxy, reference: &str) -> Option<SecretKind> {
    let own = proxy.verified_namespace.as_deref()?;
    let (namespace, name) = reference.split_once('/').unwrap_or((own, reference));
    if namespace != own && !is_granted(world, own, namespace, name) {
        return None;
    }
    let secrets = &world.namespace(namespace)?.secrets;
    let get = |name: &str, keys: [&str; 2]| {
        let secret = secrets.get(name)?;
        keys.into_iter().find_map(|key| secret.resource.get(key)).map(<[u8]>::to_vec)
    };
    if let Some(base) = name.strip_suffix(CA_SUFFIX) {
        // A Secret of its own wins over the roots beside the certificate.
        let from = |name: &str| {
            let trusted_ca_pem = get(name, ["cacert", "ca.crt"])?;
            Some(SecretKind::Roots { trusted_ca_pem, crl_pem: get(name, ["crl", "ca.crl"]).unwrap_or_default() })
        };
        return from(name).or_else(|| from(base));
    }
    let chain_pem = get(name, ["cert", "tls.crt"])?;
    Some(SecretKind::Certificate { chain_pem, private_key_pem: get(name, ["key", "tls.key"])? })
}

/// The names by which proxies may ask for a Secret of the platform.
pub fn names_of(namespace: &str, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    for name in [name.to_owned(), format!("{name}{CA_SUFFIX}")] {
        names.push(format!("{KUBERNETES}{namespace}/{name}"));
        names.push(format!("{KUBERNETES}{name}"));
    }
    names.push(format!("{CONFIG_MAP}{namespace}/{name}{CA_SUFFIX}"));
    names
}
