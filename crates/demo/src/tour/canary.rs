//! Requests with a header go to v2, others by weight.

use crate::chance::allowed;
use crate::mesh::{FRONTEND, Mesh};
use crate::step::Step;

const REQUESTS: u64 = 1000;

pub(super) async fn show(mesh: &Mesh, step: &mut Step) -> Result<(), String> {
    let asked = mesh.get(FRONTEND, &["http://order-service/", "-H", "x-canary-test:true", "-n", "100"]).await?;
    let met = asked.all_ok() && asked.version("v2") == asked.requests;
    let observed = format!("{asked}; {} from v2", asked.version("v2"));
    step.expect("with x-canary-test: true, v2 alone answers", observed, met);

    let load = mesh.get(FRONTEND, &["http://order-service/", "-n", &REQUESTS.to_string(), "-c", "4"]).await?;
    let (v1, v2, range) = (load.version("v1"), load.version("v2"), allowed(REQUESTS, 0.05));
    let met = load.all_ok() && v1 + v2 == REQUESTS && range.contains(&v2);
    let observed = format!("{load}; {v1} from v1, {v2} from v2 (chance allows {} to {})", range.start(), range.end());
    step.expect("without it, 95 % from v1 and 5 % from v2", observed, met);
    Ok(())
}
