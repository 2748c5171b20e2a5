//! `GatewayClass`: who makes Gateways real, and how.

use serde::{Deserialize, Serialize};

use super::gateway::KubeGateway;
use super::reference::ObjectReference;
use crate::resource::meta::Object;
use crate::resource::{FieldIssue, Issues};

/// The controller whose Gateways get proxies of their own.
pub const GATEWAY_CONTROLLER: &str = "istio.io/gateway-controller";
/// The controller of Gateways that stand for something elsewhere.
pub const UNMANAGED_CONTROLLER: &str = "istio.io/unmanaged-gateway";
/// The class of Gateways that stand for something elsewhere.
pub const REMOTE_CLASS: &str = "istio-remote";

/// A class that exists without being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltInClass {
    /// Its name.
    pub name: &'static str,
    /// Its controller.
    pub controller: &'static str,
    /// What it is, for people.
    pub description: &'static str,
}

/// The classes that exist without being written, as istiod makes them.
pub const BUILT_IN_CLASSES: [BuiltInClass; 2] = [
    BuiltInClass {
        name: "istio",
        controller: GATEWAY_CONTROLLER,
        description: "A gateway with a proxy and a Service of its own",
    },
    BuiltInClass {
        name: REMOTE_CLASS,
        controller: UNMANAGED_CONTROLLER,
        description: "A gateway of another cluster or network; nothing is deployed",
    },
];

/// Who makes Gateways real, and how.
pub type GatewayClass = Object<GatewayClassSpec>;

/// The `spec` of a `GatewayClass`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayClassSpec {
    /// `DOMAIN/PATH`.
    pub controller_name: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A ConfigMap of defaults for what is deployed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ObjectReference>,
}

/// The revision that this mesh is.
const REVISION: &str = "default";

impl KubeGateway {
    /// Who makes it real, if its class is `class` (as written, if it is): `None` for a class that nobody here knows, and for a Gateway
    /// of another revision (`istio.io/rev`).
    pub fn controller<'a>(&self, class: Option<&'a GatewayClass>) -> Option<&'a str> {
        if self.metadata.labels.get("istio.io/rev").is_some_and(|rev| rev != REVISION) {
            return None;
        }
        match class {
            Some(written) => Some(written.spec.controller_name.as_str()),
            None => BUILT_IN_CLASSES.iter().find(|c| c.name == self.spec.gateway_class_name).map(|c| c.controller),
        }
    }

    /// Where parameters are named, which are not supported: in the Gateway or in its class.
    pub fn parameters(&self, class: Option<&GatewayClass>) -> Option<&'static str> {
        if self.spec.infrastructure.as_ref().is_some_and(|i| i.parameters_ref.is_some()) {
            return Some("infrastructure.parametersRef");
        }
        class.filter(|c| c.spec.parameters_ref.is_some()).map(|_| "parametersRef of the GatewayClass")
    }
}

impl GatewayClass {
    /// Finds what the Gateway API's own validation would refuse.
    pub fn validate(&self, issues: &mut Issues) {
        issues.field("spec", |issues| {
            let name = &self.spec.controller_name;
            if name.split_once('/').is_none_or(|(domain, path)| domain.is_empty() || path.is_empty()) {
                issues.error_at("controllerName", format!("must be DOMAIN/PATH, such as {GATEWAY_CONTROLLER}"));
            }
            issues.optional("parametersRef", self.spec.parameters_ref.as_ref(), |issues, reference| reference.validate(issues));
        });
    }

    /// Everything is implemented; what `parametersRef` cannot do is said in the status.
    pub fn unsupported(&self) -> Vec<FieldIssue> {
        Vec::new()
    }
}
