//! The files of a pod: volumes from ConfigMaps, Secrets and `emptyDir`, and what every pod gets.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use lateen_model::resource::{Container, KeyToPath, PodSpec, Volume};

use crate::environment::Kind;
use crate::init::Mount;
use crate::resources::Resources;

/// Why a pod cannot have its files (yet).
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume}: {kind} {name} is not there")]
    Missing { volume: String, kind: &'static str, name: String },
    #[error("volume {volume}: {kind} {name} has no key `{key}`")]
    NoKey { volume: String, kind: &'static str, name: String, key: String },
    #[error("volume {0}: `{1}` is not a relative path inside the volume")]
    Path(String, String),
    #[error("volume {0} has no source that is supported: configMap, secret or emptyDir")]
    Unsupported(String),
    #[error("container {0} mounts volume {1}, which the pod does not have")]
    Unknown(String, String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { path, source }
}

/// Writes a file so that a reader sees the old content or the new, never a part.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, bytes)?;
    fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
    fs::rename(&temporary, path)
}

fn make_dirs(path: &Path) -> Result<(), VolumeError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io_at(path))
}

/// Writes the pod's volumes under `dir`, one directory each. Called again when resources change: files that come from a
/// ConfigMap or a Secret follow it.
pub(crate) fn write(spec: &PodSpec, namespace: &str, resources: &Resources, dir: &Path) -> Result<(), VolumeError> {
    for volume in &spec.volumes {
        let place = dir.join(&volume.name);
        if volume.empty_dir.is_some() {
            make_dirs(&place)?;
            // Any user of the pod may write, as in Kubernetes.
            fs::set_permissions(&place, Permissions::from_mode(0o777)).map_err(io_at(&place))?;
            continue;
        }
        let source = source(volume).ok_or_else(|| VolumeError::Unsupported(volume.name.clone()))?;
        make_dirs(&place)?;
        let files = source.files(volume, namespace, resources)?;
        let wanted: BTreeSet<PathBuf> = files.iter().map(|f| f.path.clone()).collect();
        for File { path, mode, bytes } in &files {
            let path = place.join(path);
            if let Some(parent) = path.parent() {
                make_dirs(parent)?;
            }
            write_atomically(&path, bytes, *mode).map_err(io_at(&path))?;
        }
        remove_others(&place, Path::new(""), &wanted)?;
    }
    Ok(())
}

/// Removes files of a volume that its source no longer has.
fn remove_others(root: &Path, below: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), VolumeError> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).map_err(io_at(&dir))?.flatten() {
        let relative = below.join(entry.file_name());
        if entry.path().is_dir() {
            remove_others(root, &relative, wanted)?;
        } else if !wanted.contains(&relative) {
            fs::remove_file(entry.path()).map_err(io_at(&entry.path()))?;
        }
    }
    Ok(())
}

struct File<'a> {
    path: PathBuf,
    mode: u32,
    bytes: &'a [u8],
}

struct Source<'a> {
    kind: Kind,
    name: &'a str,
    items: &'a [KeyToPath],
    mode: Option<i32>,
    optional: bool,
}

fn source(volume: &Volume) -> Option<Source<'_>> {
    let config_map = volume.config_map.as_ref().map(|v| Source {
        kind: Kind::ConfigMap,
        name: &v.name,
        items: &v.items,
        mode: v.default_mode,
        optional: v.optional,
    });
    config_map.or_else(|| {
        volume.secret.as_ref().map(|v| Source {
            kind: Kind::Secret,
            name: &v.secret_name,
            items: &v.items,
            mode: v.default_mode,
            optional: v.optional,
        })
    })
}

