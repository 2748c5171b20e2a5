use super::table::tests::{query, table};
use super::*;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use std::path::Path;

/// A name server that answers everything with one address, truncated over UDP if the name says so; an address of loopback of its own.
async fn other_server(ip: Ipv4Addr) -> u16 {
    let udp = UdpSocket::bind((ip, 0)).await.expect("a port");
    let port = udp.local_addr().expect("bound").port();
    let tcp = TcpListener::bind((ip, port)).await.expect("the same port");
    let answer = |bytes: &[u8], udp: bool| {
        let query = Message::from_vec(bytes).expect("a query");
        let mut reply = table::reply_to(&query);
        let name = query.queries[0].name().clone();
        if udp && name.to_ascii().starts_with("long") {
            reply.metadata.truncation = true;
        } else {
            reply.answers.push(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
        }
        reply.to_vec().expect("encodes")
    };
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(&answer(&buffer[..len], true), from).await;
        }
    });
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
            stream.read_exact(&mut query).await.expect("a query");
            stream.write_all(&framed(&answer(&query, false)).expect("short")).await.expect("written");
        }
    });
    port
}

fn server(resolv_conf: &Path, port: u16, questions: usize) -> Rc<Server> {
    let names = Arc::new(Names::default());
    names.table.store(Arc::new(table()));
    let upstream = Upstream::with_file(resolv_conf.to_owned(), port);
    Rc::new(Server { names, upstream, waiting: Semaphore::new(questions) })
}

async fn over_tcp_once(to: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(to).await.expect("connects");
    stream.write_all(&framed(&query.to_vec().expect("encodes")).expect("short")).await.expect("written");
    let mut reply = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
    stream.read_exact(&mut reply).await.expect("an answer");
    Message::from_vec(&reply).expect("an answer")
}

async fn over_udp_once(to: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    socket.send_to(&query.to_vec().expect("encodes"), to).await.expect("sent");
    let mut buffer = vec![0; 4096];
    let len = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.expect("in time").expect("an answer");
    Message::from_vec(&buffer[..len]).expect("an answer")
}

fn data(reply: &Message) -> Vec<String> {
    reply.answers.iter().map(|r| r.data.to_string()).collect()
}

#[tokio::test]
async fn the_table_answers_and_the_rest_is_asked_elsewhere() {
    let test = async {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("resolv.conf");
        let ip = Ipv4Addr::new(127, 0, 53, 1);
        let port = other_server(ip).await;
        std::fs::write(&file, format!("nameserver {ip}\n")).expect("written");
        let server = server(&file, port, 10);
        let udp = Rc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let at = udp.local_addr().expect("bound");
        let tcp = TcpListener::bind(at).await.expect("the same port");
        tokio::task::spawn_local(over_udp(udp, server.clone()));
        tokio::task::spawn_local(over_tcp(tcp, server.clone()));

        for (name, expected) in [("api.example.com.", "240.240.0.7"), ("elsewhere.org.", "192.0.2.1")] {
            let asked = query(name, RecordType::A);
            assert_eq!(data(&over_udp_once(at, &asked).await), [expected], "{name} over UDP");
            assert_eq!(data(&over_tcp_once(at, &asked).await), [expected], "{name} over TCP");
        }
        // What does not fit is asked for again, by the program itself.
        let long = query("long.elsewhere.org.", RecordType::A);
        assert!(over_udp_once(at, &long).await.metadata.truncation);
        assert_eq!(data(&over_tcp_once(at, &long).await), ["192.0.2.1"]);
        let stats = &server.names.stats;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        assert_eq!((read(&stats.requests), read(&stats.upstream_requests), read(&stats.upstream_failures)), (6, 4, 0));

        // Nonsense is answered as such, and answers not at all.
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.send_to(b"\x12\x34nonsense", at).await.expect("sent");
        let mut buffer = vec![0; 512];
        let len = socket.recv(&mut buffer).await.expect("an answer");
        let reply = Message::from_vec(&buffer[..len]).expect("an answer");
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, ResponseCode::FormErr));
        assert!(server.answer(&table::reply_to(&long).to_vec().expect("encodes"), false).await.is_none());
    };
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn without_a_server_the_answer_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = server(&dir.path().join("none"), 53, 10);
    let asked = query("elsewhere.org.", RecordType::A).to_vec().expect("encodes");
    let (reply, _) = server.answer(&asked, false).await.expect("an answer");
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.names.stats.upstream_failures.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn too_many_questions_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = server(&dir.path().join("none"), 53, 0);
    let asked = query("elsewhere.org.", RecordType::A).to_vec().expect("encodes");
    let (reply, _) = server.answer(&asked, false).await.expect("an answer");
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.names.stats.upstream_requests.load(Ordering::Relaxed), 0, "nobody was asked");
    let known = query("api.example.com.", RecordType::A).to_vec().expect("encodes");
    assert_eq!(data(&server.answer(&known, false).await.expect("an answer").0), ["240.240.0.7"]);
}
