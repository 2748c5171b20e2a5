//! `exportTo`: which namespaces see an object.

use std::collections::BTreeSet;

use super::check;
use super::{Issues, shorten};

/// Which namespaces see an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExportTo {
    /// All (`*`).
    Public,
    /// None, not even its own (`~`).
    Nobody,
    /// These.
    Namespaces(BTreeSet<String>),
}

impl ExportTo {
    /// Reads a list that an object of `own_namespace` writes. `None` if it is empty: the mesh's default applies.
    ///
    /// `*` among others wins over them, then `~`; validation refuses such mixtures, defaults and annotations may have them.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>, own_namespace: &str) -> Option<Self> {
        let mut namespaces = BTreeSet::new();
        let mut nobody = false;
        for entry in entries.into_iter().map(str::trim) {
            match entry {
                "*" => return Some(Self::Public),
                "~" => nobody = true,
                "." => namespaces.extend([own_namespace.to_owned()]),
                "" => {}
                name => namespaces.extend([name.to_owned()]),
            }
        }
        match (nobody, namespaces.is_empty()) {
            (true, _) => Some(Self::Nobody),
            (false, true) => None,
            (false, false) => Some(Self::Namespaces(namespaces)),
        }
    }

    /// Reads a list, or else the mesh's default list, or else `*`.
    pub fn resolve(entries: &[String], default: &[String], own_namespace: &str) -> Self {
        let parse = |list: &[String]| Self::parse(list.iter().map(String::as_str), own_namespace);
        parse(entries).or_else(|| parse(default)).unwrap_or(Self::Public)
    }

    /// Whether `namespace` sees the object.
    pub fn is_visible_in(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Nobody => false,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }

    /// Whether `namespace` alone sees the object.
    pub fn is_private_to(&self, namespace: &str) -> bool {
        matches!(self, Self::Namespaces(namespaces) if namespaces.len() == 1 && namespaces.contains(namespace))
    }
}

/// Checks the `exportTo` of a ServiceEntry, which may also be `~`: nobody.
pub(super) fn validate_entry(entries: &[String], own_namespace: &str, issues: &mut Issues) {
    match entries {
        [only] if only == "~" => {}
        _ if entries.iter().any(|entry| entry == "~") => {
            issues.error_at("exportTo", "\"~\" means no namespace and must stand alone");
        }
        _ => validate(entries, own_namespace, issues),
    }
}

/// Checks the `exportTo` of a VirtualService or DestinationRule of `own_namespace`.
pub(super) fn validate(entries: &[String], own_namespace: &str, issues: &mut Issues) {
    let mut seen = BTreeSet::new();
    issues.each("exportTo", entries, |issues, entry| {
        match entry.as_str() {
            "*" if entries.len() > 1 => issues.error("\"*\" means all namespaces and must stand alone"),
            "*" | "." => {}
            "~" => issues.error("\"~\" (no namespace) is for ServiceEntry only; \".\" keeps the object to its own namespace"),
            name => check::report(issues, check::dns_label(name).map_err(|text| format!("{text}; or \".\" or \"*\""))),
        }
        let namespace = if entry == "." { own_namespace } else { entry };
        if !seen.insert(namespace) {
            issues.error(format!("the namespace {:?} is listed twice", shorten(namespace)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[&str]) -> Option<ExportTo> {
        ExportTo::parse(entries.iter().copied(), "own")
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["*"]), Some(ExportTo::Public));
        assert_eq!(parse(&["a", "*"]), Some(ExportTo::Public));
        assert_eq!(parse(&["~"]), Some(ExportTo::Nobody));
        let some = parse(&[".", "other"]).unwrap();
        assert!(some.is_visible_in("own") && some.is_visible_in("other") && !some.is_visible_in("third"));
        assert!(parse(&["."]).unwrap().is_private_to("own") && !some.is_private_to("own"));
        let list = |entries: &[&str]| -> Vec<String> { entries.iter().map(|&entry| entry.to_owned()).collect() };
        assert_eq!(ExportTo::resolve(&[], &list(&["."]), "own"), parse(&["own"]).unwrap());
        assert_eq!(ExportTo::resolve(&list(&["x"]), &list(&["."]), "own"), parse(&["x"]).unwrap());
        assert_eq!(ExportTo::resolve(&[], &[], "own"), ExportTo::Public);
    }

    #[test]
    fn contradictions_are_refused() {
        let errors = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
            let mut issues = Issues::default();
            validate(&entries, "own", &mut issues);
            issues.into_errors().len()
        };
        for good in [&[][..], &["*"], &["."], &[".", "other"]] {
            assert_eq!(errors(good), 0, "{good:?}");
        }
        for bad in [&["*", "other"][..], &["~"], &[".", "own"], &["a", "a"], &["A b"], &[""]] {
            assert_eq!(errors(bad), 1, "{bad:?}");
        }
    }
}
