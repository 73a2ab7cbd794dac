//! Which standard streams were closed when the program was started.
//!
//! Rust's runtime opens `/dev/null` in their place before `main`, so that nothing
//! else gets their numbers. What is written there is lost without an error, and
//! nothing tells that `/dev/null` from one that was meant: Python and node open
//! theirs in the same way. Only what runs before the runtime can see it. It has
//! nothing to do with sandboxes, and stands here since it is unsafe.

use std::hint::black_box;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bit for each stream that was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Has the C library call [`look`] before it calls `main`.
#[used]
// SAFETY: what stands in this section is called once, in the only thread there is,
// when the C library is ready: `look` takes no arguments, does not unwind, and needs
// nothing of Rust's runtime, which is not.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for stream in 0..3 {
        // SAFETY: the call reads a flag of a number in the table of open files. It
        // takes no pointer, and fails where the number is of no file.
        let flags = unsafe { libc::fcntl(stream, libc::F_GETFD) };
        if flags < 0 {
            CLOSED.fetch_or(1 << stream, Ordering::Relaxed);
        }
    }
}

/// Whether standard input was closed when the program was started.
pub fn standard_input_was_closed() -> bool {
    was_closed(0)
}

/// Whether standard output was closed when the program was started.
pub fn standard_output_was_closed() -> bool {
    was_closed(1)
}

fn was_closed(stream: u8) -> bool {
    // So that the linker keeps it.
    black_box(&LOOK);
    CLOSED.load(Ordering::Relaxed) & (1 << stream) != 0
}
