//! BackendTLSPolicies: TLS to backends, as DestinationRules have it.

use super::attach::Target;
use super::backend::Backend;
use super::status::{Condition, ParentStatus, Problem, Status};
use super::{Translation, derived};
use crate::generate::secret::CONFIG_MAP;
use crate::world::{Service, World};
use lateen_model::dataplane::SecretRef;
use lateen_model::resource::gateway_api::{
    BackendTlsPolicy, CORE_GROUP, GATEWAY_GROUP, ParentReference, PolicyTarget, SubjectAltName,
};
use lateen_model::resource::{
    ClientTlsMode, ClientTlsSettings, CreationOrder, DestinationRule, DestinationRuleSpec, Kind, PortSelector, PortTrafficPolicy,
    ResourceKey, TrafficPolicy,
};
use lateen_tls::TrustBundle;
use std::collections::{BTreeMap, BTreeSet};

/// The key of a ConfigMap that holds roots.
const ROOTS: &str = "ca.crt";

/// Through which Gateways services are reached.
#[derive(Default)]
pub(super) struct Ancestors(BTreeMap<String, BTreeSet<(String, String)>>);

impl Ancestors {
    /// Notes the backends of a route.
    pub(super) fn note(&mut self, targets: &[Target], backends: &[Backend]) {
        for target in targets {
            let Target::Listener { gateway, .. } = target else { continue };
            for backend in backends {
                self.0.entry(backend.host.clone()).or_default().insert(gateway.clone());
            }
        }
    }

    /// The Gateways that lead to a service; else the service itself, which sidecars reach.
    fn of(&self, service: &Service) -> Vec<ParentReference> {
        let gateways = self.0.get(&*service.host);
        let gateway = |(namespace, name): &(String, String)| ParentReference {
            group: Some(GATEWAY_GROUP.to_owned()),
            kind: Some("Gateway".to_owned()),
            namespace: Some(namespace.clone()),
            name: name.clone(),
            ..ParentReference::default()
        };
        match gateways {
            Some(gateways) => gateways.iter().map(gateway).collect(),
            None => vec![itself(&service.namespace, &service.name)],
        }
    }
}

fn itself(namespace: &str, name: &str) -> ParentReference {
    ParentReference {
        group: Some(CORE_GROUP.to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
        ..ParentReference::default()
    }
}

/// A DestinationRule for each service that a policy is for: of several policies for one port the oldest holds.
pub(super) fn translate(world: &World, ancestors: &Ancestors, out: &mut Translation) {
    let mut policies: Vec<&BackendTlsPolicy> = world.gateway_api().tls_policies.values().map(|p| &**p).collect();
    policies.sort_by_key(|p| CreationOrder::of(&p.metadata));
    let mut taken: BTreeMap<(String, Option<String>), String> = BTreeMap::new();
    let mut rules: BTreeMap<String, DestinationRule> = BTreeMap::new();
    for policy in policies {
        let meta = &policy.metadata;
        let generation = meta.generation.unwrap_or(1);
        let settings = settings(world, policy);
        let mut entries: Vec<ParentStatus> = Vec::new();
        for target in &policy.spec.target_refs {
            let place = (target.name.clone(), target.section_name.clone());
            let found = find(world, &meta.namespace, target);
            let earlier = taken
                .get(&place)
                .map(|other| Problem::new("Conflicted", format!("the policy {other} is older and has the same target")));
            let accepted = earlier.or_else(|| found.as_ref().err().cloned());
            let unresolved = settings.as_ref().err().filter(|_| accepted.is_none());
            let refused =
                accepted.clone().or_else(|| unresolved.map(|p| Problem::new("NoValidCACertificate", p.message.clone())));
            let ancestors = match &found {
                Ok((service, _)) => ancestors.of(service),
                Err(_) => vec![itself(&meta.namespace, &target.name)],
            };
            for ancestor in ancestors {
                if !entries.iter().any(|e| e.parent == ancestor) {
                    let accepted = ("Accepted", "Configuration is valid");
                    let resolved = ("ResolvedRefs", "All references resolved");
                    entries.push(ParentStatus {
                        parent: ancestor,
                        conditions: vec![
                            Condition::of("Accepted", refused.as_ref(), accepted, generation),
                            Condition::of("ResolvedRefs", unresolved, resolved, generation),
                        ],
                    });
                }
            }
            if accepted.is_some() {
                continue;
            }
            taken.insert(place, meta.name.clone());
            if let Ok((service, port)) = found {
                let rule = rules.entry(service.host.to_string()).or_insert_with(|| DestinationRule {
                    metadata: derived(meta, &meta.namespace, format!("tls~{}", service.name)),
                    spec: DestinationRuleSpec { host: service.host.to_string(), ..DestinationRuleSpec::default() },
                    ..DestinationRule::default()
                });
                // Without its roots a backend must not be believed, and plain text must not be sent: nothing is trusted.
                let tls = settings.clone().unwrap_or_else(|_| closed());
                put(rule.spec.traffic_policy.get_or_insert_default(), port, tls);
            }
        }
        let key = ResourceKey { kind: Kind::BackendTlsPolicy, namespace: meta.namespace.clone(), name: meta.name.clone() };
        out.statuses.insert(key, Status::Policy { ancestors: entries });
    }
    out.destination_rules.extend(rules.into_values());
}

/// The service of a target, and its port if it names one.
fn find<'a>(world: &'a World, namespace: &str, target: &PolicyTarget) -> Result<(&'a Service, Option<u16>), Problem> {
    let name = target.name.as_str();
    let service = world.namespace(namespace).and_then(|ns| ns.services.get(name)).filter(|s| s.entry.is_none());
    let not_found = |text: String| Problem::new("TargetNotFound", text);
    let service = service.ok_or_else(|| not_found(format!("there is no Service {namespace}/{name}")))?;
    let Some(section) = &target.section_name else { return Ok((service, None)) };
    let port = service.ports.iter().find(|p| *p.name == **section);
    let port = port.ok_or_else(|| not_found(format!("the Service {namespace}/{name} has no port named {section}")))?;
    Ok((service, Some(port.number)))
}

