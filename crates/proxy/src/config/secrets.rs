//! Certificates and roots by name: the workload's own, and those that the control plane serves (SDS).

use super::files::FileSecrets;
use super::references::SecretName;
use lateen_model::dataplane::{DownstreamTls, Secret, SecretKind, SecretRef, SecretSource, UpstreamTls};
use lateen_tls::PeerExpectation;
use lateen_tls::{ClientAuth, ClientParams, ClientTls, ServerParams, ServerTls};
use lateen_tls::{Credential, CredentialHandle, WorkloadIdentity};
use lateen_tls::{TrustBundle, TrustHandle};
use rustls_pki_types::ServerName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The secrets, for the configuration as it comes and for clusters that are compiled when they are first used.
#[derive(Clone)]
pub(crate) struct SharedSecrets(Arc<Mutex<Secrets>>);

impl SharedSecrets {
    /// Shares them.
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self(Arc::new(Mutex::new(secrets)))
    }

    /// Never held over anything that waits. Each change of them is whole, also where the one who made it failed afterwards.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Secrets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With how many servers a cluster's sessions are remembered for resumption.
const SESSION_SERVERS: usize = 1;

/// The secrets that TLS configurations refer to. A handle is made when a name is first used, and filled when the secret
/// comes: until then handshakes with it fail.
pub(crate) struct Secrets {
    workload: WorkloadIdentity,
    ads: BTreeMap<String, Handles>,
    files: FileSecrets,
}

#[derive(Clone)]
struct Handles {
    credential: CredentialHandle,
    trust: TrustHandle,
}

impl Secrets {
    /// With the workload's own identity.
    pub(crate) fn new(workload: WorkloadIdentity) -> Self {
        Self { workload, ads: BTreeMap::new(), files: FileSecrets::default() }
    }

    /// Whether a secret of the control plane has come.
    pub(crate) fn has(&self, secret: &SecretName) -> bool {
        self.ads.get(secret.name()).is_some_and(|handles| match secret {
            SecretName::Certificate(_) => handles.credential.load().is_some(),
            SecretName::Roots(_) => handles.trust.load().is_some(),
        })
    }

    /// Reads files again that have changed.
    pub(crate) fn reread_files(&mut self) {
        self.files.reread();
    }

    /// Forgets secrets that nothing refers to.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.ads.retain(|name, _| keep(name));
    }

    /// Puts a secret that came into force.
    pub(crate) fn install(&mut self, secret: &Secret) -> Result<(), String> {
        let handles = self.ads_handles(&secret.name);
        match &secret.kind {
            SecretKind::Certificate { chain_pem, private_key_pem } => {
                handles.credential.replace(Credential::from_pem(chain_pem, private_key_pem).map_err(|e| e.to_string())?);
            }
            SecretKind::Roots { trusted_ca_pem, crl_pem } => {
                let bundle = TrustBundle::from_pem_with_crls(trusted_ca_pem, crl_pem).map_err(|e| e.to_string())?;
                handles.trust.replace(bundle);
            }
        }
        Ok(())
    }

    fn ads_handles(&mut self, name: &str) -> Handles {
        let new = || Handles { credential: CredentialHandle::empty(), trust: TrustHandle::empty() };
        self.ads.entry(name.to_owned()).or_insert_with(new).clone()
    }

    fn credential(&mut self, secret: &SecretRef) -> Result<CredentialHandle, String> {
        match secret.source {
            SecretSource::Workload if secret.name == "default" => Ok(self.workload.credential().clone()),
            SecretSource::Workload if FileSecrets::is_certificate(&secret.name) => self.files.credential(&secret.name),
            SecretSource::Workload => {
                Err(format!("secret {:?}: the workload has one certificate, named \"default\"", secret.name))
            }
            SecretSource::Ads => Ok(self.ads_handles(&secret.name).credential),
        }
    }

    fn trust(&mut self, secret: &SecretRef, crl_file: Option<&str>) -> Result<TrustHandle, String> {
        match secret.source {
            SecretSource::Workload if FileSecrets::is_roots(&secret.name) => Ok(self.files.trust(&secret.name, crl_file)),
            _ if crl_file.is_some() => Err(format!("crl: is supported only with roots from a file, not {:?}", secret.name)),
            SecretSource::Workload if secret.name == "ROOTCA" => Ok(self.workload.trust().clone()),
            SecretSource::Workload => {
                Err(format!("secret {:?}: the workload has one set of roots, named \"ROOTCA\"", secret.name))
            }
            SecretSource::Ads => Ok(self.ads_handles(&secret.name).trust),
        }
    }

    /// Compiles TLS towards clients.
    pub(crate) fn server_tls(&mut self, model: &DownstreamTls) -> Result<ServerTls, String> {
        let client_auth = match &model.client_roots {
            None if model.require_client_certificate => {
                return Err(
                    "require_client_certificate: needs roots (validation_context) to verify certificates against".to_owned()
                );
            }
            None => ClientAuth::None,
            Some(roots) => {
                let (trust, expectation) =
                    (self.trust(roots, model.crl_file.as_deref())?, PeerExpectation::from_san_matches(&model.client_sans));
                if model.require_client_certificate {
                    ClientAuth::Required(trust, expectation)
                } else {
                    ClientAuth::IfGiven(trust, expectation)
                }
            }
        };
        let credential = self.credential(&model.certificate)?;
        ServerTls::new(ServerParams { credential, client_auth, params: model.params.clone(), alpn: model.alpn.clone() })
            .map_err(|e| e.to_string())
    }

    /// Compiles TLS towards upstreams.
    ///
    /// `for_host`: where no names are listed, the certificate must be for the name that is asked for.
    pub(crate) fn client_tls(&mut self, model: &UpstreamTls, for_host: bool) -> Result<ClientTls, String> {
        let (trust, expectation) = match &model.roots {
            Some(roots) => {
                let expectation = match model.sans.is_empty() && for_host {
                    true => PeerExpectation::ServerName,
                    false => PeerExpectation::from_san_matches(&model.sans),
                };
                (self.trust(roots, model.crl_file.as_deref())?, expectation)
            }
            None => (TrustHandle::empty(), PeerExpectation::Unverified),
        };
        let server_name = match model.sni.as_str() {
            "" => None,
            name => Some(ServerName::try_from(name.to_owned()).map_err(|_| format!("sni {name:?} is not a host name"))?),
        };
        let credential = model.certificate.as_ref().map(|c| self.credential(c)).transpose()?;
        ClientTls::new(ClientParams {
            credential,
            trust,
            expectation,
            params: model.params.clone(),
            alpn: model.alpn.clone(),
            server_name,
            session_servers: SESSION_SERVERS,
        })
        .map_err(|e| e.to_string())
    }
}
