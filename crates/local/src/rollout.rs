//! Which pods of a deployment to make and to stop next: a pure function of what is there and what is wanted.

use lateen_model::resource::{Deployment, DeploymentStrategyType, IntOrString};

/// A pod of the deployment, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) name: String,
    /// The hash of the template that it was made of.
    pub(crate) template: String,
    /// Ready, and for as long as `minReadySeconds` asks.
    pub(crate) available: bool,
    /// Being stopped.
    pub(crate) terminating: bool,
    /// Order of creation.
    pub(crate) serial: u64,
}

/// What the deployment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) template: String,
    pub(crate) replicas: usize,
    pub(crate) max_surge: usize,
    pub(crate) max_unavailable: usize,
    /// All old pods away before the first new one.
    pub(crate) recreate: bool,
    /// No new template is rolled out.
    pub(crate) paused: bool,
}

/// What to do now. More follows when this has had its effect.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) create: usize,
    pub(crate) stop: Vec<String>,
}

impl Target {
    pub(crate) fn of(deployment: &Deployment, template: String) -> Self {
        let replicas = usize::try_from(deployment.spec.replicas.unwrap_or(1)).unwrap_or_default();
        let rolling = deployment.spec.strategy.rolling_update.clone().unwrap_or_default();
        let max_surge = share(rolling.max_surge.as_ref(), replicas, true);
        let mut max_unavailable = share(rolling.max_unavailable.as_ref(), replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Percentages that both round to nothing would never get anywhere; Kubernetes resolves it the same way.
            max_unavailable = 1;
        }
        Self {
            template,
            replicas,
            max_surge,
            max_unavailable,
            recreate: deployment.spec.strategy.type_ == DeploymentStrategyType::Recreate,
            paused: deployment.spec.paused,
        }
    }
}

/// A count, or a percentage of `replicas`; 25% if absent.
fn share(value: Option<&IntOrString>, replicas: usize, round_up: bool) -> usize {
    let percent = |p: usize| {
        let product = replicas.saturating_mul(p);
        if round_up { product.div_ceil(100) } else { product / 100 }
    };
    match value {
        None => percent(25),
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or_default(),
        Some(IntOrString::String(s)) => s.strip_suffix('%').and_then(|p| p.parse().ok()).map_or(0, percent),
    }
}

