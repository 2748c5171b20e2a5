//! The run: both meshes at once, scenario by scenario, then the comparison.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lateen_testkit::envoy::EnvoyBinary;
use lateen_testkit::lab::PodStatus;
use serde_json::json;

use crate::compare::{Difference, List, counted, differences};
use crate::counters::Watch;
use crate::fields;
use crate::logs::Logs;
use crate::mesh::{Engine, Mesh};
use crate::observe::{Happened, Memory, Observation, observe};
use crate::op::{Answer, Op};
use crate::places;
use crate::script::{self, Scenario, Step};
use crate::table::Table;
use crate::yaml;

/// Where the suite's files are.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle")
}

/// Runs the scenarios whose names contain one of the words, or all.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let scenarios = script::load(&directory().join("scenarios"), words)?;
    if scenarios.is_empty() {
        // Another test's name was asked for.
        return Ok(());
    }
    let list = List::load(&directory().join("differences.yaml"))?;
    let all = fields::all();
    let covered = covered(&scenarios, &all)?;
    let envoy = EnvoyBinary::locate().map_err(|e| e.to_string())?;
    let start = Instant::now();
    let (lateen, envoy) = std::thread::scope(|scope| {
        let other = scope.spawn(|| one_engine(&Engine::Envoy(envoy.path().to_owned()), &scenarios));
        (one_engine(&Engine::Lateen, &scenarios), other.join())
    });
    let (lateen, envoy) = (lateen?, envoy.map_err(|_| "the run on Envoy panicked")??);
    println!("{} scenarios on both engines in {:.1} s", scenarios.len(), start.elapsed().as_secs_f32());
    let mut table = Table::new(&all);
    let (mut unmeant, mut accounts) = (Vec::new(), Vec::new());
    for (scenario, (ours, theirs)) in scenarios.iter().zip(lateen.iter().zip(&envoy)) {
        for (index, step) in scenario.script.steps.iter().enumerate() {
            let sorted = sort(&list, differences(&scenario.name, step, &ours.steps[index], &theirs.steps[index]));
            table.note(&covered[&(scenario.name.clone(), index)], &scenario.name, &sorted);
            unmeant.extend(sorted.other);
        }
        let counted = counted(&scenario.name, &scenario.script, &ours.counted, &theirs.counted);
        unmeant.extend(sort(&list, counted).other);
        accounts.extend(ours.complaints.iter().map(|complaint| format!("{}: {complaint}", scenario.name)));
    }
    list.faults().for_each(|fault| println!("known fault: {fault}"));
    let mut complaints: Vec<String> = unmeant.iter().map(ToString::to_string).chain(accounts).collect();
    if words.is_empty() {
        complaints.extend(list.unused().map(|meant| format!("differences.yaml: nothing differs like this any more: {meant}")));
        let refused = fs::read_to_string(directory().join("refused.yaml")).map_err(|e| e.to_string())?;
        complaints.extend(table.refuse(&refused));
        for text in places::elsewhere(&refused)? {
            complaints.extend(table.refuse(&text));
        }
        complaints.extend(check_page(&table.page()).err());
    }
    if complaints.is_empty() { Ok(()) } else { Err(format!("{}\n\n{} complaints", complaints.join("\n"), complaints.len())) }
}

/// The differences of a step.
#[derive(Default)]
pub(crate) struct Sorted {
    /// Reasons of those that are meant.
    pub(crate) meant: Vec<String>,
    /// Faults that are known.
    pub(crate) faults: Vec<String>,
    pub(crate) other: Vec<Difference>,
}

fn sort(list: &List, found: Vec<Difference>) -> Sorted {
    let mut sorted = Sorted::default();
    for difference in found {
        match list.meant(&difference) {
            // What concerns every scenario says nothing about a field.
            Some(entry) if entry.is_general() => {}
            Some(entry) if entry.fault => sorted.faults.push(entry.reason.clone()),
            Some(entry) => sorted.meant.push(entry.reason.clone()),
            None => sorted.other.push(difference),
        }
    }
    sorted
}

