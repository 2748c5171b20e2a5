//! Keeps the workload's identity fresh: a key made here, a certificate asked of the CA, replaced at half of its life.

use super::ca;
use super::channel::ControlPlane;
use lateen_model::identity::SpiffeId;
use lateen_tls::RotationPolicy;
use lateen_tls::WorkloadKey;
use lateen_tls::{Credential, WorkloadIdentity};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The first and the longest pause after a failed request for a certificate.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What is counted of renewals.
#[derive(Debug, Default)]
pub(crate) struct RenewalStats {
    /// Certificates obtained.
    pub(crate) succeeded: AtomicU64,
    /// Requests that failed.
    pub(crate) failed: AtomicU64,
}

/// What is asked for, and when again.
pub(crate) struct Renewal {
    pub(crate) identity: SpiffeId,
    pub(crate) life: Duration,
    pub(crate) policy: RotationPolicy,
}

/// Obtains certificates for ever. A certificate that is in force stays so until the next one is there, so that an absent CA
/// harms nobody before it expires.
pub(crate) async fn renew(control_plane: &ControlPlane, store: &WorkloadIdentity, renewal: &Renewal, stats: &RenewalStats) {
    let mut pause = RETRY.0;
    loop {
        match obtain(control_plane, store, renewal).await {
            Ok(next) => {
                stats.succeeded.fetch_add(1, Ordering::Relaxed);
                pause = RETRY.0;
                tokio::time::sleep(next).await;
            }
            Err(reason) => {
                stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%reason, identity = %renewal.identity, "no certificate yet; trying again in {pause:?}");
                tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// Obtains one certificate, puts it in force and says how long it is good for.
async fn obtain(control_plane: &ControlPlane, store: &WorkloadIdentity, renewal: &Renewal) -> Result<Duration, String> {
    let key = WorkloadKey::generate().map_err(|e| format!("making a key: {e}"))?;
    let csr = key.signing_request(&renewal.identity).map_err(|e| format!("making a signing request: {e}"))?;
    let chain = ca::sign(control_plane, csr, renewal.life)
        .await
        .map_err(|status| format!("certificate authority: {} ({:?})", status.message(), status.code()))?;
    let (credential, roots) =
        Credential::from_ca_response(&chain, &key).map_err(|e| format!("certificate authority's answer: {e}"))?;
    match credential.leaf().identity() {
        Some(id) if *id == renewal.identity => {}
        other => return Err(format!("certificate authority's answer is for {other:?}, not for {}", renewal.identity)),
    }
    let (obtained, not_after) = (credential.obtained(), credential.leaf().not_after());
    // Roots first: a peer may present a certificate of the new root at once.
    store.install_trust(roots);
    store.install(credential);
    let wait = renewal.policy.delay_from_now(obtained, not_after);
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    tracing::info!(identity = %renewal.identity, "certificate in force for {}s, replaced in {}s", left.as_secs(), wait.as_secs());
    // A certificate that is already due (a clock that jumped, a life of zero) must not become a busy loop.
    Ok(wait.max(RETRY.0))
}
