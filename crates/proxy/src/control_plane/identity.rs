//! Keeps the workload's identity fresh: a key made here, a certificate asked of the CA, replaced at half of its life.

use super::ca;
use super::channel::ControlPlane;
use crate::bootstrap::Settings;
use lateen_model::identity::SpiffeId;
use lateen_tls::RotationPolicy;
use lateen_tls::{Credential, TrustBundle, WorkloadKey};
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

impl Renewal {
    /// What the settings ask for.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            identity: settings.identity.clone(),
            life: settings.secret_ttl,
            // The settings were checked to be ratios when they were read.
            policy: RotationPolicy::try_new(settings.secret_grace, settings.secret_grace_jitter).unwrap_or_default(),
        }
    }
}

/// A certificate as it was obtained.
pub(crate) struct Issued {
    pub(crate) credential: Credential,
    pub(crate) roots: TrustBundle,
    pub(crate) key: WorkloadKey,
}

/// Obtains certificates for ever and gives each to `install`. A certificate that is in force stays so until the next one is there, so that an absent CA
/// harms nobody before it expires.
pub(crate) async fn renew(
    control_plane: &ControlPlane,
    renewal: &Renewal,
    stats: &RenewalStats,
    mut install: impl FnMut(Issued),
) {
    let mut pause = RETRY.0;
    loop {
        match obtain(control_plane, renewal).await {
            Ok(issued) => {
                stats.succeeded.fetch_add(1, Ordering::Relaxed);
                pause = RETRY.0;
                let next = due(renewal, &issued.credential);
                install(issued);
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

/// Obtains one certificate.
async fn obtain(control_plane: &ControlPlane, renewal: &Renewal) -> Result<Issued, String> {
    let key = WorkloadKey::generate().map_err(|e| format!("making a key: {e}"))?;
    let csr = key.signing_request(&renewal.identity).map_err(|e| format!("making a signing request: {e}"))?;
    let chain = ca::sign(control_plane, csr, renewal.life)
        .await
        .map_err(|status| format!("certificate authority: {} ({:?})", status.message(), status.code()))?;
    let (credential, roots) =
        Credential::from_ca_response(&chain, &key).map_err(|e| format!("certificate authority's answer: {e}"))?;
    match credential.leaf().identity() {
        Some(id) if *id == renewal.identity => Ok(Issued { credential, roots, key }),
        other => Err(format!("certificate authority's answer is for {other:?}, not for {}", renewal.identity)),
    }
}

/// How long a certificate is good for before the next one is due.
fn due(renewal: &Renewal, credential: &Credential) -> Duration {
    let (obtained, not_after) = (credential.obtained(), credential.leaf().not_after());
    let wait = renewal.policy.delay_from_now(obtained, not_after);
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    tracing::info!(identity = %renewal.identity, "certificate in force for {}s, replaced in {}s", left.as_secs(), wait.as_secs());
    // A certificate that is already due (a clock that jumped, a life of zero) must not become a busy loop.
    wait.max(RETRY.0)
}
