//! The groups of measurements, one in each file.

use clap::ValueEnum;

use crate::place::Place;
use crate::report::Findings;

mod instructions;
mod latency;
mod once;
mod pipes;
mod scale;
mod start;

/// A group of measurements.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Group {
    /// One run of a small chain, from nothing, as from a shell.
    Once,
    /// A small chain, warm, over HTTP: alone, in a crowd, and at a given rate.
    Latency,
    /// One sealed process, beside a bare one, bwrap, runc and docker.
    Start,
    /// Bursts, more runners, many links, first calls, large images.
    Scale,
    /// Instructions of a call, which are the same on a noisy machine.
    Instructions,
    /// Large and endless bodies through chains, here and over the network.
    Pipes,
}

pub(crate) fn measure(group: Group, place: &Place) -> anyhow::Result<Findings> {
    match group {
        Group::Once => once::measure(place),
        Group::Latency => latency::measure(place),
        Group::Start => start::measure(place),
        Group::Scale => scale::measure(place),
        Group::Instructions => instructions::measure(place),
        Group::Pipes => pipes::measure(place),
    }
}
