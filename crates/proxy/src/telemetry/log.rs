//! Access logs: opened once for each target and format, written by each worker through a buffer of its own.

use crate::connection::Connection;
use lateen_model::dataplane::{AccessLog as Model, AccessLogFormat, AccessLogTarget};
use lateen_model::identity::SpiffeId;
use lateen_observe::ResponseFlag;
use lateen_observe::access_log::{AccessLog, LogFormat, LogRecord, LogWriter, Target, TlsInfo};
use lateen_tls::PeerInfo;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long the end of the process waits for logs to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// All open logs. Used when configuration is compiled, not when lines are written.
#[derive(Clone, Default)]
pub(crate) struct LogOutputs(Arc<Mutex<Opened>>);

#[derive(Default)]
struct Opened {
    logs: Vec<(AccessLogTarget, AccessLogFormat, Arc<OpenLog>)>,
}

struct OpenLog {
    id: usize,
    log: AccessLog,
}

/// One access log of a listener, connection manager or TCP proxy.
#[derive(Clone)]
pub(crate) struct AccessLogger {
    log: Arc<OpenLog>,
    only: Option<ResponseFlag>,
}

impl LogOutputs {
    /// The logger for a log of the configuration; the target is opened if it is not yet.
    pub(crate) fn logger(&self, model: &Model) -> Result<AccessLogger, String> {
        let only = model.only_flag.as_deref().map(flag_of).transpose()?;
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = opened.logs.iter().find(|(target, format, _)| *target == model.target && *format == model.format);
        if let Some((_, _, log)) = found {
            return Ok(AccessLogger { log: log.clone(), only });
        }
        let AccessLogTarget::File(path) = &model.target;
        let log =
            AccessLog::open(Target::from_path(Path::new(path)), compile(&model.format)?).map_err(|e| format!("{path}: {e}"))?;
        let log = Arc::new(OpenLog { id: opened.logs.len(), log });
        opened.logs.push((model.target.clone(), model.format.clone(), log.clone()));
        Ok(AccessLogger { log, only })
    }

    /// Writes what is buffered and closes the logs that nobody else holds.
    pub(crate) fn close(&self) {
        let logs = std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).logs);
        for (_, _, log) in logs {
            if let Ok(open) = Arc::try_unwrap(log) {
                open.log.close(CLOSE_TIMEOUT);
            }
        }
    }
}

fn flag_of(name: &str) -> Result<ResponseFlag, String> {
    let known = ResponseFlag::ALL.iter().copied().find(|f| f.short_name() == name);
    known.ok_or_else(|| format!("response flag {name:?} is not known"))
}

fn compile(format: &AccessLogFormat) -> Result<LogFormat, String> {
    let compiled = match format {
        AccessLogFormat::Text(text) => LogFormat::text(text),
        AccessLogFormat::Json(fields) => {
            let object = fields.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
            LogFormat::json(&object)
        }
    };
    compiled.map_err(|e| e.to_string())
}

/// A worker's writers, by log.
#[derive(Default)]
pub(crate) struct LogWriters(HashMap<usize, LogWriter>);

impl LogWriters {
    /// Writes a line to each logger that wants it.
    pub(crate) fn log(&mut self, loggers: &[AccessLogger], record: &LogRecord<'_>) {
        for logger in loggers {
            if logger.only.is_none_or(|flag| record.flags.contains(flag)) {
                self.0.entry(logger.log.id).or_insert_with(|| logger.log.log.writer()).log(record);
            }
        }
    }
}

/// What every line about a connection says.
pub(crate) fn connection_record(connection: &Connection, start: SystemTime) -> LogRecord<'_> {
    let tls = connection.tls.as_ref();
    LogRecord {
        downstream_local_address: Some(connection.destination.into()),
        downstream_remote_address: Some(connection.remote.into()),
        downstream_direct_remote_address: Some(connection.remote.into()),
        downstream_tls: TlsInfo {
            version: tls.map(|t| version_text(t.version)),
            cipher: tls.map(|t| t.cipher_suite),
            peer_uri_san: connection.peer_uri(),
            local_uri_san: tls.and_then(own_uri),
        },
        requested_server_name: connection.sni.as_deref(),
        connection_id: Some(connection.id),
        ..LogRecord::new(start)
    }
}

/// TLS to an upstream.
pub(crate) fn upstream_tls(tls: Option<&PeerInfo>) -> TlsInfo<'_> {
    TlsInfo {
        version: tls.map(|t| version_text(t.version)),
        cipher: tls.map(|t| t.cipher_suite),
        peer_uri_san: tls.and_then(PeerInfo::spiffe).map(SpiffeId::as_uri),
        local_uri_san: tls.and_then(own_uri),
    }
}

fn own_uri(tls: &PeerInfo) -> Option<&str> {
    tls.own_spiffe().map(SpiffeId::as_uri)
}

/// As Envoy prints it.
fn version_text(version: lateen_model::dataplane::TlsVersion) -> &'static str {
    match version {
        lateen_model::dataplane::TlsVersion::V1_2 => "TLSv1.2",
        lateen_model::dataplane::TlsVersion::V1_3 => "TLSv1.3",
    }
}
