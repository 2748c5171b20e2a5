//! What names there are, and what is answered: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use lateen_model::resource::{Service, ServiceType, TransportProtocol};

use crate::endpoints::{Known, Member};

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
/// Seconds for which an answer may be kept: short, as endpoints of headless services change.
const TTL: u32 = 5;
/// The most aliases that are followed for one answer.
const MAX_ALIASES: usize = 8;
/// The control plane's name, which every pod's sidecar connects to.
pub(crate) const CONTROL_HOST: &str = "istiod.istio-system.svc";

/// Names and their records, at one moment. Names are in lower case, with the final dot.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    ports: BTreeMap<String, Vec<(u16, String)>>,
    /// Names that stand for others (`ExternalName`).
    aliases: BTreeMap<String, String>,
    /// Every suffix of a name, so that `svc.cluster.local` exists though it has no record.
    inner: BTreeSet<String>,
}

impl Zone {
    pub(crate) fn new<'a>(
        services: impl Iterator<Item = &'a Service>,
        cluster_ips: &BTreeMap<String, Vec<IpAddr>>,
        known: Known<'a>,
        control: IpAddr,
    ) -> Self {
        let mut zone = Self::default();
        zone.addresses.insert(format!("{CONTROL_HOST}.{DOMAIN}."), vec![control]);
        for service in services {
            zone.add(service, cluster_ips, known);
        }
        let names = zone.addresses.keys().chain(zone.ports.keys()).chain(zone.aliases.keys());
        zone.inner = names.flat_map(|name| suffixes(name)).map(str::to_owned).collect();
        zone
    }

    fn add<'a>(&mut self, service: &'a Service, cluster_ips: &BTreeMap<String, Vec<IpAddr>>, known: Known<'a>) {
        let (ns, name) = (&service.metadata.namespace, &service.metadata.name);
        let host = format!("{name}.{ns}.svc.{DOMAIN}.");
        if service.spec.type_ == ServiceType::ExternalName {
            let target = service.spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.').to_lowercase();
            self.aliases.insert(host, format!("{target}."));
            return;
        }
        let headless = service.spec.is_headless();
        let members = known.behind(service);
        let ips = if headless {
            members.iter().flat_map(|m| m.ips.iter().copied()).collect()
        } else {
            cluster_ips.get(&format!("{ns}/{name}")).cloned().unwrap_or_default()
        };
        for port in service.spec.ports.iter().filter(|p| !p.name.is_empty()) {
            let transport = match port.protocol {
                TransportProtocol::Tcp => "tcp",
                TransportProtocol::Udp => "udp",
                TransportProtocol::Sctp => continue,
            };
            let targets = if headless {
                members.iter().filter_map(|m| Some((m.port(port)?, host_of(m, &host)?))).collect()
            } else {
                u16::try_from(port.port).ok().map(|n| (n, host.clone())).into_iter().collect()
            };
            self.ports.insert(format!("_{}._{transport}.{host}", port.name.to_lowercase()), targets);
        }
        if headless {
            for member in &members {
                // Pods of one deployment share the name that they chose.
                if let Some(name) = host_of(member, &host) {
                    self.addresses.entry(name).or_default().extend(&member.ips);
                }
            }
        }
        self.addresses.insert(host, ips);
    }

    /// The answer to a query.
    pub(crate) fn answer(&self, query: &Message) -> Message {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&query.metadata);
        reply.queries.clone_from(&query.queries);
        let one = match query.queries.as_slice() {
            [one] if query.metadata.message_type == MessageType::Query => one,
            _ => return with_code(reply, ResponseCode::FormErr),
        };
        if query.metadata.op_code != OpCode::Query || one.query_class() != DNSClass::IN {
            return with_code(reply, ResponseCode::NotImp);
        }
        reply.metadata.recursion_available = true;
        let name = self.follow(&mut reply, one.name().to_ascii().to_lowercase());
        if !name.ends_with(&format!(".{DOMAIN}.")) && name != format!("{DOMAIN}.") {
            // There is no way out of the mesh, so no server to ask either. An alias is an answer all the same.
            let code = if reply.answers.is_empty() { ResponseCode::Refused } else { ResponseCode::NoError };
            return with_code(reply, code);
        }
        reply.metadata.authoritative = true;
        let known = self.addresses.contains_key(&name) || self.ports.contains_key(&name) || self.inner.contains(&name);
        if !known {
            return with_code(reply, ResponseCode::NXDomain);
        }
        self.records(&mut reply, &name, one.query_type());
        reply
    }

    /// The name that a name stands for at last; the way there is written into the answer.
    fn follow(&self, reply: &mut Message, mut name: String) -> String {
        for _ in 0..MAX_ALIASES {
            let Some(target) = self.aliases.get(&name) else { break };
            if let Ok(to) = Name::from_ascii(target) {
                push(reply, &name, RData::CNAME(CNAME(to)));
            }
            name.clone_from(target);
        }
        name
    }

    fn records(&self, reply: &mut Message, host: &str, kind: RecordType) {
        push_addresses(reply, host, self.addresses.get(host).map(Vec::as_slice).unwrap_or_default(), kind);
        if matches!(kind, RecordType::SRV | RecordType::ANY) {
            for (port, target) in self.ports.get(host).into_iter().flatten() {
                if let Ok(target) = Name::from_ascii(target) {
                    push(reply, host, RData::SRV(SRV::new(0, 100, *port, target)));
                }
            }
        }
    }
}

