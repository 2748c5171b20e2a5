//! Too many requests at once fail at once.

use std::time::Duration;

use crate::access_log::{entries, word};
use crate::mesh::{Mesh, Pod, until};
use crate::step::Step;

/// A path that only this step asks for, and that the policy allows.
const WITNESS: &str = "/v1/payments/tour-breaker";
/// `http2MaxRequests` and `http1MaxPendingRequests`.
const LIMIT: u64 = 100;
const SENT: u64 = 160;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let payments = mesh.pods("payment-service", None).await?;
    let result = slow(mesh, step).await;
    mesh.behave(&payments).await?;
    result
}

async fn slow(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    for pod in mesh.pods("payment-service", None).await? {
        // Slower than any machine needs to send all of them.
        mesh.misbehave(&pod, r#"{"delay":"2s","path":"/v1/"}"#).await?;
    }
    let orders = mesh.pods("order-service", None).await?;
    let order = orders.first().ok_or("no pod of order-service")?;
    let (url, sent) = (format!("http://payment-service{WITNESS}"), SENT.to_string());
    let load = mesh.get(Pod::from(order), &[&url, "-X", "POST", "-n", &sent, "-c", &sent]).await?;
    let met = load.status(200) == LIMIT && load.status(503) == SENT - LIMIT;
    step.expect(&format!("of {SENT} requests at once {LIMIT} are sent, the rest get 503"), &load, met);

    let own = |pod: &str| entries(mesh.logs(), &order.namespace, pod, WITNESS);
    let look = || async { Ok(own(&order.name)) };
    let wanted = usize::try_from(SENT).map_err(|e| e.to_string())?;
    let log = until(Duration::from_secs(5), look, |log| log.len() >= wanted).await?;
    let refused: Vec<_> = log.iter().filter(|e| word(e, "response_code") == "503").collect();
    let flagged = refused.iter().filter(|e| word(e, "response_flags") == "UO").count();
    let slowest = refused.iter().filter_map(|e| word(e, "duration").parse::<u64>().ok()).max();
    let met = flagged == refused.len() && !refused.is_empty() && slowest.is_some_and(|ms| ms < 1000);
    let observed =
        format!("{flagged} of {} log entries with 503 have UO, the slowest after {} ms", refused.len(), slowest.unwrap_or(0));
    step.expect("they fail fast, with the response flag UO in the access log", observed, met);
    Ok(())
}
