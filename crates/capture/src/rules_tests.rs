use super::*;

fn rules(config: &CaptureConfig, table: &str, chain: &str) -> Vec<String> {
    let set = RuleSet::plan(config);
    set.tables().iter().find(|t| t.name == table).map(|t| t.rules_of(chain)).unwrap_or_default()
}

fn one_user() -> CaptureConfig {
    CaptureConfig { proxy: ProxyTraffic::Owner { uids: vec![1337], gids: Vec::new() }, ..CaptureConfig::default() }
}

#[test]
fn the_default_rules_are_istios_in_istios_order() {
    let config = CaptureConfig::default();
    let set = RuleSet::plan(&config);
    assert_eq!(set.tables().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["istio-proxy-nat"]);
    assert_eq!(rules(&config, NAT, "prerouting"), ["meta l4proto tcp jump istio-inbound"]);
    assert_eq!(rules(&config, NAT, "output"), ["jump istio-output"]);
    assert_eq!(rules(&config, NAT, "istio-redirect"), ["meta l4proto tcp redirect to :15001"]);
    assert_eq!(rules(&config, NAT, "istio-in-redirect"), ["meta l4proto tcp redirect to :15006"]);
    assert_eq!(
        rules(&config, NAT, "istio-inbound"),
        [
            "tcp dport 15008 return",
            "tcp dport 15090 return",
            "tcp dport 15021 return",
            "tcp dport 15020 return",
            "meta l4proto tcp jump istio-in-redirect",
        ]
    );
    assert_eq!(
        rules(&config, NAT, "istio-output"),
        [
            "oifname \"lo\" ip saddr 127.0.0.6/32 return",
            "oifname \"lo\" ip6 saddr ::6/128 return",
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" ip6 daddr != ::1/128 tcp dport != 15008 meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" meta skuid != 1337 return",
            "meta skuid 1337 return",
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta skgid 1337 jump istio-in-redirect",
            "oifname \"lo\" ip6 daddr != ::1/128 tcp dport != 15008 meta skgid 1337 jump istio-in-redirect",
            "oifname \"lo\" meta skgid != 1337 return",
            "meta skgid 1337 return",
            "ip daddr 127.0.0.1/32 return",
            "ip6 daddr ::1/128 return",
            "jump istio-redirect",
        ]
    );
}

#[test]
fn a_mark_takes_the_place_of_the_owner() {
    let config = CaptureConfig { proxy: ProxyTraffic::Mark(1337), ..CaptureConfig::default() };
    assert_eq!(
        rules(&config, NAT, "istio-output")[2..6],
        [
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta mark 1337 jump istio-in-redirect",
            "oifname \"lo\" ip6 daddr != ::1/128 tcp dport != 15008 meta mark 1337 jump istio-in-redirect",
            "oifname \"lo\" meta mark != 1337 return",
            "meta mark 1337 return",
        ]
    );
}

#[test]
fn inbound_ports_by_list_ignore_the_exclusions_and_none_captures_nothing() {
    let listed = CaptureConfig { inbound_ports: "8080,9090".parse().unwrap(), ..CaptureConfig::default() };
    assert_eq!(
        rules(&listed, NAT, "istio-inbound"),
        ["tcp dport 15008 return", "tcp dport 8080 jump istio-in-redirect", "tcp dport 9090 jump istio-in-redirect",]
    );
    let none = CaptureConfig { inbound_ports: "".parse().unwrap(), ..CaptureConfig::default() };
    assert!(rules(&none, NAT, "prerouting").is_empty());
}

#[test]
fn outbound_exclusions_and_inclusions_stand_where_istio_puts_them() {
    let config = CaptureConfig {
        outbound_ranges: "10.0.0.0/8,fd00::/8".parse().unwrap(),
        exclude_outbound_ranges: parse_ranges("10.1.0.0/16,192.0.2.1").unwrap(),
        outbound_ports: vec![5432],
        exclude_outbound_ports: vec![3306],
        ..one_user()
    };
    assert_eq!(
        rules(&config, NAT, "istio-output"),
        [
            "tcp dport 3306 return",
            "udp dport 3306 return",
            "oifname \"lo\" ip saddr 127.0.0.6/32 return",
            "oifname \"lo\" ip6 saddr ::6/128 return",
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" ip6 daddr != ::1/128 tcp dport != 15008 meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" meta skuid != 1337 return",
            "meta skuid 1337 return",
            "ip daddr 127.0.0.1/32 return",
            "ip6 daddr ::1/128 return",
            "ip daddr 10.1.0.0/16 return",
            "ip daddr 192.0.2.1/32 return",
            "tcp dport 5432 jump istio-redirect",
            "ip daddr 10.0.0.0/8 jump istio-redirect",
            "ip6 daddr fd00::/8 jump istio-redirect",
        ]
    );
}

#[test]
fn an_included_loopback_lets_the_applications_own_calls_be_captured() {
    let config = CaptureConfig { outbound_ranges: "127.1.2.3/32".parse().unwrap(), ..one_user() };
    assert!(!rules(&config, NAT, "istio-output").iter().any(|r| r.contains("skuid != 1337")));
}

