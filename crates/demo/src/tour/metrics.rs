//! Each request is counted where it starts and where it arrives.

use std::time::Duration;

use crate::mesh::{FRONTEND, Mesh, Pod, until};
use crate::metrics::sum;
use crate::step::Step;

const REQUESTS: u64 = 100;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let before = counted(mesh).await?;
    let load = mesh.get(FRONTEND, &["http://order-service/", "-n", &REQUESTS.to_string()]).await?;
    let grown = |now: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
    let after = until(Duration::from_secs(3), || counted(mesh), |now| grown(*now).iter().all(|n| *n >= REQUESTS)).await?;
    let [source, destination] = grown(after);
    let observed = format!("{load}; +{source} by frontend's sidecar, +{destination} by the sidecars of order-service");
    let met = load.all_ok() && source == REQUESTS && destination == REQUESTS;
    step.expect(
        &format!("{REQUESTS} requests are {REQUESTS} in istio_requests_total of both sides, as mutual_tls"),
        observed,
        met,
    );
    Ok(())
}

/// What both sides have counted of successful requests from frontend to order-service.
async fn counted(mesh: &Mesh) -> Result<[u64; 2], String> {
    let both = [("source_workload", "frontend"), ("destination_service_name", "order-service"), ("response_code", "200")];
    let labels = |more: &[(&'static str, &'static str)]| [&both[..], more].concat();
    let page = mesh.page(FRONTEND, "stats/prometheus").await?;
    let source = sum(&page, "istio_requests_total", &labels(&[("reporter", "source")]));
    let mut destination = 0;
    for pod in mesh.pods("order-service", None).await? {
        let page = mesh.page(Pod::from(&pod), "stats/prometheus").await?;
        let labels = labels(&[("reporter", "destination"), ("connection_security_policy", "mutual_tls")]);
        destination += sum(&page, "istio_requests_total", &labels);
    }
    Ok([source, destination])
}
