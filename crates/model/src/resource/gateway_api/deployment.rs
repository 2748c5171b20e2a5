//! What is made for a Gateway: a workload of proxies and a Service in front of them (Istio's automated deployment).

use std::collections::BTreeSet;

use super::gateway::{AddressType, KubeGateway};
use super::gateway_class::{GATEWAY_CONTROLLER, GatewayClass};
use crate::resource::meta::{ObjectMeta, StringMap};
use crate::resource::{
    Container, Deployment, DeploymentSpec, IntOrString, LabelSelector, PodSpec, PodTemplateSpec, Service, ServiceAccount,
    ServicePort, ServiceSpec, ServiceType,
};

/// On everything that is made for a Gateway: its name.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// On everything that is made for a Gateway: the name of its class.
const CLASS_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
/// On everything that is made for a Gateway: by which controller.
const MANAGED_LABEL: &str = "gateway.istio.io/managed";
/// The value of [`MANAGED_LABEL`].
const MANAGED_BY: &str = "istio.io-gateway-controller";
/// Another name for what is made.
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
/// Another service account.
const ACCOUNT_OVERRIDE: &str = "gateway.istio.io/service-account";
/// Another type of the Service.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// The longest name of a Service.
const MAX_NAME: usize = 63;
/// The port that tells whether the proxy is ready.
const STATUS_PORT: i64 = 15021;

/// The resources that are made for a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedGateway {
    /// The proxies.
    pub deployment: Deployment,
    /// In front of them.
    pub service: Service,
    /// Their identity; `None` if another one is named, which must exist.
    pub service_account: Option<ServiceAccount>,
}

impl ManagedGateway {
    /// What is made for a Gateway, whose class is `class`, if that is written. `None`, if it is nobody's here, names a Service of its
    /// own (`addresses` of the type `Hostname`), or wants what cannot be had.
    pub fn of(gateway: &KubeGateway, class: Option<&GatewayClass>) -> Option<Self> {
        if gateway.controller(class) != Some(GATEWAY_CONTROLLER) || gateway.parameters(class).is_some() {
            return None;
        }
        let spec = &gateway.spec;
        let address = match spec.addresses.as_slice() {
            [] => None,
            [one] if one.type_ == AddressType::IpAddress => one.value.clone().filter(|v| !v.is_empty()),
            _ => return None,
        };
        let meta = &gateway.metadata;
        let name = Self::name(gateway);
        let account = meta.annotations.get(ACCOUNT_OVERRIDE);
        let common = common_metadata(gateway);
        let labels = |name: String| ObjectMeta { name, ..common.clone() };
        let service = Service {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            metadata: labels(name.clone()),
            spec: ServiceSpec {
                type_: service_type(meta.annotations.get(SERVICE_TYPE).map(String::as_str)),
                selector: selector(gateway),
                ports: ports(gateway),
                cluster_ip: address,
                ..ServiceSpec::default()
            },
            ..Service::default()
        };
        Some(Self {
            deployment: deployment(gateway, labels(name.clone()), account.unwrap_or(&name)),
            service,
            service_account: account.is_none().then(|| ServiceAccount {
                api_version: "v1".to_owned(),
                kind: "ServiceAccount".to_owned(),
                metadata: labels(name.clone()),
                ..ServiceAccount::default()
            }),
        })
    }

    /// The name of what is made: `<gateway>-<class>`, shortened with a hash where it would be too long.
    pub fn name(gateway: &KubeGateway) -> String {
        if let Some(name) = gateway.metadata.annotations.get(NAME_OVERRIDE) {
            return name.clone();
        }
        let name = format!("{}-{}", gateway.metadata.name, gateway.spec.gateway_class_name);
        if name.len() <= MAX_NAME {
            return name;
        }
        // FNV-1a: stable, and short; it only has to tell names of one namespace apart.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let kept = name.chars().take(MAX_NAME - 9).collect::<String>();
        format!("{}-{hash:08x}", kept.trim_end_matches(['-', '.']))
    }
}