/// An endpoint's name under a headless service: its own, or its address with dashes, as in Kubernetes.
fn host_of(member: &Member<'_>, service_host: &str) -> Option<String> {
    match member.hostname {
        Some(name) => Some(format!("{name}.{service_host}")),
        None => member.ips.first().map(|ip| format!("{}.{service_host}", ip.to_string().replace(['.', ':'], "-"))),
    }
}

fn push_addresses(reply: &mut Message, host: &str, addresses: &[IpAddr], kind: RecordType) {
    for ip in addresses {
        match (ip, kind) {
            (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => push(reply, host, RData::A(A(*ip))),
            (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => push(reply, host, RData::AAAA(AAAA(*ip))),
            _ => {}
        }
    }
}

fn with_code(mut reply: Message, code: ResponseCode) -> Message {
    reply.metadata.response_code = code;
    reply
}

fn push(reply: &mut Message, host: &str, data: RData) {
    if let Ok(name) = Name::from_ascii(host) {
        reply.answers.push(Record::from_rdata(name, TTL, data));
    }
}

/// `a.b.c.` gives `b.c.` and `c.`.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[at + 1..]).filter(|s| !s.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::Given;
    use crate::endpoints::tests::pod;
    use crate::resources::Resources;
    use hickory_proto::op::Query;

    const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: "n"}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: "n"}
