//! What the sidecar knows of names, and what it answers: pure.

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use lateen_xds::nds::{NameInfo, NameTable};
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Seconds for which an answer may be kept (Istio's).
const TTL: u32 = 30;

/// The end of the names of the platform's services.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Names, in lower case and with the final dot, and their addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    names: BTreeMap<String, Vec<IpAddr>>,
    /// Without their `*`, so that each begins with a dot.
    wildcards: BTreeMap<String, Vec<IpAddr>>,
    /// The search domain that programs try first, with a dot at both ends.
    search: String,
}

impl Table {
    /// Reads what the control plane has sent to a proxy of a namespace.
    pub(crate) fn decode(body: &Bytes, namespace: &str) -> Result<Self, prost::DecodeError> {
        let table = NameTable::decode(body.clone())?.table;
        let mut out = Self { search: format!(".{namespace}.svc.{CLUSTER_DOMAIN}."), ..Self::default() };
        for (host, info) in &table {
            let ips: Vec<IpAddr> = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            match host.strip_prefix('*') {
                Some(suffix) => drop(out.wildcards.insert(format!("{suffix}."), ips)),
                None => drop(out.names.insert(format!("{host}."), ips)),
            }
        }
        for (host, info) in &table {
            for short in shortened(host, info, namespace) {
                // A full name is never hidden by the short one of another.
                let full = out.names.get(&format!("{host}.")).cloned();
                if let Some(ips) = full {
                    out.names.entry(format!("{short}.")).or_insert(ips);
                }
            }
        }
        Ok(out)
    }

    /// The addresses of a name: its own, or those of the most specific wildcard.
    fn find(&self, name: &str) -> Option<&[IpAddr]> {
        if let Some(ips) = self.names.get(name) {
            return Some(ips);
        }
        let suffixes = name.match_indices('.').map(|(at, _)| &name[at..]);
        suffixes.filter(|suffix| suffix.len() < name.len()).find_map(|suffix| self.wildcards.get(suffix)).map(Vec::as_slice)
    }

    /// The answer to a query; `None` if another server has to be asked.
    pub(crate) fn answer(&self, query: &Message) -> Option<Message> {
        let one = question(query)?;
        if !matches!(one.query_type(), RecordType::A | RecordType::AAAA | RecordType::ANY) {
            return None;
        }
        let name = one.name().to_ascii().to_lowercase();
        let mut reply = reply_to(query);
        if let Some(ips) = self.find(&name) {
            push_addresses(&mut reply, &name, ips, one.query_type());
            return Some(reply);
        }
        // Programs try `api.example.com.NAMESPACE.svc.cluster.local` before the name itself: answered at once, it is one question
        // instead of four.
        let real = format!("{}.", name.strip_suffix(self.search.as_str())?);
        let ips =
            self.names.get(&real).filter(|_| !real.ends_with(&format!(".{CLUSTER_DOMAIN}.")) && real.matches('.').count() > 1)?;
        push(&mut reply, &name, RData::CNAME(CNAME(Name::from_ascii(&real).ok()?)));
        push_addresses(&mut reply, &real, ips, one.query_type());
        Some(reply)
    }

    /// Completes another server's answer that ends in an alias: what the alias stands for may be known here.
    pub(crate) fn complete(&self, reply: &mut Message) {
        let Some(kind) = question(reply).map(Query::query_type) else { return };
        let aliased = |record: &Record| match &record.data {
            RData::CNAME(to) => Some(to.0.to_ascii().to_lowercase()),
            _ => None,
        };
        let addresses = reply.answers.iter().any(|r| matches!(r.data, RData::A(_) | RData::AAAA(_)));
        let Some(last) = reply.answers.last().and_then(aliased).filter(|_| !addresses) else { return };
        if let Some(ips) = self.find(&last) {
            push_addresses(reply, &last, ips, kind);
            reply.metadata.response_code = ResponseCode::NoError;
        }
    }
}

/// The name whose addresses a query asks for.
pub(super) fn asked_name(query: &Message) -> Option<String> {
    let one = question(query)?;
    let wants_addresses = matches!(one.query_type(), RecordType::A | RecordType::AAAA | RecordType::ANY);
    wants_addresses.then(|| one.name().to_ascii())
}

/// The question, if it is one and an ordinary one.
fn question(message: &Message) -> Option<&Query> {
    match message.queries.as_slice() {
        [one] if message.metadata.op_code == OpCode::Query && one.query_class() == DNSClass::IN => Some(one),
        _ => None,
    }
}

/// The forms of a service's name that leave out what the client's own namespace says.
fn shortened(host: &str, info: &NameInfo, namespace: &str) -> Vec<String> {
    let (short, of) = (&info.shortname, &info.namespace);
    if info.registry != "Kubernetes" || host != format!("{short}.{of}.svc.{CLUSTER_DOMAIN}") {
        // Names of pods under a headless service have a namespace inside.
        return pod_forms(host, info, namespace);
    }
    let own = (of == namespace).then(|| short.clone());
    own.into_iter().chain([format!("{short}.{of}"), format!("{short}.{of}.svc")]).collect()
}

/// `web-0.web.ns.svc.cluster.local` is also `web-0.web`, `web-0.web.ns` and `web-0.web.ns.svc`.
fn pod_forms(host: &str, info: &NameInfo, namespace: &str) -> Vec<String> {
    let suffix = format!(".{}.svc.{CLUSTER_DOMAIN}", info.namespace);
    let Some(stem) = host.strip_suffix(&suffix).filter(|stem| *stem == info.shortname) else { return Vec::new() };
    let own = (info.namespace == namespace).then(|| stem.to_owned());
    own.into_iter().chain([format!("{stem}.{}", info.namespace), format!("{stem}.{}.svc", info.namespace)]).collect()
}

