//! What only services of ServiceEntries need: names that proxies resolve, and TLS towards servers outside of the mesh.

use super::destination::{MergedRule, Policy};
use super::locality::{Group, Placed, Preference};
use super::proxy::{Families, Proxy};
use super::tls::Upstream;
use super::{endpoint, mesh, secret};
use crate::world::{EndpointAddress, Service, ServicePod, ServicePort, Target, World};
use lateen_model::dataplane::{
    DnsDiscovery, DnsEndpoint, DnsFamily, DnsKind, DnsLocality, EndpointHealth, Locality, SecretRef, SecretSource, StringMatch,
    TlsMode, TlsParams, UpstreamHttp, UpstreamTls,
};
use lateen_model::resource::{ClientTlsMode, ClientTlsSettings, ServiceEntryResolution, StringMap, is_subset};
use std::time::Duration;

/// Added to each wait between two questions, at random (Istio's `PILOT_DNS_JITTER_DURATION`).
const DNS_JITTER: Duration = Duration::from_millis(100);

/// The port that connections go to instead of the one that the client called (`targetPort` with `resolution: NONE`).
pub fn port_override(service: &Service, port: &ServicePort) -> Option<u16> {
    match port.target {
        Target::Number(n) if service.entry.is_some() && n != port.number => Some(n),
        Target::Number(_) | Target::Name(_) => None,
    }
}

/// The names of a service that proxies resolve; `None` if they do not. Without endpoints the host is resolved itself.
pub fn dns(
    world: &World,
    proxy: &Proxy,
    (service, port): (&Service, &ServicePort),
    rule: &MergedRule,
    subset: &str,
) -> Option<DnsDiscovery> {
    let entry = service.entry.as_ref().filter(|e| e.is_dns())?;
    let labels = rule.subset_labels(subset).unwrap_or_default();
    let written = rule.policy(port.number, subset).tls_mode();
    let index = service.ports.iter().position(|p| p.number == port.number)?;
    let pods = world.endpoints_of(service).map(|e| e.ready.as_slice()).unwrap_or_default();
    let preference = Preference::of(world, service, &rule.policy(port.number, subset));
    let itself = StringMap::new();
    let mut names: Vec<Placed<'_, DnsEndpoint>> = Vec::new();
    for pod in pods.iter().filter(|p| is_subset(&labels, &p.workload.record.labels)) {
        let Some(number) = pod.ports.get(index).copied().flatten() else { continue };
        let endpoint = DnsEndpoint {
            host: host_of(pod),
            port: number,
            health: EndpointHealth::Healthy,
            weight: pod.weight(),
            tls_mode: endpoint::tls_mode(world, service, pod, (number, written)),
            workload: endpoint::telemetry(world, service, pod),
        };
        names.push(endpoint::placed(pod, endpoint));
    }
    if entry.inline.is_empty() && entry.selectors.is_empty() {
        let number = match port.target {
            Target::Number(n) => n,
            Target::Name(_) => port.number,
        };
        let endpoint = DnsEndpoint {
            host: service.host.to_string(),
            port: number,
            health: EndpointHealth::Healthy,
            weight: 1,
            tls_mode: TlsMode::Disabled,
            workload: None,
        };
        names.push(Placed { locality: Locality::default(), labels: &itself, weight: 1, endpoint });
    }
    let logical = entry.resolution == ServiceEntryResolution::DnsRoundRobin;
    let locality = |g: Group<DnsEndpoint>| DnsLocality {
        locality: g.locality,
        priority: g.priority,
        weight: g.weight,
        endpoints: g.endpoints,
    };
    let arranged = preference.arrange(&preference.client(proxy), names);
    let mut localities: Vec<DnsLocality> = arranged.into_iter().map(locality).collect();
    if logical {
        // Proxies take one name. ServiceEntries of one host may have more of them together.
        localities.truncate(1);
        localities.iter_mut().for_each(|l| l.endpoints.truncate(1));
    }
    Some(DnsDiscovery {
        // Nothing to resolve is no logical name.
        kind: if logical && !localities.is_empty() { DnsKind::Logical } else { DnsKind::Strict },
        localities,
        family: match proxy.families {
            Families::V4 => DnsFamily::V4Only,
            Families::V6 => DnsFamily::V6Only,
            Families::V4V6 | Families::V6V4 => DnsFamily::All,
        },
        refresh: mesh::dns_refresh_rate(world.mesh()),
        respect_ttl: true,
        failure: None,
        jitter: DNS_JITTER,
    })
}