#[test]
fn interfaces_are_left_alone_or_rerouted_before_anything_else() {
    let config = CaptureConfig {
        exclude_interfaces: parse_interfaces("net1, net2").unwrap(),
        reroute_interfaces: parse_interfaces("tap0").unwrap(),
        ..CaptureConfig::default()
    };
    assert_eq!(
        rules(&config, NAT, "prerouting"),
        [
            "iifname \"tap0\" jump istio-redirect",
            "iifname \"net1\" return",
            "iifname \"net2\" return",
            "meta l4proto tcp jump istio-inbound",
        ]
    );
    assert_eq!(rules(&config, NAT, "output"), ["oifname \"net1\" return", "oifname \"net2\" return", "jump istio-output"]);
}

#[test]
fn owner_groups_come_after_the_proxy_and_before_the_destinations() {
    let only = CaptureConfig { owner_groups: OwnerGroups::Only(vec![202, 303]), ..one_user() };
    assert_eq!(rules(&only, NAT, "istio-output")[6], "meta skgid != 202 meta skgid != 303 return");
    let except = CaptureConfig { owner_groups: OwnerGroups::Except(vec![202, 303]), ..one_user() };
    assert_eq!(rules(&except, NAT, "istio-output")[6..8], ["meta skgid 202 return", "meta skgid 303 return"]);
}

#[test]
fn all_dns_is_captured_after_the_proxys_own_queries_have_left() {
    let config = CaptureConfig { dns: DnsCapture::All, ..one_user() };
    assert_eq!(
        rules(&config, NAT, "istio-output")[2..7],
        [
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != { 53, 15008 } meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" ip6 daddr != ::1/128 tcp dport != { 53, 15008 } meta skuid 1337 jump istio-in-redirect",
            "oifname \"lo\" tcp dport != 53 meta skuid != 1337 return",
            "meta skuid 1337 return",
            "jump istio-output-dns",
        ]
    );
    assert_eq!(rules(&config, NAT, "istio-output-dns"), ["tcp dport 53 redirect to :15053", "udp dport 53 redirect to :15053"]);
    assert_eq!(rules(&config, RAW, "output"), ["jump istio-output-dns"]);
    assert_eq!(
        rules(&config, RAW, "istio-output-dns"),
        [
            "udp dport 53 meta skuid 1337 ct zone set 1",
            "udp sport 15053 meta skuid 1337 ct zone set 2",
            "udp dport 53 ct zone set 2",
        ]
    );
    assert_eq!(rules(&config, RAW, "prerouting"), ["udp sport 53 ct zone set 1"]);
}

#[test]
fn dns_of_known_servers_is_captured_per_server() {
    let config =
        CaptureConfig { dns: DnsCapture::Servers(vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()]), ..one_user() };
    assert_eq!(
        rules(&config, NAT, "istio-output-dns"),
        [
            "ip daddr 10.96.0.10/32 tcp dport 53 redirect to :15053",
            "ip daddr 10.96.0.10/32 udp dport 53 redirect to :15053",
            "ip6 daddr fd00::a/128 tcp dport 53 redirect to :15053",
            "ip6 daddr fd00::a/128 udp dport 53 redirect to :15053",
        ]
    );
    assert_eq!(
        rules(&config, RAW, "prerouting"),
        ["ip saddr 10.96.0.10/32 udp sport 53 ct zone set 1", "ip6 saddr fd00::a/128 udp sport 53 ct zone set 1"]
    );
}

#[test]
fn invalid_packets_are_dropped_when_asked() {
    let config = CaptureConfig { drop_invalid: true, ..CaptureConfig::default() };
    assert_eq!(rules(&config, MANGLE, "prerouting"), ["ct state invalid jump istio-drop"]);
    assert_eq!(rules(&config, MANGLE, "istio-drop"), ["drop"]);
}

#[test]
fn mode_none_plans_nothing_and_tproxy_is_refused() {
    let none = CaptureConfig { mode: "NONE".parse().unwrap(), ..CaptureConfig::default() };
    assert!(RuleSet::plan(&none).tables().is_empty());
    assert_eq!("TPROXY".parse::<InterceptionMode>(), Err(ConfigError::Tproxy));
    assert_eq!("redirect".parse::<InterceptionMode>(), Err(ConfigError::Mode("redirect".to_owned())));
}

#[test]
fn lists_that_make_no_sense_are_refused_with_what_is_allowed() {
    for bad in ["80,,x", "0", "65536", "-1", "80-90"] {
        assert!(bad.parse::<PortSelection>().is_err(), "{bad}");
    }
    assert!(parse_ports("*").unwrap_err().to_string().contains("numbers from 1 to 65535"));
    assert!(parse_ranges("*").unwrap_err().to_string().contains("`*` is not allowed here"));
    assert!(parse_ranges("10.0.0.0/33").is_err());
    assert!(parse_ids("1337,root").is_err());
    assert!(parse_interfaces("a-name-that-is-too-long").is_err());
    assert_eq!(parse_ports(" 80 , 443,").unwrap(), [80, 443]);
}
