//! What to do about errors of the library, in terms of options: it does not know them.

use std::error::Error;

use image::{ContentError, ImportError, LayerProblem, PullError, StoreError};
use sandbox::{CgroupError, OpenError};

use crate::error::FailedTo;
use crate::runner::LoadError;

const IMAGE_MAX: &str = "raise the limit with --image-max if you trust it";
const HOME: &str = "--home names the folder";
const HOST_NETWORK: &str =
    "allow it with --allow-host-network, or CONSECUTION_ALLOW_HOST_NETWORK=true";
const DATA: &str = "name it with --data NAME=PATH";
const SECRET: &str = "name its file with --secret NAME=FILE";
const SCRATCH_MAX: &str =
    "allow more with --scratch-max, or let the link have less with Constraints: {Scratch: …}";
const UNENFORCED_LIMITS: &str = "or run it without, with --allow-unenforced-limits; \
     `consecution sandbox check` says what can be kept here";

/// A [`Remedy`](crate::error::Remedy) for one error, its causes left aside.
pub(super) fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<LoadError>() {
        return match error {
            LoadError::HostNetwork => Some(HOST_NETWORK),
            LoadError::NoData { .. } => Some(DATA),
            LoadError::NoSecret { .. } => Some(SECRET),
            LoadError::Scratch { .. } => Some(SCRATCH_MAX),
            LoadError::Open(OpenError::Cgroup(
                CgroupError::NoController { .. } | CgroupError::Swap,
            )) => Some(UNENFORCED_LIMITS),
            LoadError::Store(error) => of_store(error),
            _ => None,
        };
    }
    if let Some(LayerProblem::TooLarge { .. }) = error.downcast_ref() {
        return Some(IMAGE_MAX);
    }
    if let Some(ContentError::TooManyBytes { .. }) = error.downcast_ref() {
        return Some(IMAGE_MAX);
    }
    // Errors that are shown as their cause is are not among the causes themselves.
    if let Some(PullError::Store(error)) = error.downcast_ref() {
        return of_store(error);
    }
    if let Some(FailedTo(PullError::Store(error))) = error.downcast_ref() {
        return of_store(error);
    }
    if let Some(FailedTo(ImportError::Store(error))) = error.downcast_ref() {
        return of_store(error);
    }
    if let Some(FailedTo(error)) = error.downcast_ref::<FailedTo<StoreError>>() {
        return of_store(error);
    }
    error.downcast_ref::<StoreError>().and_then(of_store)
}

fn of_store(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Newer { .. } | StoreError::Denied { .. } => Some(HOME),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_names_the_option_wherever_the_error_is() {
        let denied = || StoreError::Denied {
            step: "open",
            path: "/store".into(),
        };
        let name = "key".to_owned();
        let errors: [(&str, Box<dyn Error>); 10] = [
            ("--allow-host-network", Box::new(LoadError::HostNetwork)),
            ("--data", Box::new(LoadError::NoData { name: name.clone() })),
            ("--secret", Box::new(LoadError::NoSecret { name })),
            (
                "--scratch-max",
                Box::new(LoadError::Scratch { wanted: 2, most: 1 }),
            ),
            (
                "--allow-unenforced-limits",
                Box::new(LoadError::Open(CgroupError::Swap.into())),
            ),
            ("--home", Box::new(LoadError::Store(denied()))),
            ("--home", Box::new(FailedTo(denied()))),
            ("--home", Box::new(PullError::Store(denied()))),
            ("--home", Box::new(FailedTo(PullError::Store(denied())))),
            (
                "--image-max",
                Box::new(LayerProblem::TooLarge {
                    most: 1,
                    entry: None,
                }),
            ),
        ];
        for (option, error) in errors {
            let remedy = remedy(&*error).unwrap();
            assert!(remedy.contains(option), "{error}: {remedy}");
        }
        assert_eq!(remedy(&LoadError::ZygoteGone), None);
    }
}
