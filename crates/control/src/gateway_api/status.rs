//! What became of an object, in the words of the Gateway API.

use super::transition::Clock;
use lateen_model::resource::gateway_api::{GATEWAY_CONTROLLER, ParentReference};
use serde_json::{Value, json};

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type, e.g. `Accepted`.
    pub type_: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The generation of the object that it tells of.
    pub generation: i64,
}

/// Why something does not hold: a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Problem {
    /// Puts one together.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Condition {
    /// One that holds.
    pub fn good(type_: &'static str, reason: &'static str, message: impl Into<String>, generation: i64) -> Self {
        Self { type_, status: true, reason, message: message.into(), generation }
    }

    /// One that does not.
    pub fn bad(type_: &'static str, problem: &Problem, generation: i64) -> Self {
        Self { type_, status: false, reason: problem.reason, message: problem.message.clone(), generation }
    }

    /// One that holds unless there is a problem.
    pub fn of(type_: &'static str, problem: Option<&Problem>, good: (&'static str, &str), generation: i64) -> Self {
        match problem {
            None => Self::good(type_, good.0, good.1, generation),
            Some(problem) => Self::bad(type_, problem, generation),
        }
    }
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Of a GatewayClass.
    Class {
        /// Its conditions.
        conditions: Vec<Condition>,
        /// What of the API is implemented.
        features: Vec<&'static str>,
    },
    /// Of a Gateway.
    Gateway {
        /// Type and value of each.
        addresses: Vec<(&'static str, String)>,
        /// Its conditions.
        conditions: Vec<Condition>,
        /// In order.
        listeners: Vec<ListenerStatus>,
    },
    /// Of a route.
    Route {
        /// One for each parent that is known here.
        parents: Vec<ParentStatus>,
    },
    /// Of a policy.
    Policy {
        /// What the policy has an effect on.
        ancestors: Vec<ParentStatus>,
    },
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The kinds of routes that may attach.
    pub kinds: Vec<&'static str>,
    /// How many routes have attached.
    pub attached: usize,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// What became of a route at one of its parents, or of a policy at one of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent.
    pub parent: ParentReference,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

impl ParentStatus {
    /// Of a route: why it was not accepted, and which of its references could not be followed.
    pub(super) fn new(
        parent: &ParentReference,
        generation: i64,
        refused: Option<&Problem>,
        unresolved: Option<&Problem>,
    ) -> Self {
        let conditions = vec![
            Condition::of("Accepted", refused, ("Accepted", "Route was valid"), generation),
            Condition::of("ResolvedRefs", unresolved, ("ResolvedRefs", "All references resolved"), generation),
        ];
        Self { parent: parent.clone(), conditions }
    }
}

impl Status {
    /// As the object's `status`; `clock` knows since when each condition is as it is.
    pub fn to_json(&self, clock: &Clock<'_>) -> Value {
        let all = |place: &str, conditions: &[Condition]| -> Vec<Value> {
            conditions.iter().map(|c| condition(c, clock, place)).collect()
        };
        let entries = |list: &[ParentStatus], key: &str| -> Vec<Value> {
            let entry = |(index, entry): (usize, &ParentStatus)| {
                json!({
                    key: entry.parent,
                    "controllerName": GATEWAY_CONTROLLER,
                    "conditions": all(&index.to_string(), &entry.conditions),
                })
            };
            list.iter().enumerate().map(entry).collect()
        };
        match self {
            Self::Class { conditions, features } => {
                let features: Vec<Value> = features.iter().map(|name| json!({"name": name})).collect();
                json!({"conditions": all("", conditions), "supportedFeatures": features})
            }
            Self::Gateway { addresses, conditions, listeners } => {
                let addresses: Vec<Value> = addresses.iter().map(|(t, v)| json!({"type": t, "value": v})).collect();
                let listener = |l: &ListenerStatus| {
                    let kinds: Vec<Value> = l
                        .kinds
                        .iter()
                        .map(|kind| json!({"group": lateen_model::resource::gateway_api::GATEWAY_GROUP, "kind": kind}))
                        .collect();
                    json!({
                        "name": l.name,
                        "supportedKinds": kinds,
                        "attachedRoutes": l.attached,
                        "conditions": all(&format!("listeners/{}", l.name), &l.conditions),
                    })
                };
                let listeners: Vec<Value> = listeners.iter().map(listener).collect();
                json!({"addresses": addresses, "conditions": all("", conditions), "listeners": listeners})
            }
            Self::Route { parents } => json!({"parents": entries(parents, "parentRef")}),
            Self::Policy { ancestors } => json!({"ancestors": entries(ancestors, "ancestorRef")}),
        }
    }

    /// Every condition, with the place that it stands at.
    pub(super) fn conditions(&self) -> Vec<(String, &Condition)> {
        let at = |place: String, list: &'_ [Condition]| list.iter().map(move |_| place.clone()).collect::<Vec<_>>();
        let mut out: Vec<(String, &Condition)> = Vec::new();
        let mut add = |place: String, list| {
            let list: &[Condition] = list;
            out.extend(at(place, list).into_iter().zip(list));
        };
        match self {
            Self::Class { conditions, .. } => add(String::new(), conditions),
            Self::Gateway { conditions, listeners, .. } => {
                add(String::new(), conditions);
                for l in listeners {
                    add(format!("listeners/{}", l.name), &l.conditions);
                }
            }
            Self::Route { parents: list } | Self::Policy { ancestors: list } => {
                for (index, entry) in list.iter().enumerate() {
                    add(index.to_string(), &entry.conditions);
                }
            }
        }
        out
    }
}

fn condition(condition: &Condition, clock: &Clock<'_>, place: &str) -> Value {
    json!({
        "type": condition.type_,
        "status": if condition.status { "True" } else { "False" },
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.generation,
        "lastTransitionTime": clock.since(place, condition.type_),
    })
}