fn settings(world: &World, policy: &BackendTlsPolicy) -> Result<ClientTlsSettings, Problem> {
    let validation = &policy.spec.validation;
    let name = |san: &SubjectAltName| san.hostname.clone().or_else(|| san.uri.clone());
    let mut names: Vec<String> = validation.subject_alt_names.iter().filter_map(name).collect();
    if names.is_empty() {
        names.push(validation.hostname.clone());
    }
    let mut tls = ClientTlsSettings {
        mode: ClientTlsMode::Simple,
        sni: validation.hostname.clone(),
        subject_alt_names: names,
        ..ClientTlsSettings::default()
    };
    let Some(reference) = validation.ca_certificate_refs.first() else {
        tls.ca_certificates = SecretRef::SYSTEM.to_owned();
        return Ok(tls);
    };
    let kind = reference.kind.as_deref().unwrap_or("ConfigMap");
    if (reference.group(), kind) != (CORE_GROUP, "ConfigMap") {
        return Err(Problem::new("InvalidKind", format!("roots of the kind {kind:?} are not supported: a ConfigMap is")));
    }
    let invalid = |text: String| Problem::new("InvalidCACertificateRef", text);
    let (namespace, name) = (&policy.metadata.namespace, &reference.name);
    let map = world.gateway_api().config_maps.get(&(namespace.clone(), name.clone()));
    let map = map.ok_or_else(|| invalid(format!("there is no ConfigMap {namespace}/{name}")))?;
    let roots = map.get(ROOTS).ok_or_else(|| invalid(format!("the ConfigMap {namespace}/{name} has no key {ROOTS}")))?;
    TrustBundle::from_pem(roots).map_err(|e| invalid(format!("the ConfigMap {namespace}/{name} does not hold roots: {e}")))?;
    tls.credential_name = format!("{CONFIG_MAP}{namespace}/{name}");
    Ok(tls)
}

/// TLS that no server can satisfy: nobody has this name.
fn closed() -> ClientTlsSettings {
    ClientTlsSettings {
        mode: ClientTlsMode::Simple,
        sni: "no-roots.invalid".to_owned(),
        subject_alt_names: vec!["no-roots.invalid".to_owned()],
        ca_certificates: SecretRef::SYSTEM.to_owned(),
        ..ClientTlsSettings::default()
    }
}

fn put(policy: &mut TrafficPolicy, port: Option<u16>, tls: ClientTlsSettings) {
    match port {
        None => policy.tls = Some(tls),
        Some(number) => policy.port_level_settings.push(PortTrafficPolicy {
            port: Some(PortSelector { number: number.into() }),
            tls: Some(tls),
            ..PortTrafficPolicy::default()
        }),
    }
}
