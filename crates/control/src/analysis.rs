//! What is strange between resources that are each in order: looked for after every change of manifests, logged once, and shown
//! on a debug page.

use arc_swap::ArcSwap;
use lateen_model::analysis::{Context, analyze};
use lateen_model::manifest::Finding;
use lateen_model::resource::Resource;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Quiet time before the resources are looked at: nobody waits for it, and edits come in bursts.
const QUIET: Duration = Duration::from_millis(500);

/// What was found last.
pub type Findings = Arc<ArcSwap<Vec<Finding>>>;

/// All resources that are in force at a moment, and what holds for the mesh as a whole.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The resources.
    pub resources: Vec<Resource>,
    /// What holds for all of them.
    pub context: Context,
}

/// Looks at what comes, the latest only, for as long as somebody sends. Work grows with the number of resources, so that it is done
/// beside what proxies wait for.
pub async fn run(mut subjects: watch::Receiver<Arc<Subject>>, findings: Findings) {
    while subjects.changed().await.is_ok() {
        tokio::time::sleep(QUIET).await;
        let subject = Arc::clone(&subjects.borrow_and_update());
        let looked = tokio::task::spawn_blocking(move || analyze(subject.resources.iter(), &subject.context));
        let Ok(found) = looked.await else { continue };
        let known = findings.load_full();
        for new in fresh(&known, &found) {
            tracing::warn!("{new}");
        }
        findings.store(Arc::new(found));
    }
}

/// Those that were not there before. Where they are written does not count: lines move with every edit above them.
fn fresh<'a>(known: &[Finding], found: &'a [Finding]) -> impl Iterator<Item = &'a Finding> {
    let same = |a: &Finding, b: &Finding| a.origin.file == b.origin.file && a.path == b.path && a.text == b.text;
    found.iter().filter(move |new| !known.iter().any(|old| same(old, new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::manifest;

    fn subject(text: &str) -> Arc<Subject> {
        let resources = manifest::read(text, "t.yaml").into_iter().map(|d| d.unwrap().resource).collect();
        Arc::new(Subject { resources, ..Subject::default() })
    }

    const LOST: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: lost, namespace: a}\nspec: {hosts: [nowhere], http: [{route: [{destination: {host: nowhere}}]}]}\n";

    #[tokio::test(start_paused = true)]
    async fn what_is_found_follows_the_resources() {
        let findings = Findings::default();
        let (sender, receiver) = watch::channel(Arc::default());
        let task = tokio::spawn(run(receiver, Arc::clone(&findings)));
        let until = async |empty: bool| {
            while findings.load().is_empty() != empty {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        sender.send_replace(subject(LOST));
        until(false).await;
        assert!(findings.load()[0].to_string().starts_with("t.yaml:"), "{:?}", findings.load());
        sender.send_replace(subject(""));
        until(true).await;
        drop(sender);
        task.await.unwrap();
    }

    #[test]
    fn what_only_moved_is_not_told_again() {
        let found = |text: &str| {
            let subject = subject(text);
            analyze(subject.resources.iter(), &subject.context)
        };
        let (before, after) = (found(LOST), found(&format!("# A line more.\n{LOST}")));
        assert_ne!(before, after);
        assert_eq!(fresh(&before, &after).count(), 0);
        assert_eq!(fresh(&[], &after).count(), after.len());
    }
}
