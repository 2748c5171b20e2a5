//! `lateen capture`: the capture of a sidecar's traffic, in the network namespace in which the command runs.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use lateen_capture::ebpf::{Accelerator, Plan, Programs};
use lateen_capture::link::{add_inbound_source_v6, remove_inbound_source_v6};
use lateen_capture::netns::NetNs;
use lateen_capture::nft::InstalledTable;
use lateen_capture::rules::{
    CaptureConfig, ConfigError, DnsCapture, OwnerGroups, ProxyTraffic, RuleSet, parse_ids, parse_interfaces, parse_ports,
    parse_ranges,
};

use nix::sys::signal::{SigSet, Signal};

use super::{fail, print};

/// Redirect a pod's traffic to its sidecar with nftables or eBPF (istio-iptables)
///
/// Works on the network namespace in which it runs, and needs CAP_NET_ADMIN there.
#[derive(Debug, Args)]
pub struct Capture {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Install the rules, in place of whatever capture rules are there
    Apply(Box<Apply>),
    /// Remove every capture rule
    Remove,
    /// Print the installed rules, with the packets (in NAT chains: connections) that each has matched
    Show,
}

/// Istio's flags, with Istio's defaults.
#[derive(Debug, Args)]
struct Apply {
    /// Where outbound connections are redirected to
    #[arg(short = 'p', long, default_value_t = 15001, value_name = "PORT")]
    envoy_port: u16,
    /// Where inbound connections are redirected to
    #[arg(short = 'z', long, default_value_t = 15006, value_name = "PORT")]
    inbound_capture_port: u16,
    /// The tunnel's port, never redirected
    #[arg(short = 'e', long, default_value_t = 15008, value_name = "PORT")]
    inbound_tunnel_port: u16,
    /// The proxy's users
    #[arg(short = 'u', long, default_value = "1337", value_name = "UIDS", conflicts_with = "proxy_mark")]
    proxy_uid: String,
    /// The proxy's groups [default: as --proxy-uid]
    #[arg(short = 'g', long, value_name = "GIDS", conflicts_with = "proxy_mark")]
    proxy_gid: Option<String>,
    /// Know the proxy by its sockets' mark, not by its user (the application must not be able to set marks)
    #[arg(long, value_name = "MARK")]
    proxy_mark: Option<u32>,
    /// REDIRECT or NONE
    #[arg(short = 'm', long, default_value = "REDIRECT", value_name = "MODE")]
    istio_inbound_interception_mode: String,
    /// Inbound ports to capture; * for all, empty for none
    #[arg(short = 'b', long, default_value = "*", value_name = "PORTS")]
    istio_inbound_ports: String,
    /// Inbound ports to leave alone, when all are captured
    #[arg(short = 'd', long, default_value = "15090,15021,15020", value_name = "PORTS")]
    istio_local_exclude_ports: String,
    /// Outbound networks to capture; * for all, empty for none
    #[arg(short = 'i', long, default_value = "*", value_name = "CIDRS")]
    istio_service_cidr: String,
    /// Outbound networks to leave alone
    #[arg(short = 'x', long, default_value = "", value_name = "CIDRS")]
    istio_service_exclude_cidr: String,
    /// Outbound ports to capture, whatever the network
    #[arg(short = 'q', long, default_value = "", value_name = "PORTS")]
    istio_outbound_ports: String,
    /// Outbound ports to leave alone
    #[arg(short = 'o', long, default_value = "", value_name = "PORTS")]
    istio_local_outbound_ports_exclude: String,
    /// Interfaces to leave alone
    #[arg(short = 'c', long, default_value = "", value_name = "NAMES")]
    istio_exclude_interfaces: String,
    /// Interfaces of virtual machines, whose inbound traffic is outbound traffic of the pod
    #[arg(short = 'k', long, default_value = "", value_name = "NAMES")]
    kube_virt_interfaces: String,
    /// Groups whose outbound traffic is captured; * for all
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS", default_value = "*", value_name = "GIDS")]
    outbound_owner_groups: String,
    /// Groups whose outbound traffic is left alone
    #[arg(long, env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", default_value = "", value_name = "GIDS")]
    outbound_owner_groups_exclude: String,
    /// Capture DNS queries to the servers of /etc/resolv.conf
    #[arg(long)]
    redirect_dns: bool,
    /// Capture all DNS queries (with --redirect-dns)
    #[arg(long)]
    capture_all_dns: bool,
    /// Drop packets that connection tracking cannot place
    #[arg(long, env = "INVALID_DROP")]
    drop_invalid: bool,
    /// The pod's IPv4 loopback network
    #[arg(long, env = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", default_value = "127.0.0.1/32", value_name = "CIDR")]
    host_ipv4_loopback_cidr: Ipv4Net,
    /// How: with `ebpf` the command stays, and traffic is captured until it ends, by whatever hand
    #[arg(long, value_enum, default_value = "nftables", value_name = "METHOD")]
    method: By,
    /// Hand over what application and sidecar send each other in the kernel, as `lateen up --accelerate` does; with --method ebpf
    ///
    /// The sidecar must be Lateen's, and be told: LATEEN_ACCELERATED=true.
    #[arg(long)]
    accelerate: bool,
    /// Print the rules and install nothing
    #[arg(short = 'n', long, conflicts_with = "method")]
    dry_run: bool,
}

