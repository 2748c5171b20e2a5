//! Who is calling: by client certificate, or by the token of a service account.

use super::grpc::ConnectionInfo;
use crate::metrics::Metrics;
use crate::push::Hub;
use lateen_model::identity::SpiffeId;
use lateen_tls::TokenVerifier;
use lateen_xds::server::{BoxFuture, Peer};
use std::sync::Arc;
use std::time::SystemTime;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Authenticates callers of the gRPC services and of the pages for people.
pub(super) struct Authenticator {
    tokens: Option<TokenVerifier>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl Authenticator {
    /// Without a verifier only client certificates count.
    pub(super) fn new(tokens: Option<TokenVerifier>, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { tokens, hub, metrics }
    }

    /// The identity that a token stands for, in the mesh's trust domain.
    ///
    /// # Errors
    /// Why it stands for nobody; never the token itself.
    pub(super) fn token(&self, authorization: &str) -> Result<SpiffeId, String> {
        let token = authorization.strip_prefix("Bearer ").ok_or("the authorization header is not \"Bearer TOKEN\"")?;
        let verifier = self.tokens.as_ref().ok_or("no key for tokens was given, so that none can be verified")?;
        let workload = verifier.verify(token.trim(), SystemTime::now()).map_err(|e| e.to_string())?;
        let (world, _) = self.hub.world();
        let account = &workload.service_account;
        SpiffeId::new(&world.mesh().trust_domain(), &account.namespace, &account.name).map_err(|e| e.to_string())
    }

    /// All identities that the caller proves. On a plaintext connection none is asked for and none is believed.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if an encrypted caller proves none.
    pub(super) fn identities(&self, metadata: &MetadataMap, connection: &ConnectionInfo) -> Result<Vec<SpiffeId>, Status> {
        if !connection.secure {
            return Ok(Vec::new());
        }
        let mut proven: Vec<SpiffeId> = connection.identity.iter().cloned().collect();
        let token = metadata.get("authorization").map(|value| match value.to_str() {
            Ok(text) => self.token(text),
            Err(_) => Err("the authorization header is not text".to_owned()),
        });
        let reason = match token {
            Some(Ok(identity)) => {
                if !proven.contains(&identity) {
                    proven.push(identity);
                }
                String::new()
            }
            Some(Err(reason)) => reason,
            None => "there is neither a client certificate nor a token".to_owned(),
        };
        if proven.is_empty() {
            self.metrics.authentication_failures.increment();
            tracing::info!("{}: authentication failed: {reason}", connection.address);
            return Err(Status::unauthenticated("request authenticate failure"));
        }
        Ok(proven)
    }
}

/// The same, as the ADS server asks for it.
pub(super) struct AdsAuthenticator(pub(super) Arc<Authenticator>);

impl lateen_xds::server::Authenticator for AdsAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a MetadataMap,
        extensions: &'a http::Extensions,
    ) -> BoxFuture<'a, Result<Peer, Status>> {
        Box::pin(async move {
            let connection =
                extensions.get::<ConnectionInfo>().ok_or_else(|| Status::internal("nothing is known of the connection"))?;
            let identities = self.0.identities(metadata, connection)?;
            Ok(Peer { identities, address: Some(connection.address) })
        })
    }
}
