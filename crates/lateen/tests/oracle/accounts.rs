//! Whether Lateen's metrics say what its access logs say, which are compared with Envoy's request by request: each request that is
//! logged is counted once, with its code, its flags and where it went.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use lateen_testkit::lab::PodStatus;
use lateen_testkit::prometheus::{self, Sample};
use serde_json::Value;

use crate::mesh::base_name;

/// How often there was which code with which flags; requests that could not be read have no flags here.
type Tally = BTreeMap<(String, String), u64>;

/// What the log of one proxy says of all requests so far.
#[derive(Default)]
pub(crate) struct Ledger {
    read: u64,
    /// A line that was not written to its end.
    rest: Vec<u8>,
    requests: Tally,
    /// Requests that went out to an endpoint of a service, and the others.
    hosts: BTreeMap<String, u64>,
    elsewhere: u64,
    /// By the address of the endpoint, without its port.
    endpoints: BTreeMap<String, u64>,
    /// What is wrong stays wrong: it is said once.
    pub(crate) has_complained: bool,
}

impl Ledger {
    /// Reads what was written since the last time.
    pub(crate) fn read_on(&mut self, path: &Path) -> Result<(), String> {
        let mut text = std::mem::take(&mut self.rest);
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut text)
        });
        self.read += read.map_err(|e| format!("{}: {e}", path.display()))? as u64;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.rest = text.split_off(whole);
        text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).for_each(|entry| self.add(&entry));
        Ok(())
    }

    fn add(&mut self, entry: &Value) {
        let code = entry["response_code"].as_u64().unwrap_or_default();
        let is_request = entry["method"].is_string();
        if !is_request && code == 0 {
            // A TCP connection.
            return;
        }
        let flags = if is_request { entry["response_flags"].as_str().unwrap_or("-") } else { "unread" };
        *self.requests.entry((code.to_string(), flags.to_owned())).or_default() += 1;
        // The log names a cluster that is not there, too; one that has given an endpoint is.
        if let Some(("outbound", rest)) = entry["upstream_cluster"].as_str().and_then(|name| name.split_once('|'))
            && entry["upstream_host"].is_string()
        {
            let host = rest.rsplit('|').next().unwrap_or_default();
            *self.hosts.entry(host.to_owned()).or_default() += 1;
        } else {
            self.elsewhere += 1;
        }
        if let Some((ip, _)) = entry["upstream_host"].as_str().and_then(|host| host.rsplit_once(':')) {
            *self.endpoints.entry(ip.to_owned()).or_default() += 1;
        }
    }

    /// What the metrics of this proxy, the one of `pod`, say otherwise.
    pub(crate) fn disagreement(&self, page: &str, pod: &PodStatus, pods: &[PodStatus]) -> Option<String> {
        // Pages grow from scenario to scenario: only what is asked for is read.
        let wanted =
            |line: &&str| ["istio_requests_total", "lateen_downstream_bad_requests_total"].iter().any(|name| line.contains(name));
        let families = match prometheus::read(&page.split_inclusive('\n').filter(wanted).collect::<String>()) {
            Ok(families) => families,
            Err(error) => return Some(error),
        };
        let samples = || families.iter().flat_map(|family| &family.samples);
        let requests: Vec<&Sample> = samples().filter(|sample| sample.name == "istio_requests_total").collect();
        let mut counted = Tally::new();
        let keyed = requests.iter().map(|s| (label(s, "response_code"), label(s, "response_flags"), *s));
        let unread = samples().filter(|sample| sample.name == "lateen_downstream_bad_requests_total");
        for (code, flags, sample) in keyed.chain(unread.map(|s| (label(s, "code"), "unread", s))) {
            *counted.entry((code.to_owned(), flags.to_owned())).or_default() += whole(sample);
        }
        self.fold_refused(&mut counted);
        if counted != self.requests {
            let logged: BTreeMap<_, _> = self.requests.iter().filter(|(key, n)| counted.get(*key) != Some(*n)).collect();
            let counted: BTreeMap<_, _> = counted.iter().filter(|(key, n)| self.requests.get(*key) != Some(*n)).collect();
            return Some(format!("logged are {logged:?}, counted are {counted:?}"));
        }
        self.misdirected(&requests, pod, pods)
    }

    /// Requests that were refused by their heads alone are counted with those that could not be read, and logged with what was read.
    fn fold_refused(&self, counted: &mut Tally) {
        let unread: Vec<(String, u64)> =
            counted.iter().filter(|((_, f), _)| f == "unread").map(|((c, _), n)| (c.clone(), *n)).collect();
        for (code, number) in unread {
            let key = (code.clone(), "unread".to_owned());
            let logged = self.requests.get(&key).copied().unwrap_or_default();
            if number > logged {
                *counted.entry((code, "-".to_owned())).or_default() += number - logged;
                counted.insert(key.clone(), logged);
            }
            counted.retain(|other, number| *other != key || *number > 0);
        }
    }

    /// Whether the labels say where requests went.
    fn misdirected(&self, requests: &[&Sample], pod: &PodStatus, pods: &[PodStatus]) -> Option<String> {
        let sum = |reporter: &str, name: &str, value: &str| -> u64 {
            let of = requests.iter().filter(|s| label(s, "reporter") == reporter && label(s, name) == value);
            of.map(|s| whole(s)).sum()
        };
        for (host, logged) in &self.hosts {
            let counted = sum("source", "destination_service", host);
            // What went to no endpoint is counted for the service of its cluster, or for the host that was asked for.
            if !(*logged..=*logged + self.elsewhere).contains(&counted) {
                return Some(format!("{logged} requests went to {host}, counted are {counted}"));
            }
        }
        for workload in pods.iter().map(workload_of) {
            let addresses = pods.iter().filter(|pod| workload_of(pod) == workload).map(|pod| &pod.ip);
            let logged: u64 = addresses.filter_map(|ip| self.endpoints.get(ip)).sum();
            let counted = sum("source", "destination_workload", &workload);
            // What went to no endpoint is counted for the one that was tried.
            if counted > logged + self.elsewhere {
                return Some(format!("{logged} requests went to endpoints of {workload}, counted are {counted}"));
            }
        }
        let (own, all) = (workload_of(pod), |s: &&&Sample| label(s, "reporter") == "destination");
        let others = requests.iter().filter(all).find(|s| label(s, "destination_workload") != own);
        others.map(|s| format!("requests that came to {own} are counted as {:?}", s.labels))
    }
}

/// The workload of a pod: pods of a StatefulSet have its name and a number.
fn workload_of(pod: &PodStatus) -> String {
    let name = base_name(pod);
    match name.rsplit_once('-') {
        Some((set, _)) if pod.labels.contains_key("statefulset.kubernetes.io/pod-name") => set.to_owned(),
        _ => name,
    }
}

fn label<'s>(sample: &'s Sample, name: &str) -> &'s str {
    sample.labels.get(name).map_or("", String::as_str)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of requests")]
fn whole(sample: &Sample) -> u64 {
    sample.value as u64
}
