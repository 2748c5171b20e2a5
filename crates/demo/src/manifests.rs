//! The manifests of `demo/`, as part of this program.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../demo/", $name)))),*]
    };
}

const FILES: [(&str, &str); 10] = files![
    "batch.yaml",
    "collector.yaml",
    "frontend.yaml",
    "mesh.yaml",
    "namespaces.yaml",
    "order-service.yaml",
    "payment-service.yaml",
    "resilience.yaml",
    "scope.yaml",
    "security.yaml",
];
/// The file with the canary, which the tour edits.
const TRAFFIC: (&str, &str) = ("traffic.yaml", include_str!("../../../demo/traffic.yaml"));
/// The file with the replicas of order-service, which the tour edits.
pub(crate) const ORDER_SERVICE: &str = "order-service.yaml";
/// The name of [`TRAFFIC`].
pub(crate) const TRAFFIC_FILE: &str = TRAFFIC.0;

/// The manifests in a directory of their own, which goes with this value.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: TempDir,
}

impl Manifests {
    /// Writes them.
    pub(crate) fn write() -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("lateen-demo-").tempdir();
        let dir =
            dir.map_err(|e| format!("cannot make a directory for the manifests in {}: {e}", std::env::temp_dir().display()))?;
        let manifests = Self { dir };
        fs::create_dir(manifests.path()).map_err(|e| format!("{}: {e}", manifests.path().display()))?;
        for (name, text) in FILES.iter().chain([&TRAFFIC]) {
            manifests.put(name, text)?;
        }
        Ok(manifests)
    }

    /// The directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Where logs go that nobody wants to keep.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// Replaces text in a file, as an editor does: all at once. What is replaced has to be there.
    pub(crate) fn edit(&self, name: &str, changes: &[(&str, &str)]) -> Result<(), String> {
        let path = self.path().join(name);
        let mut text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (from, to) in changes {
            if !text.contains(from) {
                return Err(format!("{} was edited meanwhile: {from:?} is not in it", path.display()));
            }
            text = text.replacen(from, to, 1);
        }
        self.put(name, &text)
    }

    fn put(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.path().join(name);
        let written = fs::write(path.with_extension("new"), text).and_then(|()| fs::rename(path.with_extension("new"), &path));
        written.map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// Removes what [`Manifests`] left because its process was killed: the directory above the manifests.
pub(crate) fn remove_above(manifests: &Path) {
    if let Some(above) = manifests.parent() {
        let _ = fs::remove_dir_all(above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_of_the_directory_is_part_of_the_program() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo");
        let mut there: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with(".yaml"))
            .collect();
        there.sort();
        let mut embedded: Vec<&str> = FILES.iter().chain([&TRAFFIC]).map(|(name, _)| *name).collect();
        embedded.sort_unstable();
        assert_eq!(there, embedded);
    }

    #[test]
    fn an_edit_replaces_what_is_there_and_nothing_else() {
        let manifests = Manifests::write().unwrap();
        manifests.edit(TRAFFIC_FILE, &[("weight: 95", "weight: 50"), ("weight: 5\n", "weight: 50\n")]).unwrap();
        let text = fs::read_to_string(manifests.path().join(TRAFFIC_FILE)).unwrap();
        assert_eq!(text.matches("weight: 50\n").count(), 2);
        assert!(manifests.edit(TRAFFIC_FILE, &[("weight: 95", "")]).unwrap_err().contains("weight: 95"));
    }
}
