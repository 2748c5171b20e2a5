//! What a connection is, told by who speaks first, and how.
//!
//! A client that speaks is looked at until its first bytes decide (`sniff`). While it is silent, its server may be the one that
//! speaks first (MySQL, SMTP, SSH, FTP): if plain bytes would end in a TCP proxy, that connection is opened ahead, and whoever
//! speaks first decides. So such protocols need no declaration of their port, and a client that only waits costs nothing but a
//! connection that is thrown away.

use crate::config::{Chain, CompiledNetworkFilter, Listener, Snapshot, Terminal};
use crate::connection::Connection;
use crate::sniff::{self, Looking, Spoken};
use crate::stream::Tcp;
use crate::tcp::{self, Prepared};
use crate::worker::Worker;
use bytes::BytesMut;
use lateen_policy::filter_chain::Inspection;
use lateen_policy::rbac::denied_details;
use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long a client may be silent before its server is asked. Clients that speak first do so within a round trip.
const GRACE: Duration = Duration::from_millis(50);

/// The same where the client may be about to send a ClientHello: a greeting in plain text would break its handshake, so more
/// patience is due to a peer on a busy machine.
const TLS_GRACE: Duration = Duration::from_millis(200);

/// Enough to decide on HTTP and on most ClientHellos in one read.
const FIRST_READ: usize = 2048;

/// What was found.
pub(crate) struct Detected {
    pub(crate) stream: Tcp,
    /// `None` if nothing had to be found, or time was over and the listener goes on regardless.
    pub(crate) spoken: Option<Spoken>,
    /// A connection to the server, if one was opened ahead.
    pub(crate) prepared: Option<Prepared>,
}

/// Servers that are known to speak first, by cluster: asked at once. Each worker learns for itself.
#[derive(Default)]
pub(crate) struct ServersFirst(RefCell<HashSet<Arc<str>>>);

impl ServersFirst {
    /// More than these are forgotten, all at once: clusters come and go.
    const MOST: usize = 4096;

    fn learn(&self, cluster: &Arc<str>, server_first: bool) {
        let mut known = self.0.borrow_mut();
        if !server_first {
            known.remove(cluster);
        } else if !known.contains(cluster) {
            if known.len() >= Self::MOST {
                known.clear();
            }
            known.insert(cluster.clone());
        }
    }

    fn knows(&self, chain: &Chain) -> bool {
        let Terminal::Tcp(route) = &chain.terminal else { return false };
        let known = self.0.borrow();
        // The cluster of a weighted route is drawn anew each time: any number serves for the look.
        !known.is_empty() && known.contains(route.cluster(0))
    }
}

/// Reads just enough to choose a chain. `Ok(None)` is a timeout that must end the connection.
pub(crate) async fn detect(
    worker: &Rc<Worker>,
    connection: &Connection,
    snapshot: Arc<Snapshot>,
    listener: &Listener,
    mut stream: TcpStream,
) -> io::Result<Option<Detected>> {
    let needed = listener.index.inspection(connection.destination);
    if needed.is_none() {
        return Ok(Some(Detected { stream: Tcp::new(stream), spoken: None, prepared: None }));
    }
    let silence = chain_of_silence(connection, &snapshot);
    // A silent client shall not keep an old configuration alive.
    drop(snapshot);
    let mut first = FirstBytes { bytes: BytesMut::with_capacity(FIRST_READ), prepared: None };
    let filters = &listener.model.listener_filters;
    let speaking = Box::pin(first.decide(worker, connection, silence, needed, &mut stream));
    let spoken = match filters.timeout {
        None => Some(speaking.await?),
        Some(limit) => match tokio::time::timeout(limit, speaking).await {
            Ok(result) => Some(result?),
            Err(_) if filters.continue_on_timeout => None,
            Err(_) => return Ok(None),
        },
    };
    let FirstBytes { bytes, prepared } = first;
    Ok(Some(Detected { stream: Tcp::with_sniffed(stream, bytes), spoken, prepared }))
}

