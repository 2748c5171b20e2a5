//! What clients of HTTPS listeners are verified against.

use super::status::Problem;
use crate::generate::secret::{CONFIG_MAP, KUBERNETES};
use crate::world::World;
use lateen_model::resource::gateway_api::{
    CORE_GROUP, FrontendValidationMode, GATEWAY_GROUP, KubeGateway, Listener, ListenerProtocol,
};
use lateen_tls::TrustBundle;

/// The key that holds roots.
const ROOTS: &str = "ca.crt";

/// The roots that a listener's clients are verified against, as proxies ask for them, and whether a client may have no certificate.
/// `None`: clients are not asked.
pub(super) fn client_roots(
    world: &World,
    gateway: &KubeGateway,
    listener: &Listener,
) -> Result<Option<(String, FrontendValidationMode)>, Problem> {
    let written = gateway.spec.tls.as_ref().filter(|_| listener.protocol() == Some(ListenerProtocol::Https));
    let Some(validation) = written.and_then(|tls| tls.validation(listener.port)) else { return Ok(None) };
    let Some(reference) = validation.ca_certificate_refs.first() else { return Ok(None) };
    let kind = reference.kind.as_deref().unwrap_or("ConfigMap");
    if reference.group() != CORE_GROUP || !matches!(kind, "ConfigMap" | "Secret") {
        let text = format!("roots of the kind {kind:?} are not supported: a ConfigMap or a Secret is");
        return Err(Problem::new("InvalidCACertificateKind", text));
    }
    let own = gateway.metadata.namespace.as_str();
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or(own), reference.name.as_str());
    if !world.gateway_api().grants((GATEWAY_GROUP, "Gateway", own), (CORE_GROUP, kind, namespace, name)) {
        let text = format!("no ReferenceGrant of {namespace} lets a Gateway of {own} refer to the {kind} {name}");
        return Err(Problem::new("RefNotPermitted", text));
    }
    let invalid = |text: String| Problem::new("InvalidCACertificateRef", text);
    let id = (namespace.to_owned(), name.to_owned());
    let secret = world.namespace(namespace).and_then(|ns| ns.secrets.get(name)).filter(|_| kind == "Secret");
    let map = world.gateway_api().config_maps.get(&id).filter(|_| kind == "ConfigMap");
    if secret.is_none() && map.is_none() {
        return Err(invalid(format!("there is no {kind} {namespace}/{name}")));
    }
    let roots = secret.and_then(|s| s.resource.get(ROOTS)).or_else(|| map.and_then(|m| m.get(ROOTS)));
    let roots = roots.ok_or_else(|| invalid(format!("the {kind} {namespace}/{name} has no key {ROOTS}")))?;
    TrustBundle::from_pem(roots).map_err(|e| invalid(format!("the {kind} {namespace}/{name} does not hold roots: {e}")))?;
    let scheme = if kind == "ConfigMap" { CONFIG_MAP } else { KUBERNETES };
    Ok(Some((format!("{scheme}{namespace}/{name}"), validation.mode)))
}
