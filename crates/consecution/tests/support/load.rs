//! Load of many kinds on a portal. Each request has content of its own, and each
//! reply is held against what it must be, byte by byte.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use super::chain::{ChainFile, chain_with, link, shell};
use super::http::{Client, Reply, Served};

/// The deadlines of the chains.
const DEADLINE: Duration = Duration::from_secs(20);
const LATE_DEADLINE: Duration = Duration::from_millis(500);

/// How long after its deadline a call may be answered.
const OVERDUE_MAX: Duration = Duration::from_secs(1);

/// How long whoever calls rests between two calls, so that it is the calls that
/// are tested, and not a machine that has too much to do.
const REST: Duration = Duration::from_millis(20);

/// What is sent, and what must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A line.
    Small,
    /// 64 KiB.
    Medium,
    /// 3 MiB: too large to be kept for a second try.
    Large,
    /// A few pieces, one after the other.
    Streamed,
    /// A line, for a link that fails.
    Failing,
    /// A line, for a link that does not end in time.
    Late,
}

/// In which order they come.
const KINDS: [Kind; 16] = {
    use Kind::{Failing, Large, Late, Medium, Small, Streamed};
    [
        Small, Medium, Small, Failing, Small, Streamed, Small, Medium, Small, Late, Small, Small,
        Large, Small, Failing, Medium,
    ]
};

/// How a call ended, of the ways in which it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// As it must.
    Right,
    /// 503, with `Retry-After`.
    Refused,
    /// 502, since its runner was lost and it could not be made again.
    Lost,
    /// The same after the reply had begun: it is cut off, and right so far.
    CutOff,
}

/// How many calls of which kind have ended how.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ends: BTreeMap<(Kind, End), u64>,
    slowest: BTreeMap<Kind, Duration>,
}

impl Tally {
    /// How many calls have ended like that; of those kinds that `of` names.
    pub(crate) fn count(&self, end: impl Fn(End) -> bool, of: impl Fn(Kind) -> bool) -> u64 {
        let ends = self.ends.iter();
        ends.filter(|((kind, ended), _)| of(*kind) && end(*ended))
            .map(|(_, count)| count)
            .sum()
    }

    fn note(&mut self, kind: Kind, end: End, elapsed: Duration) {
        *self.ends.entry((kind, end)).or_default() += 1;
        let slowest = self.slowest.entry(kind).or_default();
        *slowest = elapsed.max(*slowest);
    }

    pub(crate) fn add(&mut self, other: Tally) {
        for (key, count) in other.ends {
            *self.ends.entry(key).or_default() += count;
        }
        for (kind, elapsed) in other.slowest {
            let slowest = self.slowest.entry(kind).or_default();
            *slowest = elapsed.max(*slowest);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, slowest) in &self.slowest {
            let kind_name = format!("{kind:?}");
            write!(formatter, "{kind_name:9} slowest {slowest:6.2?}")?;
            for ((_, end), count) in self.ends.iter().filter(|((of, _), _)| of == kind) {
                write!(formatter, "  {end:?} {count}")?;
            }
            writeln!(formatter)?;
        }
        Ok(())
    }
}

/// The chains that the load is for.
pub(crate) fn chains() -> Vec<ChainFile> {
    let shout = ["tr", "a-z", "A-Z"];
    let deadline = format!("Deadline: {}s", DEADLINE.as_secs());
    vec![
        chain_with(
            &format!("Name: text\n{deadline}"),
            [link(&["cat"]), link(&shout), link(&["sed", "s/^/> /"])],
        ),
        chain_with(
            &format!("Name: failing\n{deadline}"),
            [link(&["cat"]), shell("read x; echo \"no $x\" >&2; exit 7")],
        ),
        chain_with(
            &format!("Name: late\nDeadline: {}ms", LATE_DEADLINE.as_millis()),
            [shell("read x; /bin/sleep 60")],
        ),
    ]
}

/// Makes calls, one after the other, until `goes_on` says no. `caller` tells its
/// calls from those of others.
#[track_caller]
pub(crate) fn run(portal: &Served, caller: usize, goes_on: impl Fn() -> bool) -> Tally {
    let mut tally = Tally::default();
    let mut client = portal.connect();
    let kinds = KINDS.iter().cycle().skip(caller * 3);
    for (number, kind) in kinds.enumerate() {
        if !goes_on() {
            break;
        }
        let call = Call::new(*kind, caller, number);
        let begun = Instant::now();
        let reply = call.make(&mut client);
        let elapsed = begun.elapsed();
        let end = call.judge(&reply).unwrap_or_else(|wrong| {
            panic!("{call:?} after {elapsed:?}: {wrong}");
        });
        let latest = call.deadline() + OVERDUE_MAX;
        assert!(elapsed < latest, "{call:?} took {elapsed:?}: {end:?}");
        tally.note(*kind, end, elapsed);
        let is_closed = reply.header("connection") == Some("close");
        if end != End::Right || is_closed {
            client = portal.connect();
        }
        thread::sleep(REST);
    }
    tally
}

