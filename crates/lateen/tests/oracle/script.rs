//! Scenarios as they are written: `NAME/*.yaml` are manifests, `NAME/client.yaml` is the script, and `NAME/later/*.yaml` are
//! manifests that come while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::credentials;
use crate::op::{Body, Bytes, Http, Op, Tls, Version};
use crate::{places, yaml};

/// A scenario.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// One text of several documents.
    pub(crate) manifests: String,
    /// The same, of what comes with a step, by name.
    pub(crate) later: BTreeMap<String, String>,
    pub(crate) script: Script,
}

/// A client's script.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    /// What it shows.
    pub(crate) about: String,
    /// Whether all steps, which then send bytes, run at once.
    #[serde(default)]
    pub(crate) together: bool,
    /// Whether it runs again with the DestinationRules' policies in each of the other places that have them.
    #[serde(default)]
    pub(crate) places: bool,
    /// Whether what the proxies have counted in the end is compared; see counters.rs.
    #[serde(default)]
    pub(crate) counters: bool,
    /// Numbers of them that both have to have, by pod and name.
    #[serde(default)]
    pub(crate) counted: BTreeMap<String, Value>,
    /// Patterns of those that chance decides.
    #[serde(default)]
    pub(crate) chance: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

/// A request, or several, and what is looked at.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// By which differences are listed. The request itself, if left out.
    #[serde(default)]
    pub(crate) name: String,
    /// The fields of the API that decide what happens here; `A.b.*` is every field below that the manifests set.
    #[serde(default)]
    pub(crate) covers: Vec<String>,
    /// Who sends: a pod, or a deployment's first.
    #[serde(default = "client")]
    pub(crate) from: String,
    /// The name of manifests that stand beside the scenario's from this step on.
    pub(crate) apply: Option<String>,
    /// What the servers are to do, until the end of the step.
    #[serde(default)]
    pub(crate) prepare: Vec<Order>,
    /// Short for `http: {url: …}`.
    pub(crate) get: Option<String>,
    pub(crate) http: Option<HttpStep>,
    pub(crate) grpc: Option<GrpcStep>,
    pub(crate) send: Option<SendStep>,
    /// When the kernel next probes connections to this port.
    pub(crate) keep_alive: Option<u16>,
    /// How many requests.
    #[serde(default = "one")]
    pub(crate) times: u32,
    /// How many at once.
    #[serde(default = "one")]
    pub(crate) parallel: u32,
    /// Milliseconds between the starts of parallel ones.
    #[serde(default)]
    pub(crate) stagger: u64,
    /// Which requests the sidecars of servers saw: copies, too.
    #[serde(default)]
    pub(crate) saw: bool,
    /// On how many connections the requests came to the sidecars of servers.
    #[serde(default)]
    pub(crate) connections: bool,
    /// The name under which it is kept which pod answered which of the keys.
    pub(crate) remember: Option<String>,
    /// The name of an earlier step, with whose pods those of this one are compared.
    pub(crate) against: Option<String>,
    /// Whether to see for how many milliseconds no request got a certain status, at most, between two that did.
    #[serde(default)]
    pub(crate) gaps: bool,
    /// Whether which pod answered which of the keys is compared between the engines.
    #[serde(default)]
    pub(crate) owners: bool,
    /// How many tries the servers saw.
    #[serde(default)]
    pub(crate) tries: bool,
    /// Numbers of the observation (`millis`, `statuses.503`) that need only lie in a range, both ends included.
    #[serde(default)]
    pub(crate) within: BTreeMap<String, (u64, u64)>,
    /// The share of answers that each version gives, of those of many requests, or that have a status (`statuses.503`); checked
    /// with the exact bound of one false alarm in a billion.
    #[serde(default)]
    pub(crate) share: BTreeMap<String, f64>,
    /// Whether to see if the connection is ended.
    #[serde(default)]
    pub(crate) end: bool,
    /// Whether the access logs of the clients' and servers' sidecars are compared.
    #[serde(default = "yes")]
    pub(crate) log: bool,
    /// Parts of the observation that mean nothing here, as in the list of differences.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    /// What both engines have to show, so that they do not agree on something else than is meant.
    #[serde(default)]
    pub(crate) expect: BTreeMap<String, Value>,
}

