//! `consecution image`: pulls, imports, lists and removes images in the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::app;
use crate::error::FailedTo;
use crate::runner::Images;
use anyhow::Context;
use clap::Subcommand;
use image::{Entry, Image, Input, Limits, Progress, Reference, Registries, Store};

use super::table::table;
use super::{Global, print, progress, stdio};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pulls an image from its registry, even if it is in the store already.
    Pull {
        /// The image: `busybox`, `registry.example.com/a/b:1@sha256:…`.
        name: String,
    },
    /// Imports an image from a file, a folder or standard input.
    ///
    /// Reads what `docker save` and `docker export` write, OCI archives, OCI layout
    /// folders, and root file systems as tar; plain or compressed with gzip or zstd.
    Import {
        /// Name to give the image here.
        name: String,
        /// File or folder to read, or `-` for standard input.
        file: PathBuf,
    },
    /// Lists the images in the store. Of an image's size, SHARED is in layers that other
    /// images of the list have, too; it is on the disk once.
    List,
    /// Removes images from the store.
    Remove {
        /// Names of the images to remove.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(crate) fn execute(global: &Global, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Pull { name } => {
            let name = reference(&name)?;
            let images = source(global, progress::on_terminal())?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let registries = (images.registries)().map_err(FailedTo)?;
            let pulling = images.store.pull(&name, &registries, &*images.progress);
            let image = runtime.block_on(pulling).map_err(FailedTo)?;
            print(&added(&image))?;
        }
        Command::Import { name, file } => {
            let name = reference(&name)?;
            let input = if file.as_os_str() == "-" {
                Input::Read(Box::new(File::from(stdio::standard_input()?)))
            } else {
                Input::Path(file)
            };
            let progress = progress::on_terminal();
            let image = store(global)?
                .import(&name, input, &*progress)
                .map_err(FailedTo)?;
            print(&added(&image))?;
        }
        Command::List => print(&list(&store(global)?.list().map_err(FailedTo)?))?,
        Command::Remove { names } => {
            let store = store(global)?;
            for name in names {
                store.remove(&reference(&name)?).map_err(FailedTo)?;
            }
        }
    }
    Ok(0)
}

/// The store and the registries that the options name.
pub(crate) fn source(global: &Global, progress: Arc<dyn Progress>) -> anyhow::Result<Images> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mirror in &global.mirror {
        let (registry, url) = mirror
            .split_once('=')
            .with_context(|| format!("failed to read mirror {mirror:?}: write REGISTRY=URL"))?;
        mirrors
            .entry(registry.to_owned())
            .or_default()
            .push(url.to_owned());
    }
    let plain_http = global.plain_http.clone();
    let registries = move || {
        let mut registries = Registries::from_environment()?;
        registries.mirrors.clone_from(&mirrors);
        registries.plain_http.extend(plain_http.iter().cloned());
        Ok(registries)
    };
    Ok(Images {
        store: store(global)?,
        registries: Arc::new(registries),
        progress,
    })
}

/// The folder for images and state.
pub(super) fn home(global: &Global) -> anyhow::Result<PathBuf> {
    global.home.clone().or_else(app::default_home).context(
        "failed to find a place for images: neither HOME nor XDG_DATA_HOME is set; set CONSECUTION_HOME",
    )
}

fn store(global: &Global) -> anyhow::Result<Store> {
    let home = home(global)?;
    let limits = Limits {
        image_bytes_max: global.image_max,
        ..Limits::default()
    };
    Ok(app::open_store_for(&home, global.ids()?, limits).map_err(FailedTo)?)
}

fn reference(name: &str) -> anyhow::Result<Reference> {
    Ok(name.parse::<Reference>().map_err(FailedTo)?)
}

fn added(image: &Image) -> String {
    format!("{}  {}\n", image.reference.familiar(), image.digest)
}

fn list(entries: &[Entry]) -> String {
    let rows = entries.iter().map(|entry| {
        let age = SystemTime::now()
            .duration_since(entry.created)
            .unwrap_or(Duration::ZERO);
        let age = match age.as_secs() {
            0 => "just now".to_owned(),
            _ => format!("{} ago", indicatif::HumanDuration(age)),
        };
        [
            entry.reference.familiar(),
            entry.digest.to_string(),
            indicatif::HumanBytes(entry.size).to_string(),
            indicatif::HumanBytes(entry.shared).to_string(),
            age,
        ]
    });
    table(
        ["NAME", "DIGEST", "SIZE", "SHARED", "CREATED"],
        rows.collect(),
    )
}
