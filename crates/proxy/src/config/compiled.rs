//! Listeners, compiled: what a connection and its requests consult, with nothing left to parse.

use super::references::References;
use super::secrets::Secrets;
use crate::telemetry::Telemetry;
use crate::telemetry::gates::{Decisions, Gate};
use crate::telemetry::log::AccessLogger;
use crate::telemetry::trace::CompiledTracing;
use lateen_model::dataplane::{self, HttpConnectionManager, NetworkFilter, RouteSource, StatsFilter, TcpDestination, TcpProxy};
use lateen_policy::filter_chain::FilterChainIndex;
use lateen_policy::route::RouteTable;
use lateen_policy::{rate_limit, rbac};
use lateen_tls::ServerTls;
use std::sync::Arc;

/// A listener.
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) model: Arc<dataplane::Listener>,
    pub(crate) index: FilterChainIndex,
    chains: Vec<Arc<Chain>>,
    default_chain: Option<Arc<Chain>>,
    /// For connections that no chain takes.
    pub(crate) access_log: Vec<AccessLogger>,
    pub(crate) references: References,
}

/// A filter chain.
pub(crate) struct Chain {
    pub(crate) tls: Option<ServerTls>,
    pub(crate) network_filters: Vec<CompiledNetworkFilter>,
    pub(crate) terminal: Terminal,
}

/// A filter on connections.
pub(crate) enum CompiledNetworkFilter {
    Rbac(rbac::Engine, Arc<Decisions>),
    MetadataExchange,
    Stats(StatsFilter),
}

/// Who handles a chain's bytes.
pub(crate) enum Terminal {
    Http(Arc<Hcm>),
    Tcp(TcpRoute),
}

/// A TCP proxy.
pub(crate) struct TcpRoute {
    pub(crate) model: TcpProxy,
    total_weight: u64,
    pub(crate) access_log: Vec<AccessLogger>,
}

impl TcpRoute {
    /// The cluster for a uniformly random number.
    pub(crate) fn cluster(&self, random: u64) -> &str {
        match &self.model.destination {
            TcpDestination::Cluster(name) => name,
            TcpDestination::Weighted(clusters) => {
                let mut left = random % self.total_weight.max(1);
                for (name, weight) in clusters {
                    match left.checked_sub(u64::from(*weight)) {
                        Some(rest) => left = rest,
                        None => return name,
                    }
                }
                clusters.last().map_or("", |(name, _)| name)
            }
        }
    }
}

/// An HTTP connection manager.
pub(crate) struct Hcm {
    pub(crate) model: HttpConnectionManager,
    pub(crate) filters: Vec<CompiledHttpFilter>,
    pub(crate) routes: RoutesOf,
    pub(crate) access_log: Vec<AccessLogger>,
    /// Whether Istio's ALPN filter chooses the ALPN of upstream connections.
    pub(crate) istio_alpn: bool,
    pub(crate) tracing: Option<CompiledTracing>,
}

/// A filter on requests.
pub(crate) enum CompiledHttpFilter {
    Fault,
    Cors,
    PeerMetadata(dataplane::PeerMetadata),
    Rbac(rbac::Engine, Arc<Decisions>),
    RateLimit(rate_limit::Engine, Arc<Decisions>),
    GrpcStats,
    Stats(StatsFilter),
}

/// Where a connection manager finds its routes.
pub(crate) enum RoutesOf {
    /// In the snapshot, under this name.
    Rds(Arc<str>),
    /// Here.
    Inline(Arc<RouteTable>),
}

impl Hcm {
    /// The metrics filter, if metrics are kept.
    pub(crate) fn stats(&self) -> Option<StatsFilter> {
        self.filters.iter().find_map(|f| if let CompiledHttpFilter::Stats(s) = f { Some(*s) } else { None })
    }
}

impl Listener {
    /// Compiles a listener; the error says which part is wrong.
    pub(crate) fn compile(model: dataplane::Listener, secrets: &mut Secrets, telemetry: &Telemetry) -> Result<Self, String> {
        let index = FilterChainIndex::compile(&model).map_err(|e| e.to_string())?;
        let mut compile = |chain: &dataplane::FilterChain, at: &str| {
            Chain::compile(chain, secrets, telemetry).map(Arc::new).map_err(|e| format!("{at}: {e}"))
        };
        let numbered = model.filter_chains.iter().enumerate();
        let chains = numbered.map(|(i, c)| compile(c, &format!("filter_chains[{i}]"))).collect::<Result<_, _>>()?;
        let default_chain = model.default_filter_chain.as_ref().map(|c| compile(c, "default_filter_chain")).transpose()?;
        let access_log = loggers(&model.access_log, telemetry)?;
        let references = References::of_listener(&model);
        Ok(Self {
            name: model.name.as_str().into(),
            index,
            chains,
            default_chain,
            access_log,
            references,
            model: Arc::new(model),
        })
    }