fn client() -> String {
    "client".to_owned()
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// What `POST /control` of the test application takes, and who gets it.
#[derive(Clone, Deserialize)]
pub(crate) struct Order {
    /// A deployment.
    pub(crate) at: String,
    #[serde(flatten)]
    pub(crate) order: serde_json::Map<String, Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpStep {
    /// `http://HOST[:PORT]/PATH`, or `https://…`, which is in TLS.
    url: String,
    /// Where to connect, as HOST:PORT, instead of the URL's host and port.
    to: Option<String>,
    /// How TLS is spoken with `https`: the name that is asked for, or more; the URL's host if left out. A name alone goes with
    /// `http`, too.
    tls: Option<Offer>,
    #[serde(default)]
    version: Version,
    method: Option<String>,
    /// Over HTTP/2, the protocol of an extended CONNECT (RFC 8441).
    protocol: Option<String>,
    /// Instead of the URL's path.
    target: Option<String>,
    /// Instead of the URL's; empty is none.
    host: Option<String>,
    /// One value or a list of them.
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    body: Option<String>,
    chunks: Option<Vec<String>>,
    expect: Option<String>,
    #[serde(default)]
    trailers: BTreeMap<String, String>,
    /// How many `%N%` there are in the target and in headers.
    #[serde(default)]
    keys: u32,
    #[serde(default)]
    cookies: bool,
    #[serde(default)]
    anew: bool,
    patience: Option<u64>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcStep {
    /// HOST:PORT
    to: String,
    /// Unary if left out.
    call: Option<String>,
    #[serde(default)]
    message: String,
    /// The status to be answered with.
    #[serde(default)]
    status: u8,
    #[serde(default)]
    delay: u16,
    #[serde(default)]
    count: u8,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    patience: Option<u64>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendStep {
    to: String,
    tls: Option<TlsStep>,
    /// Texts; a silence is waited for between them. `\r\n` are written as such.
    parts: Vec<String>,
    /// As hexadecimal digits, before the texts.
    hex: Option<String>,
    #[serde(default)]
    finish: bool,
    /// Whether to reset the connection in the end.
    #[serde(default)]
    reset: bool,
    #[serde(default = "quiet")]
    quiet: u64,
    /// So many bytes `x` after the first text.
    #[serde(default)]
    pad: usize,
}

fn quiet() -> u64 {
    400
}

/// How a step speaks TLS.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Offer {
    /// Asking for this name.
    Name(String),
    Whole(TlsStep),
}

/// A client of TLS.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsStep {
    /// Empty: none is asked for.
    sni: Option<String>,
    /// The name of the client's certificate; see credentials.rs.
    certificate: Option<String>,
    alpn: Option<Vec<String>>,
    min: Option<String>,
    max: Option<String>,
    suites: Vec<String>,
}

impl TlsStep {
    fn op(&self, host: &str, protocol: &str) -> Tls {
        let name = self.sni.clone().unwrap_or_else(|| host.to_owned());
        Tls {
            sni: Some(name).filter(|name| !name.is_empty()),
            certificate: self.certificate.as_deref().map(credentials::leaf),
            alpn: self.alpn.clone().unwrap_or_else(|| vec![protocol.to_owned()]),
            min: self.min.clone(),
            max: self.max.clone(),
            suites: self.suites.clone(),
        }
    }
}

impl Step {
    /// What its pod has to do.
    pub(crate) fn op(&self) -> Result<Op, String> {
        if let Some(port) = self.keep_alive {
            return Ok(Op::KeepAlive(port));
        }
        let mut http = match (&self.get, &self.http, &self.grpc, &self.send) {
            (Some(url), None, None, None) => simple(url)?,
            (None, Some(step), None, None) => step.op()?,
            (None, None, Some(step), None) => step.op()?,
            (None, None, None, Some(step)) => return Ok(Op::Bytes(vec![step.op()?])),
            _ => return Err("needs exactly one of get, http, grpc, send and keep_alive".to_owned()),
        };
        (http.times, http.parallel, http.stagger, http.watch_end) = (self.times, self.parallel, self.stagger, self.end);
        Ok(Op::Http(Box::new(http)))
    }

    /// What it is called.
    pub(crate) fn title(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match (&self.get, &self.http, &self.grpc, &self.send) {
            (Some(url), ..) => url.clone(),
            (_, Some(step), ..) => format!("{} {}", step.method.as_deref().unwrap_or("GET"), step.url),
            (_, _, Some(step), _) => format!("gRPC {} {}", step.to, step.message),
            (.., Some(step)) => format!("{} {:?}", step.to, step.parts),
            _ => String::new(),
        }
    }

    /// How many different requests it sends; 0 if they are all the same.
    pub(crate) fn keys(&self) -> u32 {
        self.http.as_ref().map_or(0, |http| http.keys)
    }

    /// Whether it is about HTTP as a whole, and not about bytes.
    pub(crate) fn is_bytes(&self) -> bool {
        self.send.is_some()
    }
}

fn simple(url: &str) -> Result<Http, String> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url}: not http://HOST[:PORT]/PATH"))?;
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(format!("{url}: neither http nor https")),
    };
    let (authority, target) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") };
    let tls = (scheme == "https").then(|| TlsStep::default().op(host_of(authority), "http/1.1"));
    Ok(Http {
        address,
        tls,
        version: Version::Http11,
        method: "GET".to_owned(),
        protocol: None,
        target: target.to_owned(),
        authority: Some(authority.to_owned()),
        headers: Vec::new(),
        body: Body::None,
        trailers: Vec::new(),
        times: 1,
        parallel: 1,
        stagger: 0,
        keys: 0,
        cookies: false,
        anew: false,
        watch_end: false,
        patience: 10_000,
    })
}

