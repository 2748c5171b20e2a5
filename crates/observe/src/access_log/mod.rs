//! The access log: Istio's formats, Envoy's command operators, and a writer that never holds a worker up.
//!
//! A format is compiled once into a list of operators ([`LogFormat`]); a line is written from borrowed data ([`LogRecord`])
//! into a buffer that is used again. What clients send is escaped: no header can end a line, close a quote or forge a field.

mod escape;
mod format;
mod operator;
mod record;
mod sink;
mod timestamp;

pub use format::{FormatError, LogFormat};
pub use record::{Address, LogRecord, TlsInfo};
pub use sink::{AccessLog, LogWriter, Target};
