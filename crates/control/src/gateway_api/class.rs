//! GatewayClasses: which Gateways are this mesh's, and what is made for them.

use super::Translation;
use super::features::FEATURES;
use super::source::Sources;
use super::status::{Condition, Problem, Status};
use crate::world::World;
use lateen_model::resource::gateway_api::{
    BUILT_IN_CLASSES, GATEWAY_CONTROLLER, KubeGateway, ManagedGateway, UNMANAGED_CONTROLLER,
};
use lateen_model::resource::{Kind, ResourceKey};

/// The revision that this control plane is.
const REVISION: &str = "default";

/// The controller of a class: what is written, else that of a built-in class.
pub(super) fn controller<'a>(sources: &'a Sources, class: &str) -> Option<&'a str> {
    match sources.classes.get(class) {
        Some(written) => Some(written.spec.controller_name.as_str()),
        None => BUILT_IN_CLASSES.iter().find(|c| c.name == class).map(|c| c.controller),
    }
}

/// Whether a Gateway is for this control plane (`istio.io/rev`).
fn is_of_revision(gateway: &KubeGateway) -> bool {
    gateway.metadata.labels.get("istio.io/rev").is_none_or(|rev| rev == REVISION)
}

/// Whether a Gateway gets listeners here.
pub(super) fn is_served(sources: &Sources, gateway: &KubeGateway) -> bool {
    is_of_revision(gateway) && controller(sources, &gateway.spec.gateway_class_name) == Some(GATEWAY_CONTROLLER)
}

/// Whether a Gateway stands for something elsewhere.
pub(super) fn is_remote(sources: &Sources, gateway: &KubeGateway) -> bool {
    is_of_revision(gateway) && controller(sources, &gateway.spec.gateway_class_name) == Some(UNMANAGED_CONTROLLER)
}

/// Parameters, of the Gateway or of its class, which are not supported.
pub(super) fn parameters_problem(sources: &Sources, gateway: &KubeGateway) -> Option<Problem> {
    let own = gateway.spec.infrastructure.as_ref().and_then(|i| i.parameters_ref.as_ref());
    let class = sources.classes.get(&gateway.spec.gateway_class_name).and_then(|c| c.spec.parameters_ref.as_ref());
    let place = if own.is_some() { "infrastructure.parametersRef" } else { "parametersRef of the GatewayClass" };
    own.or(class).map(|_| Problem::new("InvalidParameters", format!("{place} is not supported by this version of Lateen")))
}

/// What is made for all Gateways.
pub fn managed(sources: &Sources) -> Vec<ManagedGateway> {
    let served = sources.gateways.values().filter(|g| is_served(sources, g) && parameters_problem(sources, g).is_none());
    served.filter_map(|g| ManagedGateway::of(g)).collect()
}

/// The statuses of classes of this mesh; of the built-in ones too, as soon as any object of the Gateway API is there.
pub(super) fn statuses(world: &World, out: &mut Translation) {
    let sources = world.gateway_api();
    let built_in = BUILT_IN_CLASSES.iter().map(|c| c.name.to_owned()).filter(|n| !sources.classes.contains_key(n));
    let key = |name: String| ResourceKey { kind: Kind::GatewayClass, namespace: String::new(), name };
    for name in built_in {
        out.statuses.insert(key(name), accepted(1, None));
    }
    for (name, class) in &sources.classes {
        if !matches!(class.spec.controller_name.as_str(), GATEWAY_CONTROLLER | UNMANAGED_CONTROLLER) {
            continue;
        }
        let problem = class
            .spec
            .parameters_ref
            .as_ref()
            .map(|_| Problem::new("InvalidParameters", "parametersRef is not supported by this version of Lateen"));
        let generation = class.metadata.generation.unwrap_or(1);
        out.statuses.insert(key(name.clone()), accepted(generation, problem.as_ref()));
    }
}

fn accepted(generation: i64, problem: Option<&Problem>) -> Status {
    let condition = Condition::of("Accepted", problem, ("Accepted", "Handled by Istio controller"), generation);
    Status::Class { conditions: vec![condition], features: FEATURES.to_vec() }
}
