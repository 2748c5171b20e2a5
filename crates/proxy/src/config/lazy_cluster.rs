//! Clusters that are compiled when they first carry something.
//!
//! A proxy that sees the whole mesh is sent every cluster in it and uses a few. One that nobody uses is kept as it came, which is
//! a small part of what it takes when compiled: with its hosts, what is learnt of each, its TLS and its counters.

use super::compact::Compact;
use super::references::References;
use super::secrets::SharedSecrets;
use crate::upstream::Cluster;
use lateen_model::dataplane::{self, Discovery};
use lateen_wire::decode;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A cluster that is good, and will be compiled when it is first used.
pub(crate) struct LazyCluster {
    name: Arc<str>,
    /// As it came.
    resource: Compact,
    /// The name of its endpoints.
    eds_service_name: Option<Arc<str>>,
    references: References,
    secrets: SharedSecrets,
    compiled: OnceLock<Arc<Cluster>>,
    /// The newest endpoints as they came. Locked while they are given to the compiled cluster and while that is made, so that
    /// it never stays without the newest ones.
    endpoints: Mutex<Option<Arc<Compact>>>,
}

impl LazyCluster {
    /// Takes a resource, and the same decoded. What cannot be compiled is refused now, not when it is used. A cluster stays
    /// compiled that has something to do before it is used (names to resolve, the age of hosts to know), or that carries over
    /// what was learnt by the `previous` one.
    pub(crate) fn new(
        resource: Compact,
        model: dataplane::Cluster,
        secrets: &SharedSecrets,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let name: Arc<str> = model.name.as_str().into();
        let eds_service_name = match &model.discovery {
            Discovery::Eds { service_name } if *service_name == model.name => Some(name.clone()),
            Discovery::Eds { service_name } => Some(service_name.as_str().into()),
            Discovery::Static(_) | Discovery::OriginalDst { .. } | Discovery::Dns(_) => None,
        };
        let references = References::of_cluster(&model);
        let previous = previous.and_then(Self::compiled);
        let has_to_do = eds_service_name.is_none() || model.slow_start.is_some();
        let cluster = Cluster::compile(model, &mut secrets.lock(), previous.map(Arc::as_ref))?;
        let compiled = OnceLock::new();
        if has_to_do || previous.is_some() {
            compiled.get_or_init(|| Arc::new(cluster));
        }
        let endpoints = Mutex::default();
        Ok(Self { name, resource, eds_service_name, references, secrets: secrets.clone(), compiled, endpoints })
    }

    /// Whether it is the same as this resource, or says the same.
    pub(crate) fn is(&self, resource: &[u8], model: &dataplane::Cluster) -> bool {
        self.resource.is(resource) || self.model().as_ref() == Some(model)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name under which EDS has its endpoints.
    pub(crate) fn eds_service_name(&self) -> Option<&Arc<str>> {
        self.eds_service_name.as_ref()
    }

    /// What it needs to be in force.
    pub(crate) fn references(&self) -> &References {
        &self.references
    }

    /// What it says; there always is something, because it was read before.
    pub(crate) fn model(&self) -> Option<dataplane::Cluster> {
        decode::cluster(&self.resource.bytes()).ok().map(|decoded| decoded.value)
    }

    /// The cluster, if it was used.
    pub(crate) fn compiled(&self) -> Option<&Arc<Cluster>> {
        self.compiled.get()
    }

    /// The cluster, compiled now if it never was. There always is one, because it was compiled before, unless a file that it
    /// names cannot be read any more.
    pub(crate) fn get(&self) -> Option<&Arc<Cluster>> {
        self.compiled.get().or_else(|| self.compile(None))
    }

    /// The cluster as it is or would be if it was used; for people, who use nothing by looking.
    pub(crate) fn peek(&self) -> Option<Arc<Cluster>> {
        let endpoints = self.endpoints();
        self.compiled.get().cloned().or_else(|| Some(Arc::new(self.made(endpoints.as_ref(), None)?)))
    }

    /// Takes the place of another version: goes on with what was learnt by that.
    pub(crate) fn take_over(&self, previous: &Self) {
        if let Some(previous) = previous.compiled() {
            self.compile(Some(previous));
        }
    }

    /// Takes new endpoints, which are good.
    pub(crate) fn set_endpoints(&self, resource: Arc<Compact>) {
        let mut endpoints = self.endpoints();
        if let Some(cluster) = self.compiled.get() {
            give(cluster, &resource);
        }
        *endpoints = Some(resource);
    }

    #[cold]
    fn compile(&self, previous: Option<&Cluster>) -> Option<&Arc<Cluster>> {
        let endpoints = self.endpoints();
        if self.compiled.get().is_none() {
            // Nobody else can be here: it is set while the endpoints are locked only.
            let _ = self.compiled.set(Arc::new(self.made(endpoints.as_ref(), previous)?));
        }
        self.compiled.get()
    }

    fn made(&self, endpoints: Option<&Arc<Compact>>, previous: Option<&Cluster>) -> Option<Cluster> {
        let cluster = Cluster::compile(self.model()?, &mut self.secrets.lock(), previous);
        let cluster =
            cluster.inspect_err(|error| tracing::error!(cluster = %self.name, %error, "is not usable any more")).ok()?;
        if let Some(resource) = endpoints {
            give(&cluster, resource);
        }
        Some(cluster)
    }

    /// Endpoints are replaced whole: there is nothing half done after a failure.
    fn endpoints(&self) -> MutexGuard<'_, Option<Arc<Compact>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a cluster its endpoints, which were read before.
fn give(cluster: &Cluster, resource: &Compact) {
    if let Ok(decoded) = decode::cluster_load_assignment(&resource.bytes()) {
        cluster.set_endpoints(&decoded.value);
    }
}
