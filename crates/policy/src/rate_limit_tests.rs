use super::*;
use crate::request::testing::Request;
use lateen_model::dataplane::{HeaderMatch, HeaderPredicate, StringMatch};
use proptest::prelude::*;

fn bucket(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> TokenBucket {
    TokenBucket { max_tokens, tokens_per_fill, fill_interval }
}

fn limits(rules: Vec<RateLimitRule>) -> RateLimits {
    RateLimits { name: "shop/web".into(), rules, retry_after: true, max_clients: 1000 }
}

fn rule(name: &str, client: Option<RateLimitClient>, bucket: TokenBucket) -> RateLimitRule {
    RateLimitRule { name: name.into(), headers: Vec::new(), client, bucket }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let rate = Rate::new(bucket(3, 2, SECOND));
    let tokens = Bucket::default();
    let at = |millis: u64| parts(Duration::from_millis(1000 + millis));
    let taken = |time: u64| (0..10).filter(|_| tokens.take(rate, at(time)).is_ok()).count();
    assert_eq!(taken(0), 3, "the burst");
    assert_eq!(taken(499), 0);
    assert_eq!(taken(500), 1, "two a second are one in half a second");
    assert_eq!(taken(1499), 1);
    assert_eq!(taken(10_000), 3, "no more than the burst, however long nobody came");
}

proptest! {
    /// Whenever requests come, in no span of time more pass than the burst and what comes back meanwhile.
    #[test]
    fn never_more_than_the_burst_and_the_rate(max in 1_u32..20, fill in 1_u32..50, gaps in prop::collection::vec(0_u64..200, 1..200)) {
        let rate = Rate::new(bucket(max, fill, SECOND));
        let tokens = Bucket::default();
        let mut now = 5_000;
        let mut passed: Vec<u64> = Vec::new();
        for gap in gaps {
            now += gap;
            if tokens.take(rate, parts(Duration::from_millis(now))).is_ok() {
                passed.push(now);
            }
        }
        for (i, from) in passed.iter().enumerate() {
            for (j, to) in passed.iter().enumerate().skip(i) {
                let count = u64::try_from(j - i + 1).unwrap();
                // One more, for the token that comes back at that very moment.
                prop_assert!(count <= u64::from(max) + (to - from) * u64::from(fill) / 1000 + 1, "{count} in {} ms", to - from);
            }
        }
    }
}

#[test]
fn a_refusal_says_when_to_come_again() {
    let model = limits(vec![rule("all", None, bucket(1, 1, Duration::from_secs(10)))]);
    let engine = Engine::compile(&model, &Registry::default());
    let request = Request::get("a", "/");
    let at = |millis: u64| engine.admit(&request, &request, Duration::from_millis(5000 + millis));
    assert_eq!(at(0), Ok(()));
    assert_eq!(at(0), Err(Refusal { retry_after: Some(10) }));
    assert_eq!(at(7500), Err(Refusal { retry_after: Some(3) }));
    assert_eq!(at(9999), Err(Refusal { retry_after: Some(1) }));
    assert_eq!(at(10_000), Ok(()));
}

#[test]
fn workers_share_a_bucket() {
    let registry = Registry::default();
    let model = limits(vec![rule("all", None, bucket(1000, 1, Duration::from_secs(3600)))]);
    let workers: Vec<Engine> = (0..4).map(|_| Engine::compile(&model, &registry)).collect();
    let request = Request::get("a", "/");
    let passed: usize = std::thread::scope(|scope| {
        let count = |engine: &Engine| (0..1000).filter(|_| engine.admit(&request, &request, SECOND).is_ok()).count();
        let running: Vec<_> = workers.iter().map(|engine| scope.spawn(move || count(engine))).collect();
        running.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(passed, 1000);
    // A configuration that says the same goes on with it, another begins anew, and nothing is kept of what nobody has.
    assert!(Engine::compile(&model, &registry).admit(&request, &request, SECOND).is_err());
    let other = limits(vec![rule("all", None, bucket(1001, 1, Duration::from_secs(3600)))]);
    assert!(Engine::compile(&other, &registry).admit(&request, &request, SECOND).is_ok());
    drop(workers);
    assert!(Engine::compile(&model, &registry).admit(&request, &request, SECOND).is_ok());
    assert!(registry.0.lock().unwrap().len() <= 2);
}

#[test]
fn each_client_has_its_own() {
    let registry = Registry::default();
    let one = bucket(1, 1, Duration::from_secs(60));
    let engine = |client| Engine::compile(&limits(vec![rule("each", Some(client), one)]), &registry);
    let admits = |engine: &Engine, request: &Request| engine.admit(request, request, SECOND).is_ok();
    let from = |address: &str| Request { client: address.parse().unwrap(), ..Request::get("a", "/") };
    let by_address = engine(RateLimitClient::Address);
    assert!(admits(&by_address, &from("10.0.0.1")) && admits(&by_address, &from("10.0.0.2")));
    assert!(!admits(&by_address, &from("10.0.0.1")) && !admits(&by_address, &from("::ffff:10.0.0.2")));
    let who = |uri: Option<&str>| Request { verified: uri.is_some(), uri_san: uri.map(Into::into), ..Request::get("a", "/") };
    let by_identity = engine(RateLimitClient::Identity);
    assert!(admits(&by_identity, &who(Some("spiffe://a"))) && admits(&by_identity, &who(None)));
    assert!(!admits(&by_identity, &who(Some("spiffe://a"))) && !admits(&by_identity, &who(None)));
    assert!(admits(&by_identity, &who(Some("spiffe://b"))));
    let says = |values: &[&str]| {
        let headers = values.iter().map(|value| ("x-user".to_owned(), value.as_bytes().to_vec())).collect();
        Request { headers, ..Request::get("a", "/") }
    };
    let by_header = engine(RateLimitClient::Header("x-user".into()));
    assert!(admits(&by_header, &says(&["a"])) && admits(&by_header, &says(&["b"])) && !admits(&by_header, &says(&["a"])));
    assert!(admits(&by_header, &says(&["a", "b"])) && !admits(&by_header, &says(&["a", "b"])));
    assert!((0..10).all(|_| admits(&by_header, &says(&[]))), "the rule is not for requests without the header");
}

#[test]
fn a_request_needs_a_token_of_every_rule_that_it_matches() {
    let value = |name: &str, value: StringMatch| HeaderMatch {
        name: name.into(),
        predicate: HeaderPredicate::Value(value),
        invert: false,
        missing_is_empty: false,
    };
    let narrow = RateLimitRule {
        headers: vec![value(":path", StringMatch::prefix("/a")), value(":method", StringMatch::exact("GET"))],
        ..rule("narrow", None, bucket(1, 1, Duration::from_secs(60)))
    };
    let all = rule("all", None, bucket(3, 1, Duration::from_secs(60)));
    let engine = Engine::compile(&limits(vec![narrow, all]), &Registry::default());
    let asks = |method: &str, path: &str| {
        let request = Request { method: method.into(), ..Request::get("a", path) };
        engine.admit(&request, &request, SECOND).is_ok()
    };
    assert!(asks("GET", "/a") && !asks("GET", "/ab"), "the narrow one has one");
    assert!(asks("POST", "/a") && asks("GET", "/b") && !asks("GET", "/b"), "the wide one has three");
}

#[test]
fn many_clients_do_not_take_more_room() {
    let clients = Clients::new(100);
    assert_eq!(clients.slots.len(), 128);
    let rate = Rate::new(bucket(1, 1, Duration::from_secs(60)));
    let now = |seconds: u64| parts(Duration::from_secs(seconds));
    // One that asks all the time is not forgotten for those that come once.
    assert!(clients.take(b"busy", rate, now(100)).is_ok());
    let mut refused = 0;
    for n in 0..10_000_u64 {
        let _ = clients.take(&n.to_le_bytes(), rate, now(100));
        refused += u64::from(clients.take(b"busy", rate, now(100)).is_err());
    }
    assert!(refused > 5000, "{refused}");
}
