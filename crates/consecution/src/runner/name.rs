//! The name of a runner.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::{is_allowed, unique};

/// The most bytes of a name.
const NAME_BYTES_MAX: usize = 128;

/// A runner's name: 1 to 128 visible ASCII characters without those that have a meaning in
/// keys and subjects: `/`, `.`, `*`, `>`. The default is the host's name with random digits.
/// Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerName(Arc<str>);

/// A text is not a runner's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use '{}' as a runner's name: it must be 1 to {NAME_BYTES_MAX} visible ASCII characters \
     without '/', '.', '*' and '>'",
    .text.escape_debug()
)]
pub struct RunnerNameError {
    /// The text.
    pub text: String,
}

impl RunnerName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunnerName {
    type Err = RunnerNameError;

    fn from_str(text: &str) -> Result<RunnerName, RunnerNameError> {
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_allowed) {
            Ok(RunnerName(text.into()))
        } else {
            Err(RunnerNameError {
                text: text.to_owned(),
            })
        }
    }
}

impl Default for RunnerName {
    fn default() -> RunnerName {
        RunnerName(unique("runner").into())
    }
}

impl fmt::Display for RunnerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_in_a_key_and_in_a_subject() {
        for name in ["a", "host-1_2:3", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(name.parse::<RunnerName>().unwrap().as_str(), name);
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "", "a b", "a/b", "a.b", "a*", ">", "a\tb", "a\n", "é", &long,
        ] {
            let error = name.parse::<RunnerName>().unwrap_err().to_string();
            assert!(error.starts_with("use '"), "{error}");
        }
    }

    #[test]
    fn a_default_name_is_allowed_and_nobody_else_has_it() {
        let (one, two) = (RunnerName::default(), RunnerName::default());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse(), Ok(one));
    }
}