fn host_of(authority: &str) -> &str {
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

fn pairs(map: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values = |value: &Value| value.as_array().map_or_else(|| vec![text(value)], |list| list.iter().map(text).collect());
    map.iter().flat_map(|(name, value)| values(value).into_iter().map(move |v| (name.clone(), v))).collect()
}

impl HttpStep {
    fn op(&self) -> Result<Http, String> {
        let mut http = simple(&self.url)?;
        http.version = self.version;
        let protocol = if http.version == Version::Http2 { "h2" } else { "http/1.1" };
        let host = host_of(http.authority.as_deref().unwrap_or_default()).to_owned();
        match &self.tls {
            Some(Offer::Name(name)) => http.tls = Some(TlsStep::default().op(name, protocol)),
            Some(Offer::Whole(_)) if http.tls.is_none() => return Err("tls goes with https".to_owned()),
            Some(Offer::Whole(step)) => http.tls = Some(step.op(&host, protocol)),
            None if http.tls.is_some() => http.tls = Some(TlsStep::default().op(&host, protocol)),
            None => {}
        }
        if let Some(to) = &self.to {
            http.address.clone_from(to);
        }
        if let Some(host) = &self.host {
            http.authority = Some(host.clone()).filter(|host| !host.is_empty());
        }
        http.headers = pairs(&self.headers);
        http.body = match (&self.body, &self.chunks, &self.expect) {
            (None, None, None) => Body::None,
            (Some(text), None, None) => Body::Text(text.clone()),
            (None, Some(chunks), None) => Body::Chunked(chunks.clone()),
            (None, None, Some(text)) => Body::Expect(text.clone()),
            _ => return Err("only one of body, chunks and expect".to_owned()),
        };
        http.method = self.method.clone().unwrap_or_else(|| if http.body == Body::None { "GET" } else { "POST" }.to_owned());
        if let Some(target) = &self.target {
            http.target.clone_from(target);
        }
        http.protocol.clone_from(&self.protocol);
        http.trailers = self.trailers.clone().into_iter().collect();
        (http.anew, http.keys, http.cookies) = (self.anew, self.keys, self.cookies);
        http.patience = self.patience.unwrap_or(http.patience);
        Ok(http)
    }
}

impl GrpcStep {
    /// `lateen.echo.v1.Echo/Unary` with an `EchoRequest`, encoded by hand: five small fields need no code generator.
    fn op(&self) -> Result<Http, String> {
        let call = self.call.as_deref().unwrap_or("Unary");
        let mut http = simple(&format!("http://{}/lateen.echo.v1.Echo/{call}", self.to))?;
        let length = u8::try_from(self.message.len()).ok().filter(|n| *n < 128).ok_or("the message is too long")?;
        let mut message = [&[0x0a, length], self.message.as_bytes()].concat();
        for (tag, number) in [(0x10, u16::from(self.count)), (0x20, u16::from(self.status)), (0x28, self.delay)] {
            if number > 0 {
                message.push(tag);
                // A varint of at most 14 bits.
                let seven = |bits: u16| u8::try_from(bits & 0x7f).map_err(|e| e.to_string());
                let (low, high) = (seven(number)?, seven(number >> 7)?);
                if high > 0 { message.extend([low | 0x80, high]) } else { message.push(low) }
            }
        }
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).map_err(|e| e.to_string())?];
        framed.extend(message);
        http.version = Version::Http2;
        http.method = "POST".to_owned();
        http.headers = vec![("content-type".to_owned(), "application/grpc".to_owned()), ("te".to_owned(), "trailers".to_owned())];
        http.headers.extend(pairs(&self.headers));
        http.body = Body::Grpc(framed);
        http.patience = self.patience.unwrap_or(http.patience);
        Ok(http)
    }
}

impl SendStep {
    fn op(&self) -> Result<Bytes, String> {
        let mut parts: Vec<Vec<u8>> = self.parts.iter().map(|part| part.clone().into_bytes()).collect();
        if let Some(first) = parts.first_mut() {
            first.extend(std::iter::repeat_n(b'x', self.pad));
        }
        if let Some(digits) = &self.hex {
            let pairs = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair));
            let bytes: Result<Vec<u8>, _> = pairs.map(|pair| u8::from_str_radix(&pair, 16)).collect();
            parts.insert(0, bytes.map_err(|e| format!("{digits}: {e}"))?);
        }
        let tls = self.tls.as_ref().map(|tls| Tls { alpn: tls.alpn.clone().unwrap_or_default(), ..tls.op("", "") });
        Ok(Bytes { address: self.to.clone(), tls, parts, finish: self.finish, reset: self.reset, quiet: self.quiet })
    }
}

