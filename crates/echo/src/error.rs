//! What can go wrong with the test application itself (not with a request: that is answered).

use std::io;
use std::net::SocketAddr;

/// Why the test application could not start or a client command failed.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// A listening socket could not be opened.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// `http`, `tls`, `tcp`, `grpc` or `otlp`.
        purpose: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of pod labels is not in the downward API's format.
    #[error("{path}:{line}: {text:?} is not of the form KEY=\"VALUE\"")]
    Labels {
        /// The file, or the environment variable, that was read.
        path: String,
        /// One-based line (or entry) number.
        line: usize,
        /// The offending line.
        text: String,
    },
    /// A certificate, key or root cannot be used.
    #[error("{path}: {reason}")]
    Certificates {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A command line argument that clap cannot check.
    #[error("{0}")]
    Usage(String),
    /// A client could not reach its server, or the exchange broke.
    #[error("{target}: {reason}")]
    Exchange {
        /// The URL or address that was asked.
        target: String,
        /// The chain of causes.
        reason: String,
    },
    /// The runtime, the terminal or a signal handler failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes an error with all its causes on one line, as a person needs it (`error: cause: cause`).
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Many wrappers print their cause already; saying it twice helps nobody.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}