/// What came before the decision.
struct FirstBytes {
    bytes: BytesMut,
    prepared: Option<Prepared>,
}

impl FirstBytes {
    async fn decide(
        &mut self,
        worker: &Rc<Worker>,
        connection: &Connection,
        silence: Option<Arc<Chain>>,
        needed: Inspection,
        stream: &mut TcpStream,
    ) -> io::Result<Spoken> {
        if let Some(chain) = silence
            && self.server_speaks_first(worker, connection, &chain, needed, stream).await?
        {
            return Ok(Spoken::Opaque);
        }
        let looking = Looking { tls: needed.tls, http: needed.http };
        loop {
            if let Some(spoken) = sniff::inspect(&self.bytes, looking) {
                return Ok(spoken);
            }
            if stream.read_buf(&mut self.bytes).await? == 0 {
                // The client has sent all that it will: whatever it was, it is opaque.
                return Ok(Spoken::Opaque);
            }
        }
    }

    /// Waits until the client or its server has spoken or ended, and says whether it was the server.
    async fn server_speaks_first(
        &mut self,
        worker: &Rc<Worker>,
        connection: &Connection,
        chain: &Arc<Chain>,
        needed: Inspection,
        stream: &mut TcpStream,
    ) -> io::Result<bool> {
        let readable = stream.readable();
        tokio::pin!(readable);
        let prepared = tokio::select! {
            biased;
            client = &mut readable => return client.map(|()| false),
            prepared = Box::pin(ask_server(worker, connection, chain, needed)) => prepared,
        };
        let Some(prepared) = prepared else { return Ok(false) };
        let prepared = self.prepared.insert(prepared);
        let server_first = tokio::select! {
            biased;
            client = &mut readable => client.map(|()| false)?,
            // Whatever it is, also an end or an error, the client is to see it.
            _ = prepared.spoken() => true,
        };
        worker.servers_first.learn(&prepared.cluster.name, server_first);
        Ok(server_first)
    }
}

/// The chain that a client without a first byte gets, if its server may be asked: it carries plain bytes, and may.
fn chain_of_silence(connection: &Connection, snapshot: &Snapshot) -> Option<Arc<Chain>> {
    let (_, chain) = connection.chain_in(snapshot)?;
    let tcp = matches!(chain.terminal, Terminal::Tcp(_)) && chain.tls.is_none();
    (tcp && connection.denied(chain).is_none()).then(|| chain.clone())
}

/// Opens a connection to the server, after the client had its time. `None` when that fails: should the client speak, it is tried
/// again, and told.
async fn ask_server(worker: &Rc<Worker>, connection: &Connection, chain: &Arc<Chain>, needed: Inspection) -> Option<Prepared> {
    if needed.tls {
        tokio::time::sleep(TLS_GRACE).await;
    } else if !worker.servers_first.knows(chain) {
        tokio::time::sleep(GRACE).await;
    }
    tcp::speculate(worker, connection, chain).await
}

impl Connection {
    /// Why the chain's network filters do not let it pass, by what is known of it; `None` if they do.
    pub(crate) fn denied(&self, chain: &Chain) -> Option<String> {
        chain.network_filters.iter().find_map(|filter| match filter {
            CompiledNetworkFilter::Rbac(rules, _) => {
                let verdict = rules.check_connection(self);
                (!verdict.is_allowed()).then(|| denied_details(verdict.policy()))
            }
            CompiledNetworkFilter::MetadataExchange | CompiledNetworkFilter::Stats(_) => None,
        })
    }
    /// Counts what [`Self::denied`] has decided.
    pub(crate) fn count_decision(chain: &Chain, denied: bool) {
        let rbac = |filter: &CompiledNetworkFilter| match filter {
            CompiledNetworkFilter::Rbac(_, decisions) => Some(decisions.clone()),
            CompiledNetworkFilter::MetadataExchange | CompiledNetworkFilter::Stats(_) => None,
        };
        if let Some(decisions) = chain.network_filters.iter().find_map(rbac) {
            decisions.count(!denied);
        }
    }
}