spec: {selector: {app: a}, clusterIP: None, ports: [{name: sql, port: 5432, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: "n"}
spec: {selector: {app: c}, clusterIP: None, ports: [{name: get, port: 6379, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: both, namespace: "n"}
spec: {selector: {app: c}, clusterIP: None, ipFamilyPolicy: PreferDualStack, ports: [{port: 6379, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: "n"}
spec: {type: ExternalName, externalName: api.example.com.}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: m}
spec: {type: ExternalName, externalName: again.m.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: again, namespace: m}
spec: {type: ExternalName, externalName: web.n.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: round, namespace: m}
spec: {type: ExternalName, externalName: round.m.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: given, namespace: "n"}
spec: {clusterIP: None, ports: [{name: web, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: given, namespace: "n", labels: {kubernetes.io/service-name: given}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.1], hostname: one}, {addresses: [192.0.2.2]}]
ports: [{name: web, port: 8080}]
"#;

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let resources = Resources::from_text(SERVICES);
        let ips = BTreeMap::from([("n/web".to_owned(), vec!["10.96.0.1".parse().unwrap(), "fd01::1".parse().unwrap()])]);
        let mut pods = [pod(1, &[("app", "a")], true), pod(2, &[("app", "a")], false), pod(3, &[("app", "c")], true)];
        for n in [0, 2] {
            pods[n].hostname = "first".to_owned();
            pods[n].subdomain = "cache".to_owned();
        }
        let given = Given::of(&resources);
        let known = Known { pods: &pods, given: &given };
        let zone = Zone::new(resources.services(), &ips, known, "10.244.0.1".parse().unwrap());
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        // Through the wire, as a client would see it.
        let query = Message::from_vec(&query.to_vec().unwrap()).unwrap();
        let reply = Message::from_vec(&zone.answer(&query).to_vec().unwrap()).unwrap();
        assert_eq!(reply.metadata.id, 7);
        (reply.metadata.response_code, reply.answers.iter().map(|r| r.data.to_string()).collect())
    }

    #[test]
    fn services_resolve_and_everything_else_is_told_apart() {
        let ok = |records: &[&str]| (ResponseCode::NoError, records.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let none = |code| (code, Vec::<String>::new());
        assert_eq!(ask("web.n.svc.cluster.local.", RecordType::A), ok(&["10.96.0.1"]));
        assert_eq!(ask("WEB.N.svc.Cluster.local.", RecordType::AAAA), ok(&["fd01::1"]));
        assert_eq!(ask("web.n.svc.cluster.local.", RecordType::MX), ok(&[]));
        assert_eq!(ask("_http._tcp.web.n.svc.cluster.local.", RecordType::SRV), ok(&["0 100 80 web.n.svc.cluster.local."]));
        assert_eq!(ask("db.n.svc.cluster.local.", RecordType::A), ok(&["10.244.0.1"]));
        assert_eq!(ask("10-244-0-1.db.n.svc.cluster.local.", RecordType::A), ok(&["10.244.0.1"]));
        assert_eq!(
            ask("_sql._tcp.db.n.svc.cluster.local.", RecordType::SRV),
            ok(&["0 100 8001 10-244-0-1.db.n.svc.cluster.local."])
        );
        // A name of its own, under the service of its subdomain alone.
        assert_eq!(ask("first.cache.n.svc.cluster.local.", RecordType::A), ok(&["10.244.0.3"]));
        assert_eq!(
            ask("_get._tcp.cache.n.svc.cluster.local.", RecordType::SRV),
            ok(&["0 100 8003 first.cache.n.svc.cluster.local."])
        );
        assert_eq!(ask("first.db.n.svc.cluster.local.", RecordType::A), none(ResponseCode::NXDomain));
        // One family, unless both are asked for.
        assert_eq!(ask("cache.n.svc.cluster.local.", RecordType::AAAA), ok(&[]));
        assert_eq!(ask("both.n.svc.cluster.local.", RecordType::A), ok(&["10.244.0.3"]));
        assert_eq!(ask("both.n.svc.cluster.local.", RecordType::AAAA), ok(&["fd00::3"]));
        // Aliases.
        assert_eq!(ask("out.n.svc.cluster.local.", RecordType::A), ok(&["api.example.com."]));
        assert_eq!(
            ask("other.m.svc.cluster.local.", RecordType::A),
            ok(&["again.m.svc.cluster.local.", "web.n.svc.cluster.local.", "10.96.0.1"])
        );
        assert_eq!(ask("round.m.svc.cluster.local.", RecordType::A).0, ResponseCode::NXDomain);
        // Endpoints that somebody gives.
        assert_eq!(ask("given.n.svc.cluster.local.", RecordType::A), ok(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(ask("one.given.n.svc.cluster.local.", RecordType::A), ok(&["192.0.2.1"]));
        assert_eq!(
            ask("_web._tcp.given.n.svc.cluster.local.", RecordType::SRV),
            ok(&["0 100 8080 one.given.n.svc.cluster.local.", "0 100 8080 192-0-2-2.given.n.svc.cluster.local."])
        );
        assert_eq!(ask("istiod.istio-system.svc.cluster.local.", RecordType::A), ok(&["10.244.0.1"]));
        assert_eq!(ask("svc.cluster.local.", RecordType::A), ok(&[]));
        assert_eq!(ask("other.n.svc.cluster.local.", RecordType::A), none(ResponseCode::NXDomain));
        assert_eq!(ask("web.svc.cluster.local.", RecordType::A), none(ResponseCode::NXDomain));
        assert_eq!(ask("example.com.", RecordType::A), none(ResponseCode::Refused));
    }
}
