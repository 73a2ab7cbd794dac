//! When a command has ended, its init gives the process that reads the command's output an
//! end-of-file, or wakes the runner (see `joint.rs`).
//!
//! This code runs in the zygote's memory, by the rules of `sys.rs`.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::cgroup;
use crate::joint::ExitCodes;
use crate::sys::{Errno, in_our_memory as call};
use crate::wire::{SUCCESSOR_DESCRIPTORS, StartSuccessor};

/// How init completes the input of its command's successor.
pub(crate) struct Completion {
    /// Descriptors in init's own table, or -1: the socket on which the writing end of the
    /// command's output is in flight, the alarm, and the file in which the kernel counts
    /// the processes that it has killed for lack of memory.
    descriptors: [AtomicI32; SUCCESSOR_DESCRIPTORS],
    accepted: [AtomicU8; ExitCodes::BYTES],
}

const IN_FLIGHT: usize = 0;
const ALARM: usize = 1;
const KILLS: usize = 2;

impl Completion {
    /// No descriptors: the command has no successor.
    pub(crate) fn new() -> Completion {
        Completion {
            descriptors: [const { AtomicI32::new(-1) }; SUCCESSOR_DESCRIPTORS],
            accepted: [const { AtomicU8::new(0) }; ExitCodes::BYTES],
        }
    }

    /// Takes the descriptors for the next command, if it has a successor.
    pub(crate) fn hand(
        &self,
        successor: Option<StartSuccessor>,
        mut descriptors: impl Iterator<Item = i32>,
    ) {
        let counts_kills = successor.is_some_and(|successor| successor.counts_kills);
        for (at, place) in self.descriptors.iter().enumerate() {
            let comes = successor.is_some() && (at != KILLS || counts_kills);
            let descriptor = if comes { descriptors.next() } else { None };
            place.store(descriptor.unwrap_or(-1), Ordering::Relaxed);
        }
        let accepted = successor.map(|successor| successor.accepted);
        let bits = accepted.unwrap_or_default().bits();
        for (place, bits) in self.accepted.iter().zip(bits) {
            place.store(bits, Ordering::Relaxed);
        }
    }

    /// Moves the descriptors down to numbers from `first` on. Each must have a number that
    /// is not below its new one. Returns the first number that is not used.
    pub(crate) fn keep_from(&self, first: u32) -> Result<u32, Errno> {
        let mut goal = first;
        for place in &self.descriptors {
            let descriptor = place.load(Ordering::Relaxed);
            if descriptor < 0 {
                continue;
            }
            if descriptor.cast_unsigned() != goal {
                call::duplicate_to(descriptor, goal.cast_signed())?;
                place.store(goal.cast_signed(), Ordering::Relaxed);
            }
            goal += 1;
        }
        Ok(goal)
    }

    /// Whether a command with this wait status has completed the input of its successor.
    pub(crate) fn is_earned(&self, status: i32) -> bool {
        self.get(IN_FLIGHT).is_some() && self.accepts(status) && !self.counts_a_kill()
    }

    /// Gives the successor the end of its input if `is_earned`; otherwise, if there is a
    /// successor, wakes the runner. If something fails here, the message stays in flight,
    /// and the runner handles it.
    pub(crate) fn settle(&self, is_earned: bool) {
        let (Some(socket), Some(alarm)) = (self.get(IN_FLIGHT), self.get(ALARM)) else {
            return;
        };
        if !is_earned || call::discard_message(socket).is_err() {
            let _ = call::raise(alarm);
        }
    }

    /// Closes all descriptors from `first` on, the successor's included.
    pub(crate) fn drop_from(&self, first: u32) -> Result<(), Errno> {
        if self.get(IN_FLIGHT).is_none() {
            return Ok(());
        }
        for place in &self.descriptors {
            place.store(-1, Ordering::Relaxed);
        }
        call::close_from(first)
    }

    fn get(&self, at: usize) -> Option<i32> {
        let descriptor = self.descriptors.get(at)?.load(Ordering::Relaxed);
        (descriptor >= 0).then_some(descriptor)
    }

    /// Whether this wait status is an exit with an accepted code.
    fn accepts(&self, status: i32) -> bool {
        let [signal, code, ..] = status.to_le_bytes();
        let mut bits = [0; ExitCodes::BYTES];
        for (bits, place) in bits.iter_mut().zip(&self.accepted) {
            *bits = place.load(Ordering::Relaxed);
        }
        signal == 0 && ExitCodes::from_bits(bits).contains(code)
    }

    /// Whether the kernel has, or may have, killed a part of the command for lack of memory.
    fn counts_a_kill(&self) -> bool {
        let Some(file) = self.get(KILLS) else {
            return false;
        };
        let mut counts = [0; cgroup::COUNTS_BYTES_MAX];
        let Ok(length) = call::read_beginning(file, &mut counts) else {
            return true;
        };
        counts.get(..length).is_none_or(cgroup::counts_a_kill)
    }
}
