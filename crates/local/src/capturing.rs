//! How pods' traffic is captured: by eBPF where this machine lets it, else by nftables, and why.

use lateen_capture::ebpf::{Captured, Plan, Programs};
use lateen_capture::netns::NetNs;
use lateen_capture::rules::{CaptureConfig, RuleSet};
use serde::{Deserialize, Serialize};

/// What people ask for (`--capture`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// eBPF where it works, else nftables
    #[default]
    Auto,
    /// eBPF: no address translation, no connection tracking; needs root
    Ebpf,
    /// Address translation by nftables, as Istio does it
    Nftables,
}

/// How a pod's traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By eBPF programs.
    Ebpf,
    /// By address translation.
    Nftables,
}

/// How a pod's traffic is captured, and why not otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// The method.
    pub method: Method,
    /// Why it is not eBPF; empty if it is.
    #[serde(default)]
    pub reason: String,
}

/// Why a mesh that was told to use nftables does.
const NOT_ASKED: &str = "asked for by `--capture nftables`";

/// The mesh's means of capture.
#[derive(Debug)]
pub(crate) struct Capturing {
    choice: Choice,
    programs: Result<Programs, String>,
}

impl Capturing {
    /// Loads what is asked for.
    ///
    /// # Errors
    /// When eBPF is asked for by name and not to be had.
    pub(crate) fn prepare(choice: Choice) -> Result<Self, String> {
        let programs = match choice {
            Choice::Nftables => Err(NOT_ASKED.to_owned()),
            Choice::Auto | Choice::Ebpf => Programs::load().map_err(|e| e.to_string()),
        };
        match (&programs, choice) {
            (Err(reason), Choice::Ebpf) => Err(format!("--capture ebpf: {reason}")),
            _ => Ok(Self { choice, programs }),
        }
    }

    /// Captures the traffic of a namespace in which nothing runs yet. What is returned first must live as long as the pod.
    ///
    /// # Errors
    /// What the kernel refuses; with eBPF asked for by name, also what that does not do.
    pub(crate) fn apply(&self, ns: &NetNs, config: &CaptureConfig) -> Result<(Option<Captured>, Option<CaptureStatus>), String> {
        let reason = match self.by_programs(ns, config) {
            Ok(captured) => {
                let status = captured.is_some().then(|| CaptureStatus { method: Method::Ebpf, reason: String::new() });
                return Ok((captured, status));
            }
            Err(reason) if self.choice == Choice::Ebpf => return Err(reason),
            Err(reason) => reason,
        };
        let rules = RuleSet::plan(config);
        ns.run(|| rules.apply()).map_err(|e| format!("network namespace: {e}"))?.map_err(|e| e.to_string())?;
        // Nothing is captured where nothing is intercepted.
        let status = (!rules.tables().is_empty()).then_some(CaptureStatus { method: Method::Nftables, reason });
        Ok((None, status))
    }

    fn by_programs(&self, ns: &NetNs, config: &CaptureConfig) -> Result<Option<Captured>, String> {
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        match Plan::of(config).map_err(|e| e.to_string())? {
            None => Ok(None),
            Some(plan) => programs.capture(ns, plan).map(Some).map_err(|e| e.to_string()),
        }
    }
}

impl std::fmt::Display for CaptureStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let method = match self.method {
            Method::Ebpf => "eBPF",
            Method::Nftables => "nftables",
        };
        f.write_str(method)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}
