//! `docker save` as it was until Docker 24: `manifest.json` and a tar per layer.

use serde::Deserialize;

use super::{Files, Found, FoundLayer, ImportError};
use crate::digest::Digest;
use crate::layer::Limits;
use crate::manifest::{self, ContentError};
use crate::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
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
    let Ok(items) = serde_json::from_slice::<Vec<Item>>(&text) else {
        return Ok(None);
    };
    let item = choose(&items, reference, input)?;
    let content = |cause| ImportError::Content {
        input: input.to_owned(),
        cause,
    };
    if item.layers.len() > limits.layers_max {
        return Err(content(ContentError::TooLarge {
            what: "manifest",
            unit: "layers",
            found: item.layers.len() as u64,
            most: limits.layers_max as u64,
        }));
    }
    let config = read(&item.config, "config")?;
    if let Some(named) = digest_in(&item.config) {
        manifest::verify_digest("the config", &named, &config).map_err(content)?;
    }
    let layers = item.layers.iter().map(|path| FoundLayer {
        path: path.clone(),
        descriptor: None,
    });
    Ok(Some(Found {
        digest: Digest::of(&config),
        of_config: true,
        index: None,
        layers: layers.collect(),
        config,
    }))
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
    let tags = |item: &'i Item| item.repo_tags.iter().flatten();
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
