//! `docker save` as it was until Docker 24: `manifest.json` and a tar per layer.

use serde::Deserialize;
use serde_json::Value;

use super::{Files, Found, FoundLayer, ImportError};
use crate::digest::Digest;
use crate::layer::Limits;
use crate::manifest::{self, ContentError};
use crate::reference::Reference;

/// One image. Where it has nothing, Docker writes `null`; an image that is not
/// the wanted one may say what it likes.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Item {
    config: Option<String>,
    repo_tags: Option<Vec<Option<String>>>,
    layers: Option<Vec<Option<String>>>,
}

/// The image of this name, or the only one. `None` where `manifest.json` is some
/// other file of that name: then this is a root file system.
pub(super) fn find(
    files: &Files,
    reference: &Reference,
    input: &str,
    limits: &Limits,
) -> Result<Option<Found>, ImportError> {
    let read = |path: &str, what| super::oci_layout::read_file(files, path, what, input, limits);
    let text = read("manifest.json", "manifest.json")?;
    let Some(items) = items(&text, files) else {
        return Ok(None);
    };
    let not_an_image = |problem: String| ImportError::NotAnImage {
        input: input.to_owned(),
        problem,
    };
    let content = |cause| ImportError::Content {
        input: input.to_owned(),
        cause,
    };
    let damaged = |cause: serde_json::Error| ContentError::Malformed {
        what: "manifest.json, which is damaged",
        problem: cause.into(),
    };
    let items = items.map_err(|cause| content(damaged(cause)))?;
    let item = choose(&items, reference, input)?;
    let paths = item.layers.as_deref().unwrap_or_default();
    if paths.len() > limits.layers_max {
        return Err(content(ContentError::TooLarge {
            what: "manifest",
            unit: "layers",
            found: paths.len() as u64,
            most: limits.layers_max as u64,
        }));
    }
    let nameless = |what| not_an_image(format!("its manifest.json has {what} without a path"));
    let some = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let config_path = some(&item.config).ok_or_else(|| nameless("a config"))?;
    let mut layers = Vec::new();
    for path in paths {
        layers.push(FoundLayer {
            path: some(path).ok_or_else(|| nameless("a layer"))?,
            descriptor: None,
        });
    }
    let config = read(&config_path, "config")?;
    if let Some(named) = digest_in(&config_path) {
        manifest::verify_digest("the config", &named, &config).map_err(content)?;
    }
    Ok(Some(Found {
        digest: Digest::of(&config),
        of_config: true,
        index: None,
        layers,
        config,
    }))
}

/// What a `manifest.json` lists. `None` where it is no list of images, and so a
/// file of a root file system; the error says what is wrong with one that is.
fn items(text: &[u8], files: &Files) -> Option<serde_json::Result<Vec<Item>>> {
    let values = match serde_json::from_slice(text) {
        Ok(Value::Array(values)) => values,
        Ok(_) => return None,
        Err(cause) => return files.is_image_archive_of_old().then_some(Err(cause)),
    };
    let is_image = |value: &Value| value.get("Config").or(value.get("Layers")).is_some();
    if !values.is_empty() && !values.iter().any(is_image) {
        return None;
    }
    let items = values
        .into_iter()
        .filter(is_image)
        .map(serde_json::from_value);
    Some(items.collect())
}

fn choose<'i>(
    items: &'i [Item],
    reference: &Reference,
    input: &str,
) -> Result<&'i Item, ImportError> {
    if let [item] = items {
        return Ok(item);
    }
    let is_wanted = |tag: &String| tag.parse::<Reference>().is_ok_and(|tag| tag == *reference);
    let tags = |item: &'i Item| item.repo_tags.iter().flatten().flatten();
    if let Some(item) = items.iter().find(|item| tags(item).any(is_wanted)) {
        return Ok(item);
    }
    let names: Vec<String> = items.iter().flat_map(tags).cloned().collect();
    if items.is_empty() {
        return Err(ImportError::NotAnImage {
            input: input.to_owned(),
            problem: "its manifest.json names no image".to_owned(),
        });
    }
    Err(ImportError::Ambiguous {
        input: input.to_owned(),
        wanted: reference.familiar(),
        names,
    })
}

/// The digest in `<hex>.json` or `blobs/sha256/<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("sha256:{}", name.trim_end_matches(".json"))
        .parse()
        .ok()
}
