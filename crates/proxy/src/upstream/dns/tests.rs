//! A cluster follows a name server.

use super::resolver::{ResolveError, Resolver};
use super::*;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record};
use lateen_model::dataplane::{DnsEndpoint, DnsFamily, DnsLocality, EndpointHealth, Locality, TlsMode};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the name server says: records, or a code.
type Zone = Rc<RefCell<Result<Vec<Record>, ResponseCode>>>;

fn a(name: &str, ip: [u8; 4], ttl: u32) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::A(A(Ipv4Addr::from(ip))))
}

fn reply(query: &[u8], zone: &Zone) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.queries.clone_from(&query.queries);
    match &*zone.borrow() {
        Ok(records) => reply.answers.clone_from(records),
        Err(code) => reply.metadata.response_code = *code,
    }
    reply
}

/// A name server on an address of loopback that no other test has, which the resolver finds by its files.
async fn server(ip: [u8; 4], zone: Zone) -> (Resolver, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let ip = Ipv4Addr::from(ip);
    std::fs::write(files.path().join("resolv.conf"), format!("nameserver {ip}\noptions timeout:1 attempts:1\n")).unwrap();
    std::fs::write(files.path().join("hosts"), "10.9.9.9 fixed.example\n").unwrap();
    let udp = tokio::net::UdpSocket::bind((ip, 53)).await.unwrap();
    let tcp = tokio::net::TcpListener::bind((ip, 53)).await.unwrap();
    let over_tcp = zone.clone();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            let reply = reply(&buffer[..len], &zone);
            let bytes = reply.to_vec().unwrap();
            let bytes = if bytes.len() > 1232 { reply.truncate().to_vec().unwrap() } else { bytes };
            udp.send_to(&bytes, from).await.unwrap();
        }
    });
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let bytes = reply(&query, &over_tcp).to_vec().unwrap();
            stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    let resolver = Resolver::with_files(files.path().join("resolv.conf"), files.path().join("hosts"));
    (resolver, files)
}

#[tokio::test]
async fn questions_are_answered_by_files_udp_and_tcp() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let zone: Zone = Rc::new(RefCell::new(Ok(vec![
                Record::from_rdata(
                    Name::from_ascii("api.example.").unwrap(),
                    7,
                    RData::CNAME(CNAME(Name::from_ascii("real.example.").unwrap())),
                ),
                a("real.example.", [10, 0, 0, 1], 30),
                a("real.example.", [10, 0, 0, 2], 60),
                a("other.example.", [10, 0, 0, 3], 60),
            ])));
            let (resolver, _files) = server([127, 53, 0, 1], zone.clone()).await;
            let answer = resolver.lookup("api.example", DnsFamily::V4Only).await.unwrap();
            let ips: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
            assert_eq!((answer.addresses, answer.life), (ips, Some(Duration::from_secs(7))));
            let fixed = resolver.lookup("fixed.example", DnsFamily::V4Only).await.unwrap();
            assert_eq!((fixed.addresses.len(), fixed.life), (1, None));

            let many = (0..200).map(|i| a("real.example.", [10, 0, 1, i], 5)).collect();
            *zone.borrow_mut() = Ok(many);
            assert_eq!(resolver.lookup("real.example", DnsFamily::V4Only).await.unwrap().addresses.len(), 200, "over TCP");

            *zone.borrow_mut() = Err(ResponseCode::NXDomain);
            assert!(resolver.lookup("real.example", DnsFamily::V4Only).await.unwrap().addresses.is_empty());
            *zone.borrow_mut() = Err(ResponseCode::ServFail);
            let error = resolver.lookup("real.example", DnsFamily::V4Only).await.unwrap_err();
            assert!(matches!(error, ResolveError::Refused(_, ResponseCode::ServFail)), "{error}");
        })
        .await;
}

fn cluster_of(hosts: &[&str]) -> Arc<Cluster> {
    cluster_like(DnsKind::Strict, 80, hosts)
}

