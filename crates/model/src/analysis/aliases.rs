//! `ExternalName` services that lead in a circle.

use std::collections::BTreeMap;

use super::{Context, Step, finding, host_of, services};
use crate::manifest::Finding;
use crate::resource::{Resource, Service};

pub(super) fn findings<'a>(resources: impl Iterator<Item = &'a Resource>, context: &Context) -> Vec<Finding> {
    let target = |s: &Service| s.spec.external_name.as_ref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let aliases: BTreeMap<String, (&Service, String)> =
        services(resources).filter_map(|s| Some((host_of(s, context), (s, target(s)?)))).collect();
    let mut found = Vec::new();
    for (host, (service, _)) in &aliases {
        let mut way = vec![host.as_str()];
        let circle = loop {
            let Some((_, next)) = way.last().and_then(|last| aliases.get(*last)) else { break false };
            if next == host {
                break true;
            }
            if way.contains(&next.as_str()) {
                // A circle further on, which is told where it is.
                break false;
            }
            way.push(next);
        };
        if circle {
            let text = format!("leads back to itself ({}): it has no address", [&way[..], &[host]].concat().join(" → "));
            found.push(finding(&service.metadata, &[Step::Key("spec"), Step::Key("externalName")], text));
        }
    }
    found
}