/// The labels that select the proxies of a Gateway.
fn selector(gateway: &KubeGateway) -> StringMap {
    StringMap::from([(GATEWAY_NAME_LABEL.to_owned(), gateway.metadata.name.clone())])
}

/// Labels and annotations of everything: those of `infrastructure`, else the Gateway's own.
fn common_metadata(gateway: &KubeGateway) -> ObjectMeta {
    let meta = &gateway.metadata;
    let (mut labels, annotations) = match &gateway.spec.infrastructure {
        Some(written) => (written.labels.clone(), written.annotations.clone()),
        None => {
            let own =
                |key: &str| key.starts_with("gateway.istio.io/") || key == "kubectl.kubernetes.io/last-applied-configuration";
            let annotations = meta.annotations.iter().filter(|(key, _)| !own(key) && *key != SERVICE_TYPE);
            (meta.labels.clone(), annotations.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
    };
    labels.extend(selector(gateway));
    labels.insert(CLASS_NAME_LABEL.to_owned(), gateway.spec.gateway_class_name.clone());
    labels.insert(MANAGED_LABEL.to_owned(), MANAGED_BY.to_owned());
    ObjectMeta {
        namespace: meta.namespace.clone(),
        labels,
        annotations,
        creation_timestamp: meta.creation_timestamp,
        provenance: meta.provenance.clone(),
        ..ObjectMeta::default()
    }
}

fn deployment(gateway: &KubeGateway, metadata: ObjectMeta, account: &str) -> Deployment {
    let mut labels = metadata.labels.clone();
    for (key, value) in [
        ("sidecar.istio.io/inject", "true"),
        ("service.istio.io/canonical-name", metadata.name.as_str()),
        ("service.istio.io/canonical-revision", "latest"),
        ("istio.io/dataplane-mode", "none"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut annotations = metadata.annotations.clone();
    annotations.insert("inject.istio.io/templates".to_owned(), "gateway".to_owned());
    let proxy = Container { name: "istio-proxy".to_owned(), image: Some("auto".to_owned()), ..Container::default() };
    Deployment {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        metadata,
        spec: DeploymentSpec {
            selector: LabelSelector { match_labels: selector(gateway), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: ObjectMeta { labels, annotations, ..ObjectMeta::default() },
                spec: PodSpec { service_account_name: Some(account.to_owned()), containers: vec![proxy], ..PodSpec::default() },
                ..PodTemplateSpec::default()
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}

fn service_type(written: Option<&str>) -> ServiceType {
    match written {
        Some("ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        _ => ServiceType::LoadBalancer,
    }
}

/// The status port, and one for each port of the listeners.
fn ports(gateway: &KubeGateway) -> Vec<ServicePort> {
    let mut out = vec![port("status-port".to_owned(), STATUS_PORT, "tcp")];
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    for listener in &gateway.spec.listeners {
        let Some(protocol) = listener.protocol() else { continue };
        if listener.port().is_none() || !seen.insert(listener.port) {
            continue;
        }
        let protocol = protocol.name().to_ascii_lowercase();
        // `default` becomes `http-80`; a name that says its protocol stays.
        let name = match listener.name.replace('.', "-") {
            name if name.len() <= MAX_NAME && name.starts_with(&protocol) => name,
            name if name.len() + protocol.len() < MAX_NAME => format!("{protocol}-{name}"),
            _ => format!("{protocol}-{}", listener.port),
        };
        let name = if names.insert(name.clone()) { name } else { format!("{protocol}-{}", listener.port) };
        out.push(port(name, listener.port, &protocol));
    }
    out
}

fn port(name: String, number: i64, protocol: &str) -> ServicePort {
    ServicePort {
        name,
        port: number,
        target_port: i32::try_from(number).ok().map(IntOrString::Int),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    }
}
