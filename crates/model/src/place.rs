//! Where workloads are.

use crate::dataplane::Locality;
use crate::resource::StringMap;

/// The label of a region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The label of a zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label of a subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// A whole locality in one label, with dots in place of slashes, which labels cannot have.
const WHOLE: &str = "istio-locality";

/// `REGION/ZONE/SUBZONE`, of which the end may be missing.
pub fn of_text(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), sub_zone: next() }
}

/// Where a workload with these labels is: `istio-locality` comes before the labels of the parts.
pub fn of_labels(labels: &StringMap) -> Locality {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    match labels.get(WHOLE).filter(|whole| !whole.is_empty()) {
        Some(whole) if whole.contains('/') => of_text(whole),
        Some(whole) => of_text(&whole.replace('.', "/")),
        None => Locality { region: label(REGION), zone: label(ZONE), sub_zone: label(SUBZONE) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_places() {
        let parts: &[(&str, &str)] = &[(REGION, "eu"), (ZONE, "a"), (SUBZONE, "rack")];
        for (labels, expected) in [
            (parts, ["eu", "a", "rack"]),
            (&[(ZONE, "a")], ["", "a", ""]),
            (&[(WHOLE, "us.b.c"), (REGION, "eu")], ["us", "b", "c"]),
            (&[(WHOLE, "us/b.1/c")], ["us", "b.1", "c"]),
            (&[(WHOLE, ""), (REGION, "eu")], ["eu", "", ""]),
            (&[], ["", "", ""]),
        ] {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let Locality { region, zone, sub_zone } = of_labels(&labels);
            assert_eq!([region, zone, sub_zone], expected, "{labels:?}");
        }
    }
}