/// The fields that each step covers, which its manifests must set.
fn covered(scenarios: &[Scenario], all: &[String]) -> Result<BTreeMap<(String, usize), Vec<String>>, String> {
    let mut covered = BTreeMap::new();
    for scenario in scenarios {
        let mut documents = yaml::documents(&scenario.manifests)?;
        for later in scenario.later.values() {
            documents.extend(yaml::documents(later)?);
        }
        let set = fields::set_in(&documents, all);
        for (index, step) in scenario.script.steps.iter().enumerate() {
            let mut fields = Vec::new();
            for pattern in &step.covers {
                let found: Vec<String> = set.iter().filter(|field| covers(pattern, field)).cloned().collect();
                if found.is_empty() {
                    return Err(format!("{} / {}: no manifest sets {pattern}; set are: {set:#?}", scenario.name, step.title()));
                }
                fields.extend(found);
            }
            covered.insert((scenario.name.clone(), index), fields);
        }
    }
    Ok(covered)
}

fn covers(pattern: &str, field: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => field.starts_with(prefix),
        None => pattern == field,
    }
}

/// The binary under test: this build's, unless `LATEEN_BINARY` names another.
fn binary() -> PathBuf {
    std::env::var_os("LATEEN_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_lateen").into(), PathBuf::from)
}

/// What a scenario gave on one engine.
struct Seen {
    steps: Vec<Observation>,
    /// What the proxies have counted.
    counted: Observation,
    /// What metrics say otherwise than access logs.
    complaints: Vec<String>,
}

type Observations = Vec<Seen>;

fn one_engine(engine: &Engine, scenarios: &[Scenario]) -> Result<Observations, String> {
    let base = fs::read_to_string(directory().join("base.yaml")).map_err(|e| e.to_string())?;
    let mut mesh = Mesh::start(engine.clone(), &binary(), &base)?;
    let mut happened = Vec::new();
    for scenario in scenarios {
        let start = Instant::now();
        mesh.apply(&scenario.manifests).map_err(|e| format!("{}: {e}", scenario.name))?;
        let ready = start.elapsed();
        let mut watch = Watch::begin(&mut mesh)?;
        let mut steps = Vec::new();
        if scenario.script.together {
            steps = carry_out_together(&mut mesh, &scenario.script.steps).map_err(|e| format!("{}: {e}", scenario.name))?;
        } else {
            for step in &scenario.script.steps {
                if let Some(name) = &step.apply {
                    watch.note(&mut mesh)?;
                    let applied = scenario.with_later(name).and_then(|manifests| mesh.apply(&manifests));
                    applied.map_err(|e| format!("{} / {}: {e}", scenario.name, step.title()))?;
                    watch.go_on(&mut mesh)?;
                }
                steps.push(carry_out(&mut mesh, step).map_err(|e| format!("{} / {}: {e}", scenario.name, step.title()))?);
            }
        }
        watch.note(&mut mesh)?;
        let accounts = (watch.end(&scenario.script), mesh.check_accounts()?);
        happened.push((steps, mesh.pods.clone(), accounts));
        let (ready, all) = (ready.as_secs_f32(), start.elapsed().as_secs_f32());
        println!(
            "{:6} in force after {ready:.1} s, done after {all:.1} s: {} ({})",
            engine.name(),
            scenario.name,
            scenario.script.about
        );
    }
    let mut logs = Logs::new(mesh.access_logs()?);
    mesh.stop()?;
    let observe_all = |logs: &mut Logs, scenario: &Scenario, (steps, pods, accounts): (Vec<Happened>, Vec<PodStatus>, _)| {
        let pairs = scenario.script.steps.iter().zip(&steps);
        let mut memory = Memory::new();
        let show = |step: &Step, (observation, measured): (Observation, Vec<String>)| {
            for line in measured {
                println!("{:6} {} / {}: {line}", engine.name(), scenario.name, step.title());
            }
            observation
        };
        let steps = pairs.map(|(step, happened)| show(step, observe(step, happened, logs, &pods, &mut memory))).collect();
        let (counted, complaints) = accounts;
        Seen { steps, counted, complaints }
    };
    let observations: Observations =
        scenarios.iter().zip(happened).map(|(scenario, happened)| observe_all(&mut logs, scenario, happened)).collect();
    keep_observations(engine, scenarios, &observations)?;
    Ok(observations)
}

