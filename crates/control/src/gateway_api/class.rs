//! GatewayClasses: which Gateways are this mesh's, and what is made for them.

use super::Translation;
use super::features::FEATURES;
use super::source::Sources;
use super::status::{Condition, Problem, Status};
use crate::world::World;
use lateen_model::resource::gateway_api::{
    BUILT_IN_CLASSES, GATEWAY_CONTROLLER, GatewayClass, KubeGateway, ManagedGateway, UNMANAGED_CONTROLLER,
};
use lateen_model::resource::{Kind, ResourceKey};

/// The class of a Gateway, if it is written.
fn class<'a>(sources: &'a Sources, gateway: &KubeGateway) -> Option<&'a GatewayClass> {
    sources.classes.get(&gateway.spec.gateway_class_name).map(|class| &**class)
}

/// Whether a Gateway gets listeners here.
pub(super) fn is_served(sources: &Sources, gateway: &KubeGateway) -> bool {
    gateway.controller(class(sources, gateway)) == Some(GATEWAY_CONTROLLER)
}

/// Whether a Gateway stands for something elsewhere.
pub(super) fn is_remote(sources: &Sources, gateway: &KubeGateway) -> bool {
    gateway.controller(class(sources, gateway)) == Some(UNMANAGED_CONTROLLER)
}

/// Parameters, of the Gateway or of its class, which are not supported.
pub(super) fn parameters_problem(sources: &Sources, gateway: &KubeGateway) -> Option<Problem> {
    let place = gateway.parameters(class(sources, gateway))?;
    Some(Problem::new("InvalidParameters", format!("{place} is not supported by this version of Lateen")))
}

/// What is made for all Gateways.
pub fn managed(sources: &Sources) -> Vec<ManagedGateway> {
    sources.gateways.values().filter_map(|g| ManagedGateway::of(g, class(sources, g))).collect()
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
