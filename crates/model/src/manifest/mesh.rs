//! Reads the mesh's configuration: a document of its own inside a ConfigMap.

use std::sync::Arc;

use super::de::{self, Located};
use super::plain::Scalar;
use super::tree::{self, Node, Position, Value};
use super::{Finding, Rejection, Source, join};
use crate::mesh_config::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, MeshConfig};
use crate::resource::{ConfigMap, FieldIssue, FieldPath, Issues, Warning};

/// Reads a mesh configuration, which is one document without `apiVersion` and `kind`.
pub(crate) fn read_mesh_config(text: &str, file: &str) -> Result<(MeshConfig, Vec<Finding>), Rejection> {
    let file: Arc<str> = file.into();
    let source = Source { file: &file, text, lines_before: 0 };
    let start = Position { line: 1, column: 1 };
    let (config, node, warnings) = read(text).map_err(|problems| source.reject(start, None, problems))?;
    Ok((config, source.warnings(&node, &FieldPath::root(), warnings)))
}

fn read(text: &str) -> Result<(MeshConfig, Node, Vec<Warning>), Vec<Located>> {
    let broken = |at, text| vec![(at, FieldIssue { path: FieldPath::root(), text })];
    let node = tree::parse(text).map_err(|(error, _)| broken(error.at, error.text))?;
    if matches!(node.value, Value::Scalar(Scalar::Null)) {
        return Ok((MeshConfig::default(), node, Vec::new()));
    }
    let (config, mut warnings) = de::from_node::<MeshConfig>(&node)?;
    let mut issues = Issues::default();
    config.validate(&mut issues);
    let (mut errors, more_warnings) = issues.finish();
    errors.extend(config.unsupported());
    warnings.extend(more_warnings);
    match errors.is_empty() {
        true => Ok((config, node, warnings)),
        false => Err(errors.into_iter().map(|issue| (node.locate(&issue.path), issue)).collect()),
    }
}

/// Checks the mesh's configuration inside its ConfigMap, so that a bad one is refused where it is written. `text` is that of the
/// ConfigMap's document and `node` its tree.
pub(super) fn check_embedded(text: &str, node: &Node, config_map: &ConfigMap) -> Vec<Located> {
    let metadata = &config_map.metadata;
    if (metadata.namespace.as_str(), metadata.name.as_str()) != (CONFIG_MAP_NAMESPACE, CONFIG_MAP_NAME) {
        return Vec::new();
    }
    let Some(mesh) = config_map.data.get(CONFIG_MAP_KEY) else { return Vec::new() };
    let base = FieldPath::root().key("data").key(CONFIG_MAP_KEY);
    let place = place_of_block(text, node, &base);
    let outside = |(at, issue): Located| {
        let at = match place {
            Some(start) => Position { line: start.line + at.line, column: start.column + at.column },
            None => node.locate(&base),
        };
        (at, FieldIssue { path: join(&base, &issue.path), text: issue.text })
    };
    read(mesh).err().unwrap_or_default().into_iter().map(outside).collect()
}

/// If the value at `path` is a literal block scalar (`|`): the line of its indicator and the width of its indentation, which are
/// the distance from a place inside to the place in the document.
fn place_of_block(text: &str, node: &Node, path: &FieldPath) -> Option<Position> {
    let line = node.locate(path).line;
    let mut lines = text.lines().skip(usize::try_from(line).ok()?.checked_sub(1)?);
    let header = lines.next()?.split(" #").next()?.trim_end();
    let indicator = header.rsplit([' ', '\t']).next()?;
    if !indicator.starts_with('|') {
        return None;
    }
    let first = lines.find(|line| !line.trim().is_empty())?;
    let indentation = u32::try_from(first.len() - first.trim_start_matches(' ').len()).ok()?;
    Some(Position { line, column: indentation })
}