/// How traffic is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// By address translation.
    Nftables,
    /// By programs in the kernel.
    Ebpf,
}

impl Capture {
    /// Runs the subcommand.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.action {
            Action::Apply(apply) => apply.run(),
            Action::Remove => remove(),
            Action::Show => RuleSet::installed().map(|tables| show(&tables)).map_err(|e| e.to_string()),
        };
        match result {
            Ok(text) => print(&text),
            Err(e) => fail(&e),
        }
    }
}

fn remove() -> Result<String, String> {
    RuleSet::remove().map_err(|e| e.to_string())?;
    remove_inbound_source_v6().map_err(|e| e.to_string())?;
    Ok(String::new())
}

impl Apply {
    fn run(&self) -> Result<String, String> {
        let config = self.config().map_err(|e| e.to_string())?;
        if self.method == By::Ebpf {
            return self.hold(&config);
        }
        if self.accelerate {
            return Err("--accelerate needs --method ebpf".to_owned());
        }
        let rules = RuleSet::plan(&config);
        if self.dry_run {
            return Ok(plan_text(&rules));
        }
        rules.apply().map_err(|e| e.to_string())?;
        if !rules.tables().is_empty() && std::path::Path::new("/proc/sys/net/ipv6").exists() {
            add_inbound_source_v6().map_err(|e| e.to_string())?;
        }
        Ok(String::new())
    }

    /// Captures until SIGINT or SIGTERM.
    fn hold(&self, config: &CaptureConfig) -> Result<String, String> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block().map_err(|e| e.to_string())?;
        let Some(plan) = Plan::of(config).map_err(|e| e.to_string())? else { return Ok(String::new()) };
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            add_inbound_source_v6().map_err(|e| e.to_string())?;
        }
        let programs = Programs::load().map_err(|e| e.to_string())?;
        let here = NetNs::current().map_err(|e| format!("network namespace: {e}"))?;
        let _captured = programs.capture(&here, plan).map_err(|e| e.to_string())?;
        let accelerate = || Accelerator::load()?.accelerate(&here, self.envoy_port);
        let accelerated = self.accelerate.then(accelerate).transpose().map_err(|e| format!("--accelerate: {e}"))?;
        let also = if accelerated.is_some() { " and accelerated" } else { "" };
        print(&format!("captured{also} by eBPF until this command ends\n"));
        signals.wait().map_err(|e| e.to_string())?;
        Ok(String::new())
    }

    fn config(&self) -> Result<CaptureConfig, ConfigError> {
        let proxy = match self.proxy_mark {
            Some(mark) => ProxyTraffic::Mark(mark),
            None => ProxyTraffic::Owner {
                uids: parse_ids(&self.proxy_uid)?,
                gids: parse_ids(self.proxy_gid.as_ref().unwrap_or(&self.proxy_uid))?,
            },
        };
        let except = parse_ids(&self.outbound_owner_groups_exclude)?;
        let owner_groups = match (self.outbound_owner_groups.trim(), except.is_empty()) {
            ("*", true) => OwnerGroups::All,
            ("*", false) => OwnerGroups::Except(except),
            (list, true) => OwnerGroups::Only(parse_ids(list)?),
            (_, false) => return Err(ConfigError::OwnerGroups),
        };
        Ok(CaptureConfig {
            mode: self.istio_inbound_interception_mode.parse()?,
            proxy_port: self.envoy_port,
            inbound_port: self.inbound_capture_port,
            tunnel_port: self.inbound_tunnel_port,
            proxy,
            inbound_ports: self.istio_inbound_ports.parse()?,
            exclude_inbound_ports: parse_ports(&self.istio_local_exclude_ports)?,
            outbound_ranges: self.istio_service_cidr.parse()?,
            exclude_outbound_ranges: parse_ranges(&self.istio_service_exclude_cidr)?,
            outbound_ports: parse_ports(&self.istio_outbound_ports)?,
            exclude_outbound_ports: parse_ports(&self.istio_local_outbound_ports_exclude)?,
            exclude_interfaces: parse_interfaces(&self.istio_exclude_interfaces)?,
            reroute_interfaces: parse_interfaces(&self.kube_virt_interfaces)?,
            owner_groups,
            dns: self.dns()?,
            drop_invalid: self.drop_invalid,
            loopback_v4: self.host_ipv4_loopback_cidr,
        })
    }

    fn dns(&self) -> Result<DnsCapture, ConfigError> {
        match (self.redirect_dns, self.capture_all_dns) {
            (_, true) => Ok(DnsCapture::All),
            (false, false) => Ok(DnsCapture::Off),
            (true, false) => {
                let servers = name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
                if servers.is_empty() { Err(ConfigError::NoNameServers) } else { Ok(DnsCapture::Servers(servers)) }
            }
        }
    }
}

