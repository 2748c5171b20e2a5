//! The tour: the features of the mesh, a file each, in an order in which none disturbs the next.

mod access;
mod breaker;
mod canary;
mod control_plane;
mod identity;
mod live;
mod metrics;
mod outlier;
mod retries;
mod rollout;
mod scope;
mod traces;

use lateen_local::MeshName;

use crate::manifests::Manifests;
use crate::mesh::Mesh;
use crate::step::{Step, Summary};

/// A feature of the tour.
#[derive(Clone, Copy, Debug)]
enum Feature {
    Canary,
    Retries,
    Identity,
    Access,
    Scope,
    Metrics,
    Traces,
    Outlier,
    Breaker,
    Live,
    Rollout,
    ControlPlane,
}

impl Feature {
    const ALL: [Self; 12] = [
        Self::Canary,
        Self::Retries,
        Self::Identity,
        Self::Access,
        Self::Scope,
        Self::Metrics,
        Self::Traces,
        Self::Outlier,
        Self::Breaker,
        Self::Live,
        Self::Rollout,
        Self::ControlPlane,
    ];

    /// Its title, and the manifest that asks for it.
    fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Canary => ("Canary by header and by weight", "traffic.yaml"),
            Self::Retries => ("Retries and timeouts", "traffic.yaml"),
            Self::Identity => ("Mutual TLS and identities", "security.yaml"),
            Self::Access => ("Authorization", "security.yaml"),
            Self::Scope => ("Scope: a sidecar knows what it needs", "scope.yaml"),
            Self::Metrics => ("Metrics at both ends", "mesh.yaml"),
            Self::Traces => ("One trace across all hops", "mesh.yaml, collector.yaml"),
            Self::Outlier => ("Outlier detection", "resilience.yaml"),
            Self::Breaker => ("Circuit breaker and access log", "resilience.yaml"),
            Self::Live => ("An edit is live, under load", "traffic.yaml"),
            Self::Rollout => ("Pods come and go, under load", "order-service.yaml"),
            Self::ControlPlane => ("The control plane is killed, under load", "no manifest"),
        }
    }

    async fn show(self, mesh: &Mesh, manifests: &Manifests, step: &mut Step) -> Result<(), String> {
        match self {
            Self::Canary => canary::show(mesh, step).await,
            Self::Retries => retries::show(mesh, step).await,
            Self::Identity => identity::show(mesh, step).await,
            Self::Access => access::show(mesh, step).await,
            Self::Scope => scope::show(mesh, step).await,
            Self::Metrics => metrics::show(mesh, step).await,
            Self::Traces => traces::show(mesh, step).await,
            Self::Outlier => outlier::show(mesh, step).await,
            Self::Breaker => breaker::show(mesh, step).await,
            Self::Live => live::show(mesh, manifests, step).await,
            Self::Rollout => rollout::show(mesh, manifests, step).await,
            Self::ControlPlane => control_plane::show(mesh, step).await,
        }
    }
}

/// Takes the whole tour. A step that breaks is an expectation that is not met, and the tour goes on.
pub(crate) async fn take(mesh: &Mesh, manifests: &Manifests, colour: bool) -> Summary {
    let mut summary = Summary::default();
    for (index, feature) in Feature::ALL.into_iter().enumerate() {
        let (title, file) = feature.title();
        let mut step = Step::begin(index + 1, title, file, colour);
        if let Err(reason) = feature.show(mesh, manifests, &mut step).await {
            step.fail(&reason);
        }
        summary = summary.and(step.summary());
    }
    summary
}

/// Who is who.
pub(crate) fn introduction(manifests: &Manifests) -> String {
    format!(
        "In namespace production, frontend calls order-service (v1 in two pods, v2 in one), which calls payment-service (two
pods); all have sidecars. In namespace legacy, batch has none. Each step names the manifest that asks for what it shows, in
{}
",
        manifests.path().display()
    )
}

/// What people can do once the tour is over.
pub(crate) fn invitation(name: &MeshName, manifests: &Manifests) -> String {
    let (name, dir) = (name.as_str(), manifests.path());
    format!(
        "
The mesh stays up until Ctrl-C. In another terminal try:
  lateen status --name {name}
  lateen exec --name {name} -n production frontend -- lateen echo get http://order-service/ -n 200
  lateen exec --name {name} -n production frontend -- lateen echo get http://order-service/ -H x-canary-test:true
  lateen exec --name {name} -n production frontend -- lateen echo get http://payment-service/v1/payments -X POST
  lateen exec --name {name} -n istio-system collector -- lateen echo get http://127.0.0.1:8080/traces
  lateen config routes --name {name} -n production frontend
  lateen config endpoints --name {name} -n production order-service-v1
or edit a manifest, such as the weights in {file}; saving is applying.
",
        file = dir.join(crate::manifests::TRAFFIC_FILE).display()
    )
}
