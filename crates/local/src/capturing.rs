//! How pods' traffic is captured: by eBPF where this machine lets it, else by nftables, and why; and what is accelerated.

use lateen_capture::ebpf::{Accelerated, Accelerator, Captured, Plan, Programs};
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
    /// Whether the kernel hands over what application and sidecar send each other (`--accelerate`).
    #[serde(default)]
    pub accelerated: bool,
}

/// What must live as long as the pod whose traffic is captured.
#[derive(Debug)]
pub(crate) struct Held {
    _captured: Captured,
    _accelerated: Option<Accelerated>,
}

/// Why a mesh that was told to use nftables does.
const NOT_ASKED: &str = "asked for by `--capture nftables`";

/// The mesh's means of capture.
#[derive(Debug)]
pub(crate) struct Capturing {
    choice: Choice,
    programs: Result<Programs, String>,
    accelerator: Option<Accelerator>,
}

impl Capturing {
    /// Loads what is asked for.
    ///
    /// # Errors
    /// When eBPF or acceleration is asked for by name and not to be had.
    pub(crate) fn prepare(choice: Choice, accelerate: bool) -> Result<Self, String> {
        let programs = match choice {
            Choice::Nftables => Err(NOT_ASKED.to_owned()),
            Choice::Auto | Choice::Ebpf => Programs::load().map_err(|e| e.to_string()),
        };
        match &programs {
            Err(reason) if choice == Choice::Ebpf => return Err(format!("--capture ebpf: {reason}")),
            Err(reason) if accelerate => return Err(format!("--accelerate needs capture by eBPF: {reason}")),
            _ => {}
        }
        let accelerator = accelerate.then(Accelerator::load).transpose().map_err(|e| format!("--accelerate: {e}"))?;
        Ok(Self { choice, programs, accelerator })
    }

    /// Captures the traffic of a namespace in which nothing runs yet. What is returned first must live as long as the pod.
    ///
    /// # Errors
    /// What the kernel refuses; with eBPF asked for by name, also what that does not do.
    pub(crate) fn apply(&self, ns: &NetNs, config: &CaptureConfig) -> Result<(Option<Held>, Option<CaptureStatus>), String> {
        let reason = match self.by_programs(ns, config) {
            Ok(None) => return Ok((None, None)),
            Ok(Some(captured)) => {
                let accelerate = |a: &Accelerator| a.accelerate(ns, config.proxy_port).map_err(|e| e.to_string());
                let accelerated = self.accelerator.as_ref().map(accelerate).transpose()?;
                let status = CaptureStatus { method: Method::Ebpf, reason: String::new(), accelerated: accelerated.is_some() };
                return Ok((Some(Held { _captured: captured, _accelerated: accelerated }), Some(status)));
            }
            Err(reason) if self.choice == Choice::Ebpf => return Err(reason),
            Err(reason) => reason,
        };
        let rules = RuleSet::plan(config);
        ns.run(|| rules.apply()).map_err(|e| format!("network namespace: {e}"))?.map_err(|e| e.to_string())?;
        // Nothing is captured where nothing is intercepted.
        let status =
            (!rules.tables().is_empty()).then_some(CaptureStatus { method: Method::Nftables, reason, accelerated: false });
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
        if self.accelerated {
            f.write_str(", accelerated")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}
