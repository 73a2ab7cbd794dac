//! The options of the bench.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::groups::Group;

/// Measures Consecution side by side with other programs.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Measure these groups only.
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<Group>,
    /// How many MiB to send through each pipe.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub(crate) mebibytes: u64,
    /// How many times to make each long measurement.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The folder for results.
    #[arg(long, value_name = "FOLDER", default_value = "bench/results")]
    pub(crate) results: PathBuf,
    /// The folder for images, which is kept from run to run.
    #[arg(long, value_name = "FOLDER", default_value = ".work/bench")]
    pub(crate) home: PathBuf,
    /// The program to measure [default: the one beside this one].
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

impl Options {
    /// The groups to measure, in order.
    pub(crate) fn groups(&self) -> Vec<Group> {
        if self.only.is_empty() {
            Group::value_variants().to_vec()
        } else {
            self.only.clone()
        }
    }
}
