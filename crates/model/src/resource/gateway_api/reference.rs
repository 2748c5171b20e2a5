//! How objects of the Gateway API name others.

use serde::{Deserialize, Serialize};

use crate::resource::Issues;
use crate::resource::check::{self, report, report_at};

/// The group of the Gateway API's own kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of Kubernetes' core kinds.
pub const CORE_GROUP: &str = "";
/// The largest weight of a backend.
const MAX_WEIGHT: i32 = 1_000_000;
/// The most parents of a route.
const MAX_PARENTS: usize = 32;
/// The most hostnames of a route.
const MAX_HOSTNAMES: usize = 16;

/// What a route is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentReference {
    /// `gateway.networking.k8s.io` if absent; empty for core kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Gateway` if absent; `Service` for the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// A listener of a Gateway; all of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// A port of the parent; all of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

impl ParentReference {
    /// The group, as it counts.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(GATEWAY_GROUP)
    }

    /// The kind, as it counts.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Gateway")
    }
}

/// A backend, of rules that do not read requests.
pub type BackendRef = FilteredBackendRef<NoFilter>;

/// A backend of a rule, and what is done with the requests that it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[serde(bound(deserialize = "F: Deserialize<'de>"))]
pub struct FilteredBackendRef<F> {
    /// The core group if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `Service` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// The route's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The port; required of a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Its share, relative to the sum of all; 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// For the requests of this backend alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<F>,
}

/// There is none: a list of this type stays empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum NoFilter {}

impl<'de> Deserialize<'de> for NoFilter {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("must not be here: this kind of reference has no filters"))
    }
}

impl<F> Default for FilteredBackendRef<F> {
    fn default() -> Self {
        Self { group: None, kind: None, name: String::new(), namespace: None, port: None, weight: None, filters: Vec::new() }
    }
}

impl<F> FilteredBackendRef<F> {
    /// The group, as it counts.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(CORE_GROUP)
    }

    /// The kind, as it counts.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("Service")
    }

    /// The weight, as it counts.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.weight.unwrap_or(1)).unwrap_or(0)
    }

    /// The same without filters.
    pub fn target(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            port: self.port,
            weight: self.weight,
            filters: Vec::new(),
        }
    }

    /// Checks everything but the filters.
    pub(super) fn validate(&self, issues: &mut Issues) {
        issues.require_name(&self.name);
        if let Some(namespace) = &self.namespace {
            report_at(issues, "namespace", check::dns_label(namespace));
        }
        match self.port {
            Some(port) => report_at(issues, "port", check::port(port)),
            None if (self.group(), self.kind()) == (CORE_GROUP, "Service") => {
                issues.error_at("port", "is required for a Service");
            }
            None => {}
        }
        if self.weight.is_some_and(|weight| !(0..=MAX_WEIGHT).contains(&weight)) {
            issues.error_at("weight", format!("must be 0 to {MAX_WEIGHT}"));
        }
    }
}

/// An object that something else needs: a Secret or ConfigMap with certificates, or parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectReference {
    /// The core group if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// The same namespace if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ObjectReference {
    /// The group, as it counts.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(CORE_GROUP)
    }

    /// Checks that it names something.
    pub(super) fn validate(&self, issues: &mut Issues) {
        issues.require_name(&self.name);
        if let Some(namespace) = &self.namespace {
            report_at(issues, "namespace", check::dns_label(namespace));
        }
    }
}

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalObjectReference {
    /// The core group if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
}

impl LocalObjectReference {
    /// The group, as it counts.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(CORE_GROUP)
    }

    /// Checks that it names something.
    pub(super) fn validate(&self, issues: &mut Issues) {
        issues.require_name(&self.name);
    }
}

/// Checks `parentRefs`.
pub(super) fn check_parents(parents: &[ParentReference], issues: &mut Issues) {
    if parents.len() > MAX_PARENTS {
        issues.error_at("parentRefs", format!("has {} entries; {MAX_PARENTS} are allowed", parents.len()));
    }
    let mut seen: Vec<&ParentReference> = Vec::new();
    issues.each("parentRefs", parents, |issues, parent| {
        issues.require_name(&parent.name);
        if let Some(namespace) = &parent.namespace {
            report_at(issues, "namespace", check::dns_label(namespace));
        }
        if let Some(port) = parent.port {
            report_at(issues, "port", check::port(port));
        }
        if let Some(section) = &parent.section_name {
            report_at(issues, "sectionName", check::dns_subdomain(section));
        }
        if (parent.group(), parent.kind()) == (CORE_GROUP, "Service") && parent.section_name.is_some() {
            issues.error_at("sectionName", "must not be set for a Service: write its port");
        }
        if seen.contains(&parent) {
            issues.error("is listed twice: entries of one parent must differ in sectionName or port");
        }
        seen.push(parent);
    });
}

/// Checks `hostnames`.
pub(super) fn check_hostnames(hostnames: &[String], issues: &mut Issues) {
    if hostnames.len() > MAX_HOSTNAMES {
        issues.error_at("hostnames", format!("has {} entries; {MAX_HOSTNAMES} are allowed", hostnames.len()));
    }
    issues.each("hostnames", hostnames, |issues, name| report(issues, hostname(name)));
}

/// A hostname: a DNS name in lower case, possibly with `*` as its whole first label; no address.
pub(super) fn hostname(name: &str) -> check::Check {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err("is an IP address; a hostname is needed".to_owned());
    }
    let rest = name.strip_prefix("*.").unwrap_or(name);
    check::dns_subdomain(rest)
}