/// The scenarios of a directory whose names contain one of the words, or all, by name.
pub(crate) fn load(directory: &Path, words: &[&str]) -> Result<Vec<Scenario>, String> {
    let mut paths: Vec<_> = read_dir(directory)?;
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if words.is_empty() || words.iter().any(|word| name.contains(word) || word.starts_with(&name)) {
            scenarios.extend(read(&path).map_err(|e| format!("{}: {e}", path.display()))?);
        }
    }
    scenarios.retain(|s| words.is_empty() || words.iter().any(|word| s.name.contains(word)));
    Ok(scenarios)
}

fn read_dir(directory: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// A scenario, and its variants.
fn read(directory: &Path) -> Result<Vec<Scenario>, String> {
    let name = directory.file_name().and_then(|n| n.to_str()).ok_or("no name")?.to_owned();
    let mut files = read_dir(directory)?;
    files.sort();
    let (mut manifests, mut script, mut later) = (String::new(), None, BTreeMap::new());
    for file in files {
        if file.is_dir() {
            later = read_later(&file)?;
            continue;
        }
        let text = fs::read_to_string(&file).map_err(|e| e.to_string())?;
        if file.file_name().is_some_and(|n| n == "client.yaml") {
            let documents = yaml::documents(&text)?;
            let [document] = documents.as_slice() else { return Err("client.yaml is not one document".to_owned()) };
            script = Some(Script::deserialize(document).map_err(|e| format!("client.yaml: {e}"))?);
        } else {
            manifests.push_str(&text);
            manifests.push_str("\n---\n");
        }
    }
    let script = script.ok_or("no client.yaml")?;
    let manifests = credentials::fill(&manifests)?;
    let scenario = Scenario { name, manifests, later, script };
    let mut scenarios = if scenario.script.places { places::variants(&scenario)? } else { Vec::new() };
    scenarios.insert(0, scenario);
    scenarios.iter().try_for_each(Scenario::check)?;
    Ok(scenarios)
}

/// Manifests that come while a scenario runs, by the names of their files.
fn read_later(directory: &Path) -> Result<BTreeMap<String, String>, String> {
    let named = |path: std::path::PathBuf| {
        let name = path.file_stem().and_then(|n| n.to_str()).ok_or("no name")?.to_owned();
        Ok((name, credentials::fill(&fs::read_to_string(&path).map_err(|e| e.to_string())?)?))
    };
    read_dir(directory)?.into_iter().map(named).collect()
}

impl Scenario {
    /// All manifests that stand once `name` has come.
    pub(crate) fn with_later(&self, name: &str) -> Result<String, String> {
        let later = self.later.get(name).ok_or_else(|| format!("there is no later/{name}.yaml"))?;
        Ok(format!("{}\n---\n{later}", self.manifests))
    }

    /// Refuses what would make the run worth less than it looks.
    fn check(&self) -> Result<(), String> {
        let mut titles = BTreeSet::new();
        for step in &self.script.steps {
            let title = step.title();
            step.op().map_err(|e| format!("{title}: {e}"))?;
            if step.keys() > 0 && step.parallel > 1 {
                return Err(format!("{title}: keys belong to requests by their order, so that none can be parallel"));
            }
            step.apply.iter().try_for_each(|name| self.with_later(name).map(|_| ()))?;
            if (step.remember.is_some() || step.against.is_some() || step.owners) && step.keys() == 0 {
                return Err(format!("{title}: there are no keys"));
            }
            if !titles.insert(title.clone()) {
                return Err(format!("two steps are called {title:?}"));
            }
        }
        if self.script.together && !self.script.steps.iter().all(|s| s.is_bytes() && s.prepare.is_empty() && !s.tries) {
            return Err("only steps that send bytes, and ask nothing of servers, run together".to_owned());
        }
        // Addresses are known when pods run.
        let all = self.later.values().fold(self.manifests.clone(), |all, later| format!("{all}\n---\n{later}"));
        let manifests: String = all
            .split("%ip:")
            .enumerate()
            .map(|(at, part)| match part.split_once('%') {
                Some((_, rest)) if at > 0 => format!("10.0.0.1{rest}"),
                _ => part.to_owned(),
            })
            .collect();
        for document in lateen_model::manifest::read(&manifests, &self.name) {
            document.map_err(|rejection| rejection.to_string())?;
        }
        Ok(())
    }
}
