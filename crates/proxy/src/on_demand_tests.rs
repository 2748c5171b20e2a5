//! Learning on demand, on a paused clock.

use super::*;
use lateen_xds::on_demand::shards;

const ORDER: &str = "order.shop.svc.cluster.local";

fn on_demand() -> Arc<OnDemand> {
    let settings = AutomaticScope { above: Some(0), ..AutomaticScope::default() };
    let on_demand = OnDemand::new(&settings, "shop");
    let hosts = [ORDER, "cart.shop.svc.cluster.local", "api.example.com"];
    let shards = shards(hosts.into_iter(), [[10, 96, 0, 1].into()].into_iter());
    on_demand.set_index(shards.iter().fold(Index::default(), |index, (name, body)| index.with(name, body).expect("a shard")));
    Arc::new(on_demand)
}

fn host(name: &str) -> Question {
    Question::Host(name.to_owned())
}

/// What the control plane would be asked, answered and in force.
fn answer(on_demand: &OnDemand, learned: &mut Learned, question: &Question, hosts: &[&str]) {
    learned.asked(question.clone(), Instant::now());
    learned.answered(question, hosts.iter().map(|h| (*h).to_owned()).collect());
    learned.in_force(on_demand, Instant::now());
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_answer_and_the_next_does_not() {
    let on_demand = on_demand();
    let mut questions = on_demand.questions();
    let mut learned = Learned::default();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let on_demand = on_demand.clone();
            tokio::spawn(async move { on_demand.learn(on_demand.open_questions(&host("order"))).await })
        })
        .collect();
    let asked = questions.recv().await.expect("a question");
    assert_eq!(asked, host(ORDER), "by the name that the index has");
    learned.asked(asked.clone(), Instant::now());
    learned.answered(&asked, vec![ORDER.to_owned()]);
    assert!(!on_demand.open_questions(&host("order")).is_empty(), "not before it is in force");
    learned.in_force(&on_demand, Instant::now());
    for call in calls {
        assert_eq!(call.await.expect("ends"), Ok(()));
    }
    assert!(questions.try_recv().is_err(), "asked once for all three");
    for form in ["order", "ORDER.shop", "order.shop.svc", ORDER] {
        assert_eq!(on_demand.open_questions(&Question::of_host(form)), [], "{form}");
    }
    assert_eq!((on_demand.known(), on_demand.stats.asked.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_mesh_does_not_have_is_not_asked_for() {
    let on_demand = on_demand();
    for unknown in ["nobody", "example.com", "192.0.2.1", "order.other"] {
        assert_eq!(on_demand.open_questions(&Question::of_host(unknown)), [], "{unknown}");
    }
    assert_eq!(on_demand.open_questions(&Question::of_host("10.96.0.1")), [Question::Ip([10, 96, 0, 1].into())]);
    let eager = OnDemand::default();
    assert_eq!(eager.open_questions(&host(ORDER)), [], "without an index nothing is asked");
}

#[tokio::test(start_paused = true)]
async fn a_name_behind_the_search_domain_is_the_name() {
    let on_demand = on_demand();
    let expected = [host("api.example.com")];
    assert_eq!(on_demand.open_questions_of_name("API.example.com.shop.svc.cluster.local."), expected);
    assert_eq!(on_demand.open_questions_of_name("api.example.com."), expected);
    assert_eq!(on_demand.open_questions_of_name("order.shop.svc.cluster.local."), [host(ORDER)]);
    assert_eq!(on_demand.open_questions_of_name("nobody.shop.svc.cluster.local."), []);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_call_fails_in_time_and_a_late_one_serves_the_next() {
    let on_demand = on_demand();
    let mut questions = on_demand.questions();
    let began = Instant::now();
    assert_eq!(on_demand.learn(vec![host(ORDER)]).await, Err(Unanswered));
    assert_eq!(began.elapsed(), AutomaticScope::default().patience);
    assert_eq!(on_demand.stats.failed.load(Ordering::Relaxed), 1);
    // The control plane comes back: the question is still asked.
    let mut learned = Learned::default();
    let asked = questions.recv().await.expect("a question");
    answer(&on_demand, &mut learned, &asked, &[ORDER]);
    assert_eq!(on_demand.open_questions(&host(ORDER)), []);
    assert_eq!(on_demand.learn(vec![host(ORDER)]).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_forgotten_and_can_be_learnt_again() {
    let on_demand = on_demand();
    let mut learned = Learned::default();
    let (order, cart) = (host(ORDER), host("cart.shop.svc.cluster.local"));
    answer(&on_demand, &mut learned, &order, &[ORDER]);
    answer(&on_demand, &mut learned, &cart, &["cart.shop.svc.cluster.local"]);
    let step = sweep_interval(&AutomaticScope::default());
    let began = Instant::now();
    let mut gone = Vec::new();
    while began.elapsed() < AutomaticScope::default().forget_after {
        tokio::time::advance(step).await;
        gone.extend(learned.forget_unused(&on_demand, Instant::now(), |host| host == ORDER));
    }
    assert_eq!(gone, std::slice::from_ref(&cart), "the other one is used");
    assert_eq!(on_demand.open_questions(&cart), std::slice::from_ref(&cart));
    assert_eq!(on_demand.open_questions(&order), []);
    answer(&on_demand, &mut learned, &cart, &[]);
    assert_eq!(on_demand.open_questions(&cart), [], "also that there is nothing is an answer");
    tokio::time::advance(AutomaticScope::default().forget_after).await;
    assert_eq!(learned.forget_unused(&on_demand, Instant::now(), |_| false).len(), 2);
    assert_eq!((learned.iter().count(), on_demand.known()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_question_is_never_forgotten() {
    let on_demand = on_demand();
    let mut learned = Learned::default();
    learned.asked(host(ORDER), Instant::now());
    tokio::time::advance(AutomaticScope::default().forget_after * 2).await;
    assert_eq!(learned.forget_unused(&on_demand, Instant::now(), |_| false), []);
    learned.answered(&host(ORDER), vec![ORDER.to_owned()]);
    learned.in_force(&on_demand, Instant::now());
    assert_eq!(on_demand.known(), 1);
}