fn carry_out(mesh: &mut Mesh, step: &Step) -> Result<Happened, String> {
    let pod = mesh.named(&step.from).into_iter().next().ok_or_else(|| format!("there is no pod {}", step.from))?;
    let mut op = step.op()?;
    address_pods(mesh, &mut op);
    resolve(mesh, &pod, &op)?;
    mesh.order(&step.prepare)?;
    let before = if step.tries { Some(mesh.counts()?) } else { None };
    let exchanges = mesh.exchanges(&pod, &op)?;
    let tries = match before {
        None => None,
        Some(before) => {
            let after = mesh.counts()?;
            let grown = after.into_iter().map(|(pod, count)| (pod.clone(), count - before.get(&pod).unwrap_or(&0)));
            Some(grown.filter(|(_, count)| *count > 0).collect())
        }
    };
    mesh.reset(&step.prepare)?;
    Ok(Happened { pod, exchanges, tries })
}

/// All steps at once: each sends bytes from the pod of the first.
fn carry_out_together(mesh: &mut Mesh, steps: &[Step]) -> Result<Vec<Happened>, String> {
    let Some(first) = steps.first() else { return Ok(Vec::new()) };
    let pod = mesh.named(&first.from).into_iter().next().ok_or_else(|| format!("there is no pod {}", first.from))?;
    let mut all = Vec::new();
    for step in steps {
        if let Op::Bytes(bytes) = step.op()? {
            all.extend(bytes);
        }
    }
    let mut op = Op::Bytes(all);
    address_pods(mesh, &mut op);
    let exchanges = mesh.exchanges(&pod, &op)?;
    Ok(exchanges.into_iter().map(|exchange| Happened { pod: pod.clone(), exchanges: vec![exchange], tries: None }).collect())
}

/// `%POD%` in an address or a head is that pod's address.
fn address_pods(mesh: &Mesh, op: &mut Op) {
    let fill = |text: &mut String| {
        for pod in &mesh.pods {
            for name in [&pod.name, &crate::mesh::base_name(pod)] {
                *text = text.replace(&format!("%{name}%"), &pod.ip);
            }
        }
    };
    match op {
        Op::Http(http) => {
            fill(&mut http.address);
            fill(&mut http.target);
            if let Some(authority) = &mut http.authority {
                fill(authority);
            }
        }
        Op::Bytes(all) => all.iter_mut().for_each(|bytes| fill(&mut bytes.address)),
        Op::Resolve(_) | Op::KeepAlive(_) => {}
    }
}

/// Names may be as new as the scenario: the time until they are known is not the step's.
fn resolve(mesh: &mut Mesh, pod: &str, op: &Op) -> Result<(), String> {
    let address = match op {
        Op::Http(http) => &http.address,
        Op::Bytes(all) => match all.first() {
            Some(bytes) => &bytes.address,
            None => return Ok(()),
        },
        Op::Resolve(_) | Op::KeepAlive(_) => return Ok(()),
    };
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).to_owned();
    match mesh.ask(pod, &Op::Resolve(host))? {
        Answer::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

/// Leaves something for people to look at, in `target/tmp/oracle`.
pub(crate) fn keep(file: &str, text: &str) -> Result<(), String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle");
    let written = fs::create_dir_all(&directory).and_then(|()| fs::write(directory.join(file), text));
    written.map_err(|e| format!("{}: {e}", directory.display()))
}

fn keep_observations(engine: &Engine, scenarios: &[Scenario], observations: &Observations) -> Result<(), String> {
    let mut all = json!({});
    for (scenario, seen) in scenarios.iter().zip(observations) {
        for (step, observation) in scenario.script.steps.iter().zip(&seen.steps) {
            all[&scenario.name][step.title()] = json!(observation);
        }
        all[&scenario.name]["counters"] = json!(seen.counted);
    }
    keep(&format!("{}.json", engine.name()), &format!("{all:#}\n"))
}

/// Compares the page with the one in the repository, or writes that.
fn check_page(page: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    if std::env::var_os("LATEEN_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(|e| e.to_string())?;
        return fs::write(&path, page).map_err(|e| e.to_string());
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    // Which of the differences that are meant shows in a run can be chance; that there is another never is.
    let certain = |line: &str| match line.split_once("yes, but: ") {
        Some((row, reasons)) => {
            format!("{row}yes{}", &reasons[reasons.find("; refused in some uses").unwrap_or(reasons.len() - 2)..])
        }
        None => line.to_owned(),
    };
    let (written, page): (Vec<_>, Vec<_>) = (written.lines().map(certain).collect(), page.lines().map(certain).collect());
    if written == page {
        return Ok(());
    }
    let first = written.iter().zip(&page).find(|(a, b)| a != b);
    Err(format!("docs/compatibility.md is not what this run shows: run it with LATEEN_BLESS=1. First difference: {first:#?}"))
}