/// The servers of a `resolv.conf`.
fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.split('%').next()?.parse().ok())
        .collect()
}

fn plan_text(rules: &RuleSet) -> String {
    let mut out = String::new();
    for table in rules.tables() {
        for chain in &table.chains {
            for rule in &chain.rules {
                out.push_str(&format!("inet {} {}: {rule}\n", table.name, chain.name));
            }
        }
    }
    out
}

fn show(tables: &[InstalledTable]) -> String {
    if tables.is_empty() {
        return "no capture rules are installed\n".to_owned();
    }
    let mut out = String::new();
    for table in tables {
        out.push_str(&format!("table inet {}\n", table.name));
        for chain in &table.chains {
            let base = match &chain.base {
                Some((kind, hook, priority)) => {
                    let hook = ["prerouting", "input", "forward", "output", "postrouting"]
                        .get(usize::try_from(*hook).unwrap_or(usize::MAX))
                        .unwrap_or(&"?");
                    format!(" ({kind}, hook {hook}, priority {priority})")
                }
                None => String::new(),
            };
            out.push_str(&format!("  chain {}{base}\n", chain.name));
            for rule in &chain.rules {
                let words = rule.words.as_deref().unwrap_or("(a rule that lateen did not make)");
                out.push_str(&format!("    {:>8}  {words}\n", rule.packets));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        apply: Apply,
    }

    fn config(args: &[&str]) -> Result<CaptureConfig, ConfigError> {
        Program::parse_from(std::iter::once("x").chain(args.iter().copied())).apply.config()
    }

    #[test]
    fn without_flags_the_configuration_is_istios() {
        assert_eq!(config(&[]).unwrap(), CaptureConfig::default());
    }

    #[test]
    fn istios_short_flags_mean_what_they_mean_there() {
        let given = config(&[
            "-p",
            "1",
            "-z",
            "2",
            "-u",
            "7",
            "-m",
            "REDIRECT",
            "-i",
            "10.0.0.0/8",
            "-x",
            "10.1.0.0/16",
            "-b",
            "80",
            "-d",
            "90",
            "-o",
            "22",
            "-q",
            "443",
            "-c",
            "eth1",
            "-k",
            "tap0",
            "-e",
            "3",
        ])
        .unwrap();
        assert_eq!((given.proxy_port, given.inbound_port, given.tunnel_port), (1, 2, 3));
        assert_eq!(given.proxy, ProxyTraffic::Owner { uids: vec![7], gids: vec![7] });
        assert_eq!((given.outbound_ports, given.exclude_outbound_ports), (vec![443], vec![22]));
        assert_eq!((given.exclude_interfaces, given.reroute_interfaces), (vec!["eth1".to_owned()], vec!["tap0".to_owned()]));
        assert_eq!(config(&["--proxy-mark", "1337"]).unwrap().proxy, ProxyTraffic::Mark(1337));
        assert_eq!(config(&["-m", "TPROXY"]), Err(ConfigError::Tproxy));
        assert!(config(&["-x", "*"]).is_err());
        assert_eq!(
            config(&["--outbound-owner-groups", "1", "--outbound-owner-groups-exclude", "2"]),
            Err(ConfigError::OwnerGroups)
        );
    }

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# x\nsearch a\nnameserver 10.0.0.1\n nameserver fe80::1%eth0\nnameserver nonsense\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}
