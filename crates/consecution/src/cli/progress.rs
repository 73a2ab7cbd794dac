//! Downloads, shown as they go: a bar for each layer on a terminal, nothing
//! elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;

use image::{Digest, NoProgress, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// How many characters of a digest tell layers apart, as Docker shows them.
const DIGEST_CHARS: usize = 12;

/// Bars on standard error if that is a terminal.
pub(crate) fn on_terminal() -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Arc::new(Bars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            by_layer: Mutex::default(),
        })
    } else {
        Arc::new(NoProgress)
    }
}

struct Bars {
    all: MultiProgress,
    by_layer: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Progress for Bars {
    fn layer(&self, layer: &Digest, total_bytes: u64) {
        let mut bars = self.by_layer.lock();
        // A pull that was called back begins again.
        if let Some(bar) = bars.get(layer) {
            bar.set_length(total_bytes);
            return;
        }
        // Refused only if the template is wrong, which the test below excludes.
        let style =
            ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self
            .all
            .add(ProgressBar::new(total_bytes).with_style(style));
        bar.set_prefix(layer.hex().chars().take(DIGEST_CHARS).collect::<String>());
        bars.insert(layer.clone(), bar);
    }

    fn advanced(&self, layer: &Digest, bytes: u64) {
        let bars = self.by_layer.lock();
        if let Some(bar) = bars.get(layer) {
            bar.set_position(bytes);
        }
    }

    fn done(&self, layer: &Digest) {
        let bars = self.by_layer.lock();
        if let Some(bar) = bars.get(layer) {
            bar.finish();
        }
    }
}

const TEMPLATE: &str = "{prefix} {bar:30} {binary_bytes:>11} of {binary_total_bytes:>11} {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
