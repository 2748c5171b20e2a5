//! Session resumption that ends when trust does.
//!
//! rustls resumes a session without verifying the peer's certificate again: server-side, the client's chain comes out of the
//! ticket; client-side, the server's chain comes out of the session store, which checks only that verifier and credential
//! resolver are the same objects. Ours stay the same objects while their contents change. So tickets and stored sessions are
//! bound to the credential and the roots in force (an [`Epoch`]), and are worthless under others.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::ProducesTickets;
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use crate::identity_store::CredentialHandle;
use crate::trust_bundle::TrustHandle;

/// Which credential and which roots: the first halves of their fingerprints, zeros where there are none.
type Epoch = [u8; 32];

/// What a session depends on.
#[derive(Clone, Debug)]
pub(crate) struct EpochSource {
    pub(crate) credential: Option<CredentialHandle>,
    pub(crate) trust: Option<TrustHandle>,
}

impl EpochSource {
    fn current(&self) -> Epoch {
        let mut epoch = [0; 32];
        if let Some(credential) = self.credential.as_ref().and_then(CredentialHandle::load) {
            epoch[..16].copy_from_slice(&credential.leaf().fingerprint()[..16]);
        }
        if let Some(bundle) = self.trust.as_ref().and_then(TrustHandle::load) {
            epoch[16..].copy_from_slice(&bundle.fingerprint()[..16]);
        }
        epoch
    }
}

/// Makes stateless tickets that hold the epoch beside the session. Keys rotate every 6 h (rustls).
#[derive(Debug)]
pub(crate) struct EpochTickets {
    inner: Arc<dyn ProducesTickets>,
    source: EpochSource,
}

impl EpochTickets {
    pub(crate) fn new(source: EpochSource) -> Result<Self, rustls::Error> {
        Ok(Self { inner: rustls::crypto::aws_lc_rs::Ticketer::new()?, source })
    }
}

impl ProducesTickets for EpochTickets {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        // A client should not come back with a session of a certificate that has ended.
        let own = self.source.credential.as_ref().and_then(CredentialHandle::load);
        let left = own.map(|c| c.leaf().not_after().duration_since(SystemTime::now()).unwrap_or_default());
        let left = left.map_or(u32::MAX, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
        self.inner.lifetime().min(left)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.source.current();
        let mut bound = Zeroizing::new(Vec::with_capacity(epoch.len() + plain.len()));
        bound.extend_from_slice(&epoch);
        bound.extend_from_slice(plain);
        self.inner.encrypt(&bound)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let bound = Zeroizing::new(self.inner.decrypt(cipher)?);
        let plain = bound.strip_prefix(self.source.current().as_slice())?;
        Some(plain.to_vec())
    }
}

/// Client sessions, forgotten as a whole when the epoch changes.
pub(crate) struct EpochSessions {
    servers: usize,
    source: EpochSource,
    current: Mutex<(Epoch, Arc<ClientSessionMemoryCache>)>,
}

impl EpochSessions {
    /// Remembers sessions with up to `servers` server names; up to 8 TLS 1.3 tickets of each (rustls), some 2 KB a ticket.
    pub(crate) fn new(servers: usize, source: EpochSource) -> Self {
        let current = Mutex::new((source.current(), new_cache(servers)));
        Self { servers, source, current }
    }

    fn cache(&self) -> Arc<ClientSessionMemoryCache> {
        let epoch = self.source.current();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != epoch {
            *current = (epoch, new_cache(self.servers));
        }
        Arc::clone(&current.1)
    }
}

fn new_cache(servers: usize) -> Arc<ClientSessionMemoryCache> {
    // rustls counts tickets, 8 a server.
    Arc::new(ClientSessionMemoryCache::new(servers.saturating_mul(8)))
}

impl fmt::Debug for EpochSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochSessions(up to {} servers)", self.servers)
    }
}

impl ClientSessionStore for EpochSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.cache().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache().kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cache().set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cache().tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.cache().remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.cache().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache().take_tls13_ticket(server_name)
    }
}
