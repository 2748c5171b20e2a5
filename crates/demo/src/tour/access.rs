//! payment-service answers who may ask, for what may be asked.

use crate::mesh::{FRONTEND, Mesh, Pod};
use crate::step::Step;

/// Method, path, whether order-service may.
const ASKED: [(&str, &str, bool); 5] = [
    ("POST", "/v1/payments", true),
    ("POST", "/v1/payments/42", true),
    ("GET", "/v1/payments", false),
    ("POST", "/v1/refunds", false),
    ("POST", "/v1/payments/../refunds", false),
];

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let order = mesh.pods("order-service", None).await?;
    let order = order.first().map(Pod::from).ok_or("no pod of order-service")?;
    for (method, path, may) in ASKED {
        ask(mesh, step, (order, "order-service"), (method, path, may)).await?;
    }
    ask(mesh, step, (FRONTEND, "frontend"), ("POST", "/v1/payments", false)).await
}

async fn ask(
    mesh: &Mesh,
    step: &mut Step,
    (pod, who): (Pod<'_>, &str),
    (method, path, may): (&str, &str, bool),
) -> Result<(), String> {
    let load = mesh.get(pod, &[&format!("http://payment-service{path}"), "-X", method]).await?;
    let refused = load.status(403) == 1 && load.body() == "RBAC: access denied";
    let (word, met) = if may { ("may", load.all_ok()) } else { ("may not", refused) };
    let observed = if load.body().is_empty() { load.to_string() } else { format!("{load} {:?}", load.body()) };
    step.expect(&format!("{who} {word} {method} {path}"), observed, met);
    Ok(())
}