/// An empty answer.
pub(super) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    reply
}

/// Adds the addresses of the wanted family, beginning with another one each time, so that clients that take the first are spread.
fn push_addresses(reply: &mut Message, host: &str, ips: &[IpAddr], kind: RecordType) {
    let wanted: Vec<&IpAddr> = ips
        .iter()
        .filter(|ip| match kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            _ => true,
        })
        .collect();
    let start = if wanted.is_empty() { 0 } else { rand::random::<u32>() as usize % wanted.len() };
    for ip in wanted[start..].iter().chain(&wanted[..start]) {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        push(reply, host, data);
    }
}

fn push(reply: &mut Message, host: &str, data: RData) {
    if let Ok(name) = Name::from_ascii(host) {
        reply.answers.push(Record::from_rdata(name, TTL, data));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn table() -> Table {
        let entry = |host: &str, ips: &[&str], registry: &str, short: &str, namespace: &str| {
            let info = NameInfo {
                ips: ips.iter().map(|s| (*s).to_owned()).collect(),
                registry: registry.to_owned(),
                shortname: short.to_owned(),
                namespace: namespace.to_owned(),
            };
            (host.to_owned(), info)
        };
        let table = [
            entry("order.shop.svc.cluster.local", &["10.96.0.1", "fd01::1"], "Kubernetes", "order", "shop"),
            entry("cart.other.svc.cluster.local", &["10.96.0.2"], "Kubernetes", "cart", "other"),
            entry("db.shop.svc.cluster.local", &["10.0.0.1", "10.0.0.2", "10.0.0.3"], "Kubernetes", "db", "shop"),
            entry("db-0.db.shop.svc.cluster.local", &["10.0.0.1"], "Kubernetes", "db-0.db", "shop"),
            entry("api.example.com", &["240.240.0.7"], "External", "api.example.com", "shop"),
            entry("*.wild.example.com", &["240.240.0.8"], "External", "*.wild.example.com", "shop"),
            entry("*.deep.wild.example.com", &["240.240.0.9"], "External", "*.deep.wild.example.com", "shop"),
        ];
        let body = NameTable { table: table.into() }.encode_to_vec();
        Table::decode(&body.into(), "shop").expect("a table")
    }

    pub(crate) fn query(name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        query
    }

    fn ask(name: &str, kind: RecordType) -> Option<Vec<String>> {
        let reply = table().answer(&query(name, kind))?;
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NoError));
        let mut answers: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
        answers.sort();
        Some(answers)
    }

    #[test]
    fn names_of_services_in_all_their_forms() {
        let one = |ip: &str| Some(vec![ip.to_owned()]);
        for name in ["order.shop.svc.cluster.local.", "ORDER.shop.svc.Cluster.Local.", "order.", "order.shop.", "order.shop.svc."]
        {
            assert_eq!(ask(name, RecordType::A), one("10.96.0.1"), "{name}");
        }
        assert_eq!(ask("order.", RecordType::AAAA), one("fd01::1"));
        assert_eq!(ask("cart.other.", RecordType::A), one("10.96.0.2"));
        assert_eq!(ask("cart.", RecordType::A), None, "another namespace's");
        assert_eq!(ask("cart.other.svc.cluster.local.", RecordType::AAAA), Some(vec![]), "known, but not of this family");
        assert_eq!(ask("order.shop.svc.cluster.local.", RecordType::MX), None, "others know");
        assert_eq!(ask("nobody.shop.svc.cluster.local.", RecordType::A), None);
        for name in ["db-0.db.shop.svc.cluster.local.", "db-0.db.", "db-0.db.shop.", "db-0.db.shop.svc."] {
            assert_eq!(ask(name, RecordType::A), one("10.0.0.1"), "{name}");
        }
    }

    #[test]
    fn names_of_the_world_outside() {
        let one = |ip: &str| Some(vec![ip.to_owned()]);
        assert_eq!(ask("api.example.com.", RecordType::A), one("240.240.0.7"));
        assert_eq!(ask("x.wild.example.com.", RecordType::A), one("240.240.0.8"));
        assert_eq!(ask("x.y.wild.example.com.", RecordType::A), one("240.240.0.8"));
        assert_eq!(ask("x.deep.wild.example.com.", RecordType::A), one("240.240.0.9"));
        assert_eq!(ask("wild.example.com.", RecordType::A), None);
        assert_eq!(
            ask("api.example.com.shop.svc.cluster.local.", RecordType::A),
            Some(vec!["240.240.0.7".to_owned(), "api.example.com.".to_owned()])
        );
        assert_eq!(ask("api.example.com.svc.cluster.local.", RecordType::A), None);
        assert_eq!(ask("order.shop.svc.cluster.local.shop.svc.cluster.local.", RecordType::A), None);
    }

    #[test]
    fn every_address_comes_first_sometimes() {
        let table = table();
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let reply = table.answer(&query("db.", RecordType::A)).expect("known");
            assert_eq!(reply.answers.len(), 3);
            first.insert(reply.answers[0].data.to_string());
        }
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn an_alias_of_a_known_name_is_completed() {
        let table = table();
        let asked = query("out.shop.svc.cluster.local.", RecordType::A);
        let mut reply = reply_to(&asked);
        push(
            &mut reply,
            "out.shop.svc.cluster.local.",
            RData::CNAME(CNAME(Name::from_ascii("api.example.com.").expect("a name"))),
        );
        table.complete(&mut reply);
        assert_eq!(reply.answers.last().map(|r| r.data.to_string()).as_deref(), Some("240.240.0.7"));
        table.complete(&mut reply);
        assert_eq!(reply.answers.len(), 2, "once");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert!(Table::decode(&Bytes::from_static(b"\xff\xff"), "shop").is_err());
    }
}
