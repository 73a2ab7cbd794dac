//! Texts of errors.
//!
//! The text of an error of this project is a fragment that reads well after "failed to". It
//! does not repeat the text of its [`source`](Error::source): to print each cause once, use
//! [`with_causes`].

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

/// The same error with "failed to" in front of its text.
#[derive(Debug)]
pub struct FailedTo<E>(pub E);

impl<E: fmt::Display> fmt::Display for FailedTo<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "failed to {}", self.0)
    }
}

impl<E: Error> Error for FailedTo<E> {
    /// The source of the inner error, whose own text is already shown.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Says what a user can do about an error in terms of the program that prints it, for example
/// by naming an option. The text reads well after the error and a semicolon.
pub type Remedy = fn(&(dyn Error + 'static)) -> Option<&'static str>;

static REMEDY: OnceLock<Remedy> = OnceLock::new();

/// From now on, [`with_causes`] asks `remedy` about each error and each of its causes. Only
/// the first call counts: it is for the program's `main`, since this library does not know
/// by which option a user can change something.
pub fn set_remedy(remedy: Remedy) {
    // It fails if it was called before: then the first remedy stays.
    let _ = REMEDY.set(remedy);
}

/// The texts of an error and of all its causes, and what can be done about them, on one line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = || std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<String> = causes().map(ToString::to_string).collect();
    let text = texts.join(": ");
    match REMEDY.get().and_then(|remedy| causes().find_map(remedy)) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}