fn host_of(pod: &ServicePod) -> String {
    match &pod.address {
        EndpointAddress::Ip(ip) => ip.to_string(),
        EndpointAddress::Name(name) => name.to_string(),
    }
}

/// TLS that the application does not do itself (`SIMPLE`, `MUTUAL`).
///
/// A `credentialName` is for gateways and for workloads that the rule selects: another sidecar may read only what its workload
/// has, so that without files it verifies by the system's roots and shows no certificate.
pub fn origination(upstream: &Upstream<'_>) -> UpstreamTls {
    let settings: &ClientTlsSettings = upstream.settings.unwrap_or(&DEFAULT);
    let skips = settings.insecure_skip_verify == Some(true);
    let written = settings.credential_name.as_str();
    // Roots of a ConfigMap are for everybody.
    let allowed = upstream.own_secrets || written.starts_with(secret::CONFIG_MAP);
    let credential = Some(written).filter(|name| allowed && !name.is_empty());
    let secret = |suffix: &str| credential.map(|name| secret_ref(&format!("{name}{suffix}")));
    let roots = match (skips, settings.ca_certificates.as_str()) {
        (true, _) => None,
        (false, "") if credential.is_some() => secret(secret::CA_SUFFIX),
        (false, "") => Some(SecretRef::system_roots()),
        (false, path) => Some(SecretRef::file_roots(path)),
    };
    let files = (settings.mode == ClientTlsMode::Mutual && !settings.client_certificate.is_empty())
        .then(|| SecretRef::file_certificate(&settings.client_certificate, &settings.private_key));
    let sans: Vec<StringMatch> = match (skips, settings.subject_alt_names.as_slice()) {
        (true, _) => Vec::new(),
        (false, []) => upstream.service.accounts.iter().map(StringMatch::exact).collect(),
        (false, written) => written.iter().map(StringMatch::exact).collect(),
    };
    UpstreamTls {
        params: TlsParams::default(),
        // HTTP/2 has to be agreed on; for the rest nothing is offered, as by Istio.
        alpn: if upstream.http2 { vec!["h2".to_owned()] } else { Vec::new() },
        sni: settings.sni.clone(),
        certificate: files.or_else(|| secret("").filter(|_| settings.mode == ClientTlsMode::Mutual)),
        crl_file: Some(settings.ca_crl.clone()).filter(|path| !path.is_empty() && roots.is_some()),
        roots,
        sans,
    }
}

/// A Secret of the proxy's namespace, under the name by which proxies ask for it.
fn secret_ref(name: &str) -> SecretRef {
    let scheme = if name.starts_with(secret::CONFIG_MAP) { "" } else { secret::KUBERNETES };
    SecretRef { name: format!("{scheme}{name}"), source: SecretSource::Ads }
}

/// What stands where a rule has no TLS settings; never asked for then.
static DEFAULT: std::sync::LazyLock<ClientTlsSettings> = std::sync::LazyLock::new(ClientTlsSettings::default);

/// Where no SNI is written it is the request's host, and where no names are written the certificate must be for that host.
pub fn names_by_request(http: &mut UpstreamHttp, service: &Service, policy: &Policy<'_>) {
    let Some(settings) = policy.tls else { return };
    http.auto_sni = settings.sni.is_empty();
    let verifies = settings.insecure_skip_verify != Some(true);
    http.auto_san_validation = http.auto_sni && settings.subject_alt_names.is_empty() && service.accounts.is_empty() && verifies;
}
