//! The spans of a runner: one for a call, and inside of that one for each process.

use std::sync::Arc;
use std::time::SystemTime;

use chain::Link;

use super::local_links::LocalLink;
use crate::spans::{Kind, Notes, Span};
use crate::trace::Trace;
use crate::transport::{Ending, Following, Outcome};

/// The most characters of a program's name.
const NAME_CHARACTERS_MAX: usize = 64;

/// Begins the span of a call of this link. The trace is inside of it then.
pub(super) fn begin(trace: &mut Trace, called: &LocalLink) -> Span {
    let span = trace.begin(Kind::Consumer, || format!("run {}", program(&called.link)));
    span.note(|notes| {
        notes.set("consecution.call_id", trace.call_id.as_str().to_owned());
        notes.set("consecution.link_id", called.id.to_string());
    });
    span
}

/// The processes that a call was given, of which spans are made once they have ended.
pub(super) struct ProcessSpans(Option<Recorded>);

struct Recorded {
    call: Span,
    links: Vec<Arc<Link>>,
    following: Arc<[Following]>,
    /// The position of the first of these links in the call.
    first: usize,
    /// When they were given it, read once for all: so their spans overlap, as they did.
    began: SystemTime,
}

impl ProcessSpans {
    /// These processes are given the call; `first` says how many links of the call are before
    /// them.
    pub(super) fn begin(
        call: &Span,
        links: &[Arc<LocalLink>],
        (following, first): (&Arc<[Following]>, usize),
    ) -> ProcessSpans {
        ProcessSpans(call.is_recorded().then(|| Recorded {
            call: call.clone(),
            links: links.iter().map(|link| Arc::clone(&link.link)).collect(),
            following: Arc::clone(following),
            first,
            began: SystemTime::now(),
        }))
    }

    /// Process `at` has ended.
    pub(super) fn ended(&self, at: usize, outcome: &Outcome) {
        let Some(recorded) = &self.0 else { return };
        let Some(link) = recorded.links.get(at) else {
            return;
        };
        let behind = recorded.following.get(recorded.first + at);
        let accepts = |code: u8| match behind {
            Some(behind) => behind.accepted.contains(&code),
            // Only the caller knows which codes are good for the last link. Without that
            // knowledge a process has failed whose code is not 0, as OpenTelemetry has it.
            None => code == 0,
        };
        let time = (recorded.began, outcome.elapsed);
        recorded.call.add(
            || program(link),
            time,
            |notes| {
                note(notes, link, outcome, accepts);
            },
        );
    }
}

fn note(notes: &mut Notes, link: &Link, outcome: &Outcome, accepts: impl Fn(u8) -> bool) {
    notes.set("container.image.name", link.image.clone());
    match &outcome.ending {
        Ending::Exited(code) => {
            notes.set("process.exit.code", u64::from(*code));
            if !accepts(*code) {
                notes.fail(format!("exited with code {code}"));
            }
        }
        Ending::Signalled(signal) => {
            notes.set("consecution.signal", i64::from(*signal));
            notes.fail(format!("was ended by signal {signal}"));
        }
        Ending::Unread => notes.set("consecution.stopped", "unread"),
        Ending::Cut => notes.set("consecution.stopped", "cut"),
        Ending::DeadlinePassed => {
            notes.set("consecution.stopped", "deadline");
            notes.fail("was not done by its deadline");
        }
        Ending::Lost(reason) => notes.fail(format!("was lost: {reason}")),
        Ending::CannotStart(reason) => notes.fail(format!("cannot be started: {reason}")),
    }
    if let Some(limit) = outcome.limit {
        notes.set("consecution.limit", limit.name());
    }
    let usage = &outcome.usage;
    if let Some(cpu) = usage.cpu {
        notes.set("consecution.cpu_seconds", cpu.as_secs_f64());
    }
    for (name, bytes) in [
        ("consecution.memory_peak_bytes", usage.memory),
        ("consecution.received_bytes", usage.bytes_in),
        ("consecution.sent_bytes", usage.bytes_out),
    ] {
        if let Some(bytes) = bytes {
            notes.set(name, bytes);
        }
    }
}

/// The name of what a link runs: that of its command, or of its image if the image says what
/// runs. Each has no folders, registries and tags in it.
fn program(link: &Link) -> String {
    let name = match &link.command {
        Some(command) => command.rsplit('/').next(),
        None => {
            let name = link.image.rsplit('/').next();
            name.and_then(|name| name.split([':', '@']).next())
        }
    };
    let name = name.unwrap_or_default();
    name.chars().take(NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_after_its_program() {
        for (command, image, name) in [
            (Some("/usr/bin/convert"), "debian", "convert"),
            (Some("cat"), "busybox", "cat"),
            (None, "registry.example:5000/a/jq:1.7", "jq"),
            (None, "jq@sha256:00", "jq"),
        ] {
            let link = Link {
                image: image.to_owned(),
                command: command.map(str::to_owned),
                ..Link::default()
            };
            assert_eq!(program(&link), name);
        }
    }
}
