//! Arguments and environment of a link's command: those of the link and of its image and,
//! where the link uses parameters, the values of a request.
//!
//! A portal has checked the values. They are checked again here, because a runner believes
//! no portal, and a plain NATS client checks nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chain::{Filled, Link, ParameterError};
use image::ImageConfig;
use sandbox::{Strings, StringsError};

use super::local_links::LocalLink;
use super::pipeline::StartFailure;

/// The command of a link with these arguments: its own settings override those of its image,
/// as with `docker run`.
pub(super) fn command(link: &Link, arguments: &[String], image: &ImageConfig) -> Vec<String> {
    match &link.command {
        Some(command) => std::iter::once(command).chain(arguments).cloned().collect(),
        None if arguments.is_empty() => [&image.entrypoint[..], &image.command].concat(),
        None => [&image.entrypoint[..], arguments].concat(),
    }
}

/// The environment of a link with these variables, which override those of its image.
pub(super) fn environment(
    variables: &BTreeMap<String, String>,
    image: &ImageConfig,
) -> Vec<(String, String)> {
    let own = variables.iter();
    let own = own.map(|(name, value)| (name.clone(), value.clone()));
    let of_image = image.environment.iter();
    let of_image = of_image.filter(|(name, _)| !variables.contains_key(name));
    of_image.cloned().chain(own).collect()
}

/// Fills in the values of a request for the `links` of it that are served here, in chain
/// order. `is_all` says that there are no others. For a link without parameters it gives
/// `None`.
///
/// # Errors
/// A value is missing or does not match its pattern; or none of the links uses it, if they
/// are all.
pub(super) fn fill<'a>(
    links: impl Iterator<Item = &'a LocalLink> + Clone,
    is_all: bool,
    values: &BTreeMap<String, String>,
) -> Result<Vec<Option<Filled>>, ParameterError> {
    let links = || links.clone().map(|link| &link.link);
    let is_used = |name: &String| links().any(|link| link.parameters.contains_key(name));
    if is_all && let Some(name) = values.keys().find(|name| !is_used(name)) {
        let parameters = links().flat_map(|link| link.parameters.keys().cloned());
        let parameters: BTreeSet<_> = parameters.collect();
        return Err(ParameterError::Unknown {
            name: name.clone(),
            parameters: parameters.into_iter().collect(),
        });
    }
    let filled = links().map(|link| {
        let takes_values = !link.parameters.is_empty();
        takes_values.then(|| link.fill(values)).transpose()
    });
    filled.collect()
}

/// What the processes of these links are given instead of their links' own arguments and
/// environment.
///
/// # Errors
/// It is too long, together with the variables of the image; or it cannot be handed over.
/// With the position of the link.
pub(super) fn strings(
    links: &[Arc<LocalLink>],
    filled: impl IntoIterator<Item = Option<Filled>>,
) -> Result<Vec<Option<Strings>>, (usize, StartFailure)> {
    let strings = links.iter().zip(filled).enumerate();
    let strings = strings.map(|(at, (link, filled))| {
        let strings = filled.map(|filled| strings_of(link, &filled)).transpose();
        strings.map_err(|error| match error {
            StringsError::Io(error) => (at, StartFailure::Io(error)),
            error => (at, StartFailure::Strings(error)),
        })
    });
    strings.collect()
}

fn strings_of(link: &LocalLink, filled: &Filled) -> Result<Strings, StringsError> {
    let image = link.zygote.image();
    let command = command(&link.link, &filled.arguments, image);
    let environment = environment(&filled.environment, image);
    link.zygote.get().strings(&command, &environment)
}
