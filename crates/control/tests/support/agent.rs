//! What stands beside an Envoy in a pod: a server for the secrets that never leave the pod (cluster `sds-grpc`).

use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_model::dataplane::{Secret, SecretKind};
use lateen_testkit::certificates::{TestCa, spiffe};
use lateen_wire::encode;
use lateen_xds::server::{
    AdsService, Authenticator, BoxFuture, ClientInfo, Connections, ControlPlane, Generated, Generator, Peer, Rejection,
    ServerOptions, Watch,
};
use lateen_xds::{Generation, Resource, ResourceType};
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tower_service::Service as _;

struct Anyone;

impl Authenticator for Anyone {
    fn authenticate<'a>(&'a self, _: &'a MetadataMap, _: &'a http::Extensions) -> BoxFuture<'a, Result<Peer, tonic::Status>> {
        Box::pin(async { Ok(Peer::default()) })
    }
}

#[derive(Clone)]
struct Secrets(Arc<[Arc<Resource>]>);

impl ControlPlane for Secrets {
    fn connect(&self, _: &Arc<ClientInfo>) -> Result<Box<dyn Generator>, Rejection> {
        Ok(Box::new(self.clone()))
    }
}

impl Generator for Secrets {
    fn generate(&mut self, ty: ResourceType, watch: Watch<'_>) -> Generated {
        let wanted =
            |r: &&Arc<Resource>| ty == ResourceType::Sds && matches!(watch, Watch::Names(names) if names.contains(r.name()));
        Generated { generation: Generation(1), resources: self.0.iter().filter(wanted).cloned().collect() }
    }
}

/// Serves `default` and `ROOTCA` of a made-up mesh.
pub(crate) async fn serve() -> SocketAddr {
    let authority = TestCa::new();
    let leaf = authority.workload(&spiffe("spiffe://cluster.local/ns/production/sa/frontend-sa"));
    let certificate =
        SecretKind::Certificate { chain_pem: leaf.chain_pem.into_bytes(), private_key_pem: leaf.key_pem.as_bytes().to_vec() };
    let roots = SecretKind::Roots { trusted_ca_pem: authority.root_pem().as_bytes().to_vec(), crl_pem: Vec::new() };
    let secrets = [("default", certificate), ("ROOTCA", roots)]
        .map(|(name, kind)| Arc::new(Resource::new(name, encode::secret(&Secret { name: name.to_owned(), kind }))));
    let plane = Arc::new(Secrets(Arc::new(secrets)));
    let service = AdsService::new(Arc::new(Anyone), plane, Connections::new(), ServerOptions::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mut secrets = service.secrets();
                async move { secrets.call(request).await }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}