    /// The chain at an index of [`Self::index`].
    pub(crate) fn chain(&self, chosen: lateen_policy::filter_chain::ChainChoice) -> Option<&Arc<Chain>> {
        use lateen_policy::filter_chain::ChainChoice;
        match chosen {
            ChainChoice::Chain(i) => self.chains.get(i),
            ChainChoice::Default => self.default_chain.as_ref(),
        }
    }
}

impl Chain {
    fn compile(model: &dataplane::FilterChain, secrets: &mut Secrets, telemetry: &Telemetry) -> Result<Self, String> {
        let tls = model.tls.as_ref().map(|t| secrets.server_tls(t)).transpose().map_err(|e| format!("tls: {e}"))?;
        let filter = |f: &NetworkFilter| match f {
            NetworkFilter::Rbac(rules) => {
                let decisions = telemetry.gates().decisions(Gate::TcpRbac);
                let engine = rbac::Engine::compile(rules).map_err(|e| e.to_string())?;
                Ok::<_, String>(CompiledNetworkFilter::Rbac(engine, decisions))
            }
            NetworkFilter::MetadataExchange => Ok(CompiledNetworkFilter::MetadataExchange),
            NetworkFilter::Stats(stats) => Ok(CompiledNetworkFilter::Stats(*stats)),
        };
        let network_filters = model.network_filters.iter().map(filter).collect::<Result<_, _>>()?;
        let terminal = match &model.terminal {
            dataplane::Terminal::Http(hcm) => Terminal::Http(Arc::new(compile_hcm(hcm, telemetry)?)),
            dataplane::Terminal::Tcp(tcp) => Terminal::Tcp(compile_tcp(tcp, telemetry)?),
        };
        Ok(Self { tls, network_filters, terminal })
    }
}

fn compile_tcp(model: &TcpProxy, telemetry: &Telemetry) -> Result<TcpRoute, String> {
    let total_weight = match &model.destination {
        TcpDestination::Cluster(_) => 1,
        TcpDestination::Weighted(clusters) => clusters.iter().map(|(_, weight)| u64::from(*weight)).sum(),
    };
    if total_weight == 0 {
        return Err("weighted_clusters: the sum of the weights is zero".to_owned());
    }
    Ok(TcpRoute { model: model.clone(), total_weight, access_log: loggers(&model.access_log, telemetry)? })
}

fn compile_hcm(model: &HttpConnectionManager, telemetry: &Telemetry) -> Result<Hcm, String> {
    let routes = match &model.routes {
        RouteSource::Rds(name) => RoutesOf::Rds(name.as_str().into()),
        RouteSource::Inline(config) => {
            RoutesOf::Inline(Arc::new(RouteTable::compile(config).map_err(|e| format!("route_config: {e}"))?))
        }
    };
    let mut filters = Vec::with_capacity(model.http_filters.len());
    for filter in &model.http_filters {
        filters.push(match filter {
            dataplane::HttpFilter::PeerMetadata(p) => CompiledHttpFilter::PeerMetadata(*p),
            dataplane::HttpFilter::Rbac(rules) => {
                let engine = rbac::Engine::compile(rules).map_err(|e| format!("http_filters: {e}"))?;
                let gate = Gate::HttpRbac(model.stat_prefix.clone());
                CompiledHttpFilter::Rbac(engine, telemetry.gates().decisions(gate))
            }
            dataplane::HttpFilter::RateLimit(limits) => {
                let engine = rate_limit::Engine::compile(limits, telemetry.rate_limits());
                let gate = Gate::RateLimit(limits.name.clone());
                CompiledHttpFilter::RateLimit(engine, telemetry.gates().decisions(gate))
            }
            dataplane::HttpFilter::GrpcStats => CompiledHttpFilter::GrpcStats,
            dataplane::HttpFilter::Fault => CompiledHttpFilter::Fault,
            dataplane::HttpFilter::Cors => CompiledHttpFilter::Cors,
            dataplane::HttpFilter::Stats(stats) => CompiledHttpFilter::Stats(*stats),
            dataplane::HttpFilter::Alpn => continue,
        });
    }
    let istio_alpn = model.http_filters.contains(&dataplane::HttpFilter::Alpn);
    let tracing =
        model.tracing.as_ref().map(|t| telemetry.exporters.compile(t)).transpose().map_err(|e| format!("tracing: {e}"))?;
    Ok(Hcm { tracing, access_log: loggers(&model.access_log, telemetry)?, model: model.clone(), filters, routes, istio_alpn })
}

fn loggers(models: &[dataplane::AccessLog], telemetry: &Telemetry) -> Result<Vec<AccessLogger>, String> {
    models.iter().map(|m| telemetry.log_outputs().logger(m).map_err(|e| format!("access_log: {e}"))).collect()
}