fn cluster_like(kind: DnsKind, port: u16, hosts: &[&str]) -> Arc<Cluster> {
    let endpoint = |host: &&str| DnsEndpoint {
        host: (*host).to_owned(),
        port,
        health: EndpointHealth::Healthy,
        weight: 1,
        tls_mode: TlsMode::Disabled,
        workload: None,
    };
    let locality =
        DnsLocality { locality: Locality::default(), priority: 0, weight: None, endpoints: hosts.iter().map(endpoint).collect() };
    let mut model = crate::testing::cluster("names", None);
    model.discovery = Discovery::Dns(Box::new(DnsDiscovery {
        kind,
        localities: vec![locality],
        family: DnsFamily::V4Only,
        refresh: Duration::from_millis(20),
        respect_ttl: false,
        failure: None,
        jitter: Duration::ZERO,
    }));
    let mut secrets = crate::config::secrets::Secrets::new(lateen_tls::WorkloadIdentity::new());
    Arc::new(Cluster::compile(model, &mut secrets, None).unwrap())
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    let mut all: Vec<String> = cluster.hosts().iter().map(|h| h.address.to_string()).collect();
    all.sort();
    all
}

async fn until(cluster: &Cluster, expected: &[&str]) {
    let reached = async {
        while addresses(cluster) != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), reached).await;
    assert!(waited.is_ok(), "{:?} instead of {expected:?}", addresses(cluster));
}

#[tokio::test]
async fn a_cluster_follows_its_names() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let zone: Zone = Rc::new(RefCell::new(Ok(vec![a("api.example.", [10, 0, 0, 1], 1)])));
            let (resolver, _files) = server([127, 53, 0, 2], zone.clone()).await;
            let mut follower = Follower { resolver: Rc::new(resolver), resolved: Rc::default(), followed: Vec::new() };
            let cluster = cluster_of(&["api.example", "10.0.0.9"]);
            assert!(!cluster.is_resolved());
            let resolved = follower.resolved();
            follower.follow([&cluster].into_iter());
            resolved.notified().await;
            assert!(cluster.is_resolved());
            assert_eq!(addresses(&cluster), ["10.0.0.1:80", "10.0.0.9:80"]);

            *zone.borrow_mut() = Ok(vec![a("api.example.", [10, 0, 0, 2], 1), a("api.example.", [10, 0, 0, 3], 1)]);
            until(&cluster, &["10.0.0.2:80", "10.0.0.3:80", "10.0.0.9:80"]).await;
            // A server that fails changes nothing; one that says that there is nothing does.
            *zone.borrow_mut() = Err(ResponseCode::ServFail);
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(addresses(&cluster).len(), 3);
            *zone.borrow_mut() = Err(ResponseCode::NXDomain);
            until(&cluster, &["10.0.0.9:80"]).await;

            follower.follow(std::iter::empty());
            assert!(follower.followed.is_empty());
        })
        .await;
}

#[tokio::test]
async fn a_logical_name_leads_to_whichever_of_its_addresses_answers() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            // Nobody listens at the first two.
            let records = [[127, 53, 9, 1], [127, 53, 9, 2], [127, 0, 0, 1]].map(|ip| a("api.example.", ip, 1)).to_vec();
            let zone: Zone = Rc::new(RefCell::new(Ok(records)));
            let (resolver, _files) = server([127, 53, 0, 3], zone).await;
            let mut follower = Follower { resolver: Rc::new(resolver), resolved: Rc::default(), followed: Vec::new() };
            let cluster = cluster_like(DnsKind::Logical, port, &["api.example"]);
            let resolved = follower.resolved();
            follower.follow([&cluster].into_iter());
            resolved.notified().await;
            assert_eq!(addresses(&cluster), [format!("127.53.9.1:{port}")]);
            let host = cluster.hosts().iter().next().unwrap().clone();
            let opened =
                crate::upstream::connect(&cluster, &host, &crate::upstream::Purpose::Tcp.into(), Default::default()).await;
            assert_eq!(opened.unwrap().local.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        })
        .await;
}
