//! The workload's certificate and roots for Envoy (`default` and `ROOTCA`), from memory, pushed anew at each renewal.

use super::socket::Listener;
use crate::config::files;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_model::dataplane::{Secret, SecretKind};
use lateen_tls::{WorkloadIdentity, WorkloadKey};
use lateen_wire::encode;
use lateen_xds::server::{
    AdsService, Authenticator, BoxFuture, Change, ClientInfo, Connections, ControlPlane, Generated, Generator, Peer, Rejection,
    ServerOptions, Watch,
};
use lateen_xds::{Generation, Resource, ResourceType};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tower_service::Service as _;

/// Names under which Istio's configuration asks for the workload's own secrets.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";

/// The private key of the certificate in force. An identity does not give its key away; Envoy has to have it.
#[derive(Clone, Default)]
pub(super) struct Keys(Arc<Mutex<Vec<u8>>>);

impl Keys {
    pub(super) fn replace(&self, key: &WorkloadKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = key.to_pem().as_bytes().to_vec();
    }

    fn pem(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves the secrets to process `pid` for ever.
pub(super) async fn serve(listener: Listener, pid: u32, identity: WorkloadIdentity, keys: Keys) {
    // A stream that opened before there was a certificate would be told that there is none.
    identity.ready().await;
    let source = Arc::new(Source { identity: identity.clone(), keys });
    let connections = Connections::new();
    let service = AdsService::new(Arc::new(SoleClient), source, connections.clone(), ServerOptions::default());
    tokio::task::spawn_local(announce(identity, connections));
    loop {
        let stream = match listener.accept_from(pid).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "Envoy's stream of secrets");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = service.clone();
        let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut secrets = service.secrets();
            async move { secrets.call(request).await }
        });
        let serving =
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "Envoy's connection for secrets ended");
            }
        });
    }
}

/// Tells Envoy of each renewal.
async fn announce(identity: WorkloadIdentity, connections: Arc<Connections>) {
    let mut changes = identity.changes();
    while changes.changed().await.is_ok() {
        let generation = Generation(*changes.borrow_and_update());
        connections.notify_all(&Change::everything(generation));
    }
}

/// The socket lets nobody else in.
struct SoleClient;

impl Authenticator for SoleClient {
    fn authenticate<'a>(&'a self, _: &'a MetadataMap, _: &'a http::Extensions) -> BoxFuture<'a, Result<Peer, tonic::Status>> {
        Box::pin(async { Ok(Peer::default()) })
    }
}

struct Source {
    identity: WorkloadIdentity,
    keys: Keys,
}

impl ControlPlane for Source {
    fn connect(&self, _: &Arc<ClientInfo>) -> Result<Box<dyn Generator>, Rejection> {
        Ok(Box::new(Stream { identity: self.identity.clone(), keys: self.keys.clone() }))
    }
}

struct Stream {
    identity: WorkloadIdentity,
    keys: Keys,
}

impl Generator for Stream {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let generation = Generation(*self.identity.changes().borrow());
        let names = match watch {
            Watch::Names(names) if ty == ResourceType::Sds => names,
            _ => return Generated { generation, resources: Vec::new() },
        };
        let resource = |name: &Arc<str>| {
            let kind = match &**name {
                CERTIFICATE => self.certificate(),
                ROOTS => self.roots(),
                file => from_files(file),
            };
            let secret = Secret { name: name.to_string(), kind: kind? };
            Some(Arc::new(Resource::new(&**name, encode::secret(&secret))))
        };
        let resources = names.iter().filter_map(resource).collect();
        Generated { generation, resources }
    }
}

/// A certificate or roots in files of the workload; `None` while they cannot be read.
fn from_files(name: &str) -> Option<SecretKind> {
    let read = |path: &str| {
        std::fs::read(path).inspect_err(|error| tracing::warn!(path, %error, "a file that Envoy asks for cannot be read")).ok()
    };
    if let Some((certificate, key)) = files::certificate_files(name) {
        return Some(SecretKind::Certificate { chain_pem: read(certificate)?, private_key_pem: read(key)? });
    }
    Some(SecretKind::Roots { trusted_ca_pem: read(files::roots_file(name)?)?, crl_pem: Vec::new() })
}

impl Stream {
    fn certificate(&self) -> Option<SecretKind> {
        let chain_pem = self.identity.credential().load()?.chain_pem().into_bytes();
        Some(SecretKind::Certificate { chain_pem, private_key_pem: self.keys.pem() })
    }

    fn roots(&self) -> Option<SecretKind> {
        let trusted_ca_pem = self.identity.trust().load()?.pem().as_bytes().to_vec();
        Some(SecretKind::Roots { trusted_ca_pem, crl_pem: Vec::new() })
    }
}