impl Source<'_> {
    fn files<'r>(&self, volume: &Volume, namespace: &str, resources: &'r Resources) -> Result<Vec<File<'r>>, VolumeError> {
        let mode_of = |own: Option<i32>| own.or(self.mode).and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644) & 0o777;
        let Some(entries) = self.kind.entries(resources, namespace, self.name) else {
            if self.optional {
                return Ok(Vec::new());
            }
            return Err(VolumeError::Missing { volume: volume.name.clone(), kind: self.kind.name(), name: self.name.to_owned() });
        };
        if self.items.is_empty() {
            return Ok(entries.into_iter().map(|(key, bytes)| File { path: key.into(), mode: mode_of(None), bytes }).collect());
        }
        let mut files = Vec::new();
        for item in self.items {
            let path = inside(&item.path).ok_or_else(|| VolumeError::Path(volume.name.clone(), item.path.clone()))?;
            match entries.iter().find(|(key, _)| *key == item.key) {
                Some((_, bytes)) => files.push(File { path, mode: mode_of(item.mode), bytes }),
                None if self.optional => {}
                None => {
                    return Err(VolumeError::NoKey {
                        volume: volume.name.clone(),
                        kind: self.kind.name(),
                        name: self.name.to_owned(),
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(files)
    }
}

/// A relative path that stays below where it starts.
fn inside(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    let fine = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    (fine && path.components().any(|c| matches!(c, Component::Normal(_)))).then_some(path)
}

/// What a container mounts, from volumes written under `dir`.
pub(crate) fn mounts(container: &Container, spec: &PodSpec, dir: &Path) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for mount in &container.volume_mounts {
        let volume = spec.volumes.iter().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| VolumeError::Unknown(container.name.clone(), mount.name.clone()))?;
        let mut source = dir.join(&volume.name);
        if !mount.sub_path.is_empty() {
            let sub = inside(&mount.sub_path).ok_or_else(|| VolumeError::Path(volume.name.clone(), mount.sub_path.clone()))?;
            source = source.join(sub);
            if volume.empty_dir.is_some() {
                make_dirs(&source)?;
            }
        }
        // Files that follow a ConfigMap or a Secret are not the container's to change.
        let read_only = mount.read_only || volume.empty_dir.is_none();
        mounts.push(Mount { source, target: PathBuf::from(&mount.mount_path), read_only });
    }
    // An outer path first, or it would cover the inner one.
    mounts.sort_by_key(|m| m.target.components().count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: "n"}
data: {one: "1", two: "2"}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: "n"}
stringData: {key: hush}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: "n"}
spec:
  containers:
  - name: app
    command: ["true"]
    volumeMounts:
    - {name: config, mountPath: /data/config}
    - {name: config, mountPath: /one.txt, subPath: one}
    - {name: work, mountPath: /data}
  volumes:
  - name: config
    configMap: {name: c}
  - name: secret
    secret: {secretName: s, defaultMode: 256, items: [{key: key, path: deep/word}]}
  - name: work
    emptyDir: {}
"#;

    #[test]
    fn files_follow_their_sources_and_are_never_seen_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let resources = Resources::from_text(TEXT);
        let spec = &resources.pods().next().unwrap().spec;
        write(spec, "n", &resources, dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("config/two")).unwrap(), "2");
        let word = dir.path().join("secret/deep/word");
        assert_eq!(fs::read_to_string(&word).unwrap(), "hush");
        assert_eq!(fs::metadata(&word).unwrap().permissions().mode() & 0o777, 0o400);
        fs::write(dir.path().join("work/kept"), "x").unwrap();
        let changed = Resources::from_text(&TEXT.replace("one: \"1\", two: \"2\"", "one: \"3\""));
        write(spec, "n", &changed, dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("config/one")).unwrap(), "3");
        assert!(!dir.path().join("config/two").exists());
        assert!(dir.path().join("work/kept").exists());
    }

    #[test]
    fn a_missing_source_is_named_and_outer_mounts_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let resources = Resources::from_text(TEXT);
        let spec = &resources.pods().next().unwrap().spec;
        let error = write(spec, "other", &resources, dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "volume config: ConfigMap c is not there");
        let mounts = mounts(&spec.containers[0], spec, dir.path()).unwrap();
        let targets: Vec<_> = mounts.iter().map(|m| (m.target.to_str().unwrap(), m.read_only)).collect();
        assert_eq!(targets, [("/one.txt", true), ("/data", false), ("/data/config", true)]);
    }

    #[test]
    fn paths_stay_inside_the_volume() {
        assert!(inside("a/b").is_some());
        for bad in ["", "/a", "../a", "a/../../b", "."] {
            assert!(inside(bad).is_none(), "{bad}");
        }
    }
}