/// One call.
struct Call {
    kind: Kind,
    id: String,
    body: Vec<u8>,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} call {}", self.kind, self.id)
    }
}

impl Call {
    fn new(kind: Kind, caller: usize, number: usize) -> Call {
        let id = format!("call-{caller}-{number}");
        let bytes = match kind {
            Kind::Small | Kind::Failing | Kind::Late => 1,
            Kind::Streamed => 8 * 1024,
            Kind::Medium => 64 * 1024,
            Kind::Large => 3 * 1024 * 1024,
        };
        let mut body = String::new();
        let mut line = 0_u64;
        while body.len() < bytes {
            // No two lines of any two calls are the same.
            let noise = line.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let _ = writeln!(body, "{id} line {line} {noise:016x}");
            line += 1;
        }
        let body = body.into_bytes();
        Call { kind, id, body }
    }

    fn deadline(&self) -> Duration {
        match self.kind {
            Kind::Late => LATE_DEADLINE,
            _ => DEADLINE,
        }
    }

    fn make(&self, client: &mut Client) -> Reply {
        let path = match self.kind {
            Kind::Failing => "/chains/failing",
            Kind::Late => "/chains/late",
            Kind::Small | Kind::Medium | Kind::Large | Kind::Streamed => "/chains/text",
        };
        let id = format!("Consecution-Call-Id: {}", self.id);
        match self.kind {
            Kind::Streamed => {
                client.send(format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\n{id}\r\nTransfer-Encoding: chunked\r\n\r\n"
                ));
                self.make_beside(client, |sender| {
                    for piece in self.body.chunks(2 * 1024) {
                        thread::sleep(REST);
                        sender.try_send_chunk(piece)?;
                    }
                    sender.try_send("0\r\n\r\n")
                })
            }
            _ => {
                let length = self.body.len();
                client.send(format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\n{id}\r\nContent-Length: {length}\r\n\r\n"
                ));
                self.make_beside(client, |sender| sender.try_send(&self.body))
            }
        }
    }

    /// Sends the body while the reply is read. A call that has failed may not
    /// want all of it.
    fn make_beside(
        &self,
        client: &mut Client,
        send: impl FnOnce(&mut Client) -> std::io::Result<()> + Send,
    ) -> Reply {
        let mut sender = client.sender();
        thread::scope(|scope| {
            scope.spawn(move || drop(send(&mut sender)));
            client.reply()
        })
    }

    /// What the chain must make of it.
    fn wanted(&self) -> Vec<u8> {
        let text = self.body.to_ascii_uppercase();
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| [b"> ", line].concat()).collect()
    }

    /// How it has ended.
    ///
    /// # Errors
    /// What is wrong about it.
    fn judge(&self, reply: &Reply) -> Result<End, String> {
        let id = reply.header("consecution-call-id");
        if id != Some(&self.id) {
            return Err(format!("the reply of call {id:?} has come"));
        }
        match (self.kind, reply.status) {
            (Kind::Failing | Kind::Late, 200) => Err("it has not failed".to_owned()),
            (_, 200) => self.judge_success(reply),
            _ => self.judge_failure(reply),
        }
    }

    fn judge_success(&self, reply: &Reply) -> Result<End, String> {
        let (wanted, found) = (self.wanted(), &reply.body);
        if reply.is_complete && wanted == *found {
            return Ok(End::Right);
        }
        if !reply.is_complete && wanted.starts_with(found) {
            return Ok(End::CutOff);
        }
        let at = wanted.iter().zip(found).position(|(a, b)| a != b);
        let (wanted, found, is_complete) = (wanted.len(), found.len(), reply.is_complete);
        Err(format!(
            "{found} bytes instead of {wanted}, complete: {is_complete}, different at {at:?}"
        ))
    }

    fn judge_failure(&self, reply: &Reply) -> Result<End, String> {
        let body = String::from_utf8_lossy(&reply.body);
        let wrong = || format!("status {}: {body}", reply.status);
        if !reply.is_complete {
            return Err(wrong());
        }
        let problem: serde_json::Value = serde_json::from_str(&body).map_err(|_| wrong())?;
        let said = format!("no {}", String::from_utf8_lossy(&self.body));
        match (self.kind, reply.status) {
            (Kind::Failing, 502)
                if problem["exit_code"] == 7
                    && problem["link_index"] == 1
                    && problem["stderr"] == said =>
            {
                Ok(End::Right)
            }
            (Kind::Late, 504) => Ok(End::Right),
            (_, 503) if reply.header("retry-after").is_some() => Ok(End::Refused),
            (_, 502) if problem["title"] == "a link was lost" => Ok(End::Lost),
            _ => Err(wrong()),
        }
    }
}