/// The next step.
pub(crate) fn step(pods: &[View], target: &Target) -> Step {
    let alive: Vec<&View> = pods.iter().filter(|p| !p.terminating).collect();
    let (mut new, mut old): (Vec<&View>, Vec<&View>) = alive.iter().partition(|p| p.template == target.template);
    // What goes first: not available before available, then the youngest.
    let order = |list: &mut Vec<&View>| list.sort_by_key(|p| (p.available, std::cmp::Reverse(p.serial)));
    order(&mut new);
    order(&mut old);
    let names = |list: &[&View]| list.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    if target.paused && !old.is_empty() {
        let excess = alive.len().saturating_sub(target.replicas);
        return Step { create: 0, stop: names(&old[..excess.min(old.len())]) };
    }
    if target.recreate {
        let old_left = pods.iter().any(|p| p.template != target.template);
        if old_left {
            return Step { create: 0, stop: names(&old) };
        }
    }
    let surplus = new.len().saturating_sub(target.replicas);
    let mut stop = names(&new[..surplus]);
    let kept_new = new.len() - surplus;
    if old.is_empty() {
        return Step { create: target.replicas.saturating_sub(new.len()), stop };
    }
    let ceiling = target.replicas + target.max_surge;
    let create = target.replicas.saturating_sub(kept_new).min(ceiling.saturating_sub(alive.len() - surplus));
    let floor = target.replicas.saturating_sub(target.max_unavailable);
    let available = new[surplus..].iter().chain(&old).filter(|p| p.available).count();
    let mut removable = available.saturating_sub(floor);
    for pod in old {
        // An old pod that serves nobody goes at once: nothing gets worse.
        if !pod.available {
            stop.push(pod.name.clone());
        } else if removable > 0 {
            removable -= 1;
            stop.push(pod.name.clone());
        }
    }
    Step { create, stop }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, template: &str, available: bool) -> View {
        let serial = name.bytes().map(u64::from).sum();
        View { name: name.to_owned(), template: template.to_owned(), available, terminating: false, serial }
    }

    fn target(replicas: usize, max_surge: usize, max_unavailable: usize) -> Target {
        Target { template: "new".to_owned(), replicas, max_surge, max_unavailable, recreate: false, paused: false }
    }

    #[test]
    fn scaling_makes_what_is_missing_and_stops_the_unready_and_youngest_first() {
        assert_eq!(step(&[], &target(3, 1, 0)), Step { create: 3, stop: vec![] });
        let pods = [pod("a", "new", true), pod("b", "new", false), pod("c", "new", true)];
        assert_eq!(step(&pods, &target(1, 1, 0)).stop, ["b", "c"]);
        assert_eq!(step(&pods, &target(0, 1, 0)).stop, ["b", "c", "a"]);
        assert_eq!(step(&pods, &target(3, 1, 0)), Step::default());
    }

    #[test]
    fn a_rolling_update_never_falls_below_the_floor_nor_rises_above_the_ceiling() {
        for (replicas, surge, unavailable) in [(1, 1, 0), (2, 1, 0), (4, 1, 1), (4, 2, 0), (3, 0, 1), (5, 5, 5)] {
            let target = target(replicas, surge, unavailable);
            let mut pods: Vec<View> = (0..replicas).map(|i| pod(&format!("o{i}"), "old", true)).collect();
            let mut made = 0;
            for round in 0..100 {
                let next = step(&pods, &target);
                pods.retain(|p| !next.stop.contains(&p.name));
                for _ in 0..next.create {
                    pods.push(pod(&format!("n{made}"), "new", false));
                    made += 1;
                }
                assert!(pods.len() <= replicas + surge, "{target:?} round {round}");
                assert!(pods.iter().filter(|p| p.available).count() >= replicas - unavailable, "{target:?} round {round}");
                // One new pod becomes available each round.
                if let Some(p) = pods.iter_mut().find(|p| !p.available) {
                    p.available = true;
                }
            }
            assert!(pods.len() == replicas && pods.iter().all(|p| p.template == "new"), "{target:?}");
            assert_eq!(made, replicas);
        }
    }

    #[test]
    fn a_bad_template_does_not_take_the_old_pods_away() {
        let target = target(2, 1, 0);
        let mut pods = vec![pod("o1", "old", true), pod("o2", "old", true)];
        assert_eq!(step(&pods, &target), Step { create: 1, stop: vec![] });
        pods.push(pod("n1", "new", false));
        assert_eq!(step(&pods, &target), Step::default());
        // Back to the old template: the bad pod goes, the old ones stay.
        let back = Target { template: "old".to_owned(), ..target };
        assert_eq!(step(&pods, &back), Step { create: 0, stop: vec!["n1".to_owned()] });
    }

    #[test]
    fn recreate_waits_until_the_last_old_pod_is_gone() {
        let target = Target { recreate: true, ..target(2, 0, 0) };
        let mut pods = vec![pod("o1", "old", true), pod("o2", "old", true)];
        assert_eq!(step(&pods, &target).stop.len(), 2);
        pods.iter_mut().for_each(|p| p.terminating = true);
        assert_eq!(step(&pods, &target), Step::default());
        assert_eq!(step(&[], &target), Step { create: 2, stop: vec![] });
    }

    #[test]
    fn a_paused_deployment_scales_down_and_rolls_nothing_out() {
        let target = Target { paused: true, ..target(1, 1, 0) };
        let pods = [pod("o1", "old", true), pod("o2", "old", true)];
        assert_eq!(step(&pods, &target), Step { create: 0, stop: vec!["o2".to_owned()] });
    }

    #[test]
    fn bounds_are_counts_or_percentages_and_never_both_nothing() {
        let text = |s: &str| Some(IntOrString::String(s.to_owned()));
        assert_eq!(share(None, 10, true), 3);
        assert_eq!(share(None, 10, false), 2);
        assert_eq!(share(text("50%").as_ref(), 3, true), 2);
        assert_eq!(share(Some(&IntOrString::Int(4)), 3, true), 4);
        let mut d = Deployment::default();
        d.spec.strategy.rolling_update =
            Some(lateen_model::resource::RollingUpdate { max_surge: text("0%"), max_unavailable: text("0%") });
        assert_eq!(Target::of(&d, String::new()).max_unavailable, 1);
    }
}
