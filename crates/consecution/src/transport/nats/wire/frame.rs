//! The frames of a stream, as messages.
//!
//! A frame is one message: a header with its kind, its number and its parameters; a piece
//! of a body is the payload, unchanged.

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;

use super::header::{self, Malformed, REASON_BYTES_MAX};
use super::outcome;
use super::subject::{FRAME, JOINED, RUNNER};
use crate::transport::Outcome;

/// One event of a call, on its way to the other side.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// From the runner: it has taken the call.
    Accept {
        /// How many bytes of its body the caller may send before it gets more credit.
        credit: u64,
        /// How many of the following links the runner has taken too.
        joined: usize,
    },
    /// A piece of the sender's body; never empty.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The body is cut off, for this reason.
    Cut(Arc<str>),
    /// From the runner: a piece of standard error; never empty.
    Stderr(Bytes),
    /// The receiver of a body allows so many bytes more.
    Credit(u64),
    /// From the caller: it allows so many bytes of standard error more.
    StderrCredit(u64),
    /// The sender of this frame reads no more of the body that it receives.
    Close,
    /// Nothing but a sign of life.
    Alive,
    /// From the runner, and its last frame: how the call ended.
    Outcome(Outcome),
}

/// A frame with its number: the frames of each sender are counted from 0.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) frame: Frame,
}

impl Frame {
    fn kind(&self) -> &'static str {
        match self {
            Frame::Accept { .. } => "accept",
            Frame::Data(_) => "data",
            Frame::End => "end",
            Frame::Cut(_) => "cut",
            Frame::Stderr(_) => "stderr",
            Frame::Credit(_) => "credit",
            Frame::StderrCredit(_) => "stderr-credit",
            Frame::Close => "close",
            Frame::Alive => "alive",
            Frame::Outcome(_) => "outcome",
        }
    }

    /// Whether a caller may send this frame.
    pub(crate) fn is_callers(&self) -> bool {
        !matches!(
            self,
            Frame::Accept { .. } | Frame::Stderr(_) | Frame::Outcome(_)
        )
    }

    /// Whether a runner may send this frame.
    pub(crate) fn is_runners(&self) -> bool {
        !matches!(self, Frame::StderrCredit(_))
    }
}

impl Numbered {
    /// Converts the frame to a message of at most `message_bytes_max`. `runner` is the
    /// sender's name, and empty if the sender is a caller.
    pub(crate) fn write(self, runner: &str, message_bytes_max: usize) -> (HeaderMap, Bytes) {
        let (kind, number) = (self.frame.kind(), self.number);
        let mut headers = HeaderMap::new();
        let header = match self.frame {
            Frame::Accept { credit, .. } | Frame::Credit(credit) | Frame::StderrCredit(credit) => {
                format!("{kind} {number} {credit}")
            }
            _ => format!("{kind} {number}"),
        };
        headers.insert(FRAME.clone(), header);
        let payload = match self.frame {
            Frame::Data(bytes) | Frame::Stderr(bytes) => bytes,
            Frame::Cut(reason) => {
                let end = reason.floor_char_boundary(REASON_BYTES_MAX);
                Bytes::copy_from_slice(&reason.as_bytes()[..end])
            }
            Frame::Accept { joined, .. } => {
                headers.insert(RUNNER.clone(), runner);
                if joined > 0 {
                    headers.insert(JOINED.clone(), joined.to_string());
                }
                Bytes::new()
            }
            Frame::Outcome(outcome) => {
                let room = message_bytes_max.saturating_sub(header::HEADERS_BYTES_MAX);
                outcome::write(&mut headers, &outcome, runner, room);
                Bytes::new()
            }
            Frame::Alive => {
                if !runner.is_empty() {
                    headers.insert(RUNNER.clone(), runner);
                }
                Bytes::new()
            }
            Frame::End | Frame::Credit(_) | Frame::StderrCredit(_) | Frame::Close => Bytes::new(),
        };
        (headers, payload)
    }

    /// Reads a message; `None` if it is no frame.
    ///
    /// # Errors
    /// It has a frame's header, but is malformed.
    pub(crate) fn read(message: &Message) -> Option<Result<Numbered, Malformed>> {
        let headers = message.headers.as_ref()?;
        let header = header::value(headers, &FRAME)?;
        let frame = read(header, headers, &message.payload);
        Some(frame.ok_or_else(|| {
            let header: String = header.chars().take(64).collect();
            Malformed(format!("`{}` is no frame", header.escape_debug()))
        }))
    }
}

fn read(header: &str, headers: &HeaderMap, payload: &Bytes) -> Option<Numbered> {
    let mut words = header.split(' ');
    let (kind, number) = (words.next()?, header::number(words.next()?)?);
    let amount = words.next();
    let credit = || header::number(amount?);
    let bytes = || (!payload.is_empty()).then(|| payload.clone());
    let frame = match kind {
        "accept" => Frame::Accept {
            credit: credit()?,
            joined: match header::value(headers, &JOINED) {
                Some(joined) => usize::try_from(header::number(joined)?).ok()?,
                None => 0,
            },
        },
        "data" => Frame::Data(bytes()?),
        "end" => Frame::End,
        "cut" => {
            let reason = payload.get(..REASON_BYTES_MAX).unwrap_or(payload);
            Frame::Cut(String::from_utf8_lossy(reason).into())
        }
        "stderr" => Frame::Stderr(bytes()?),
        "credit" => Frame::Credit(credit()?),
        "stderr-credit" => Frame::StderrCredit(credit()?),
        "close" => Frame::Close,
        "alive" => Frame::Alive,
        "outcome" => Frame::Outcome(outcome::read(headers).ok()?),
        _ => return None,
    };
    let is_all = words.next().is_none();
    is_all.then_some(Numbered { number, frame })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Ending;
    use crate::transport::nats::wire::{reply, request, subject};
    use proptest::prelude::*;
    use std::time::Duration;

    const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

    fn message(headers: HeaderMap, payload: Bytes) -> Message {
        Message {
            subject: "x".into(),
            reply: None,
            payload,
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn read_back(numbered: Numbered) -> Numbered {
        let (headers, payload) = numbered.write("runner", MESSAGE_BYTES_MAX);
        let read = Numbered::read(&message(headers, payload));
        read.expect("a frame").expect("a frame that is well-formed")
    }

    #[test]
    fn every_frame_reads_back_as_written() {
        let frames = [
            Frame::Accept {
                credit: 7,
                joined: 2,
            },
            Frame::Data("bytes\r\n".into()),
            Frame::End,
            Frame::Cut("the réason\n".into()),
            Frame::Stderr("complaint".into()),
            Frame::Credit(u64::MAX),
            Frame::StderrCredit(0),
            Frame::Close,
            Frame::Alive,
        ];
        for (number, frame) in (0..).zip(frames) {
            let written = format!("{frame:?}");
            let read = read_back(Numbered { number, frame });
            assert_eq!(read.number, number);
            assert_eq!(format!("{:?}", read.frame), written);
        }
    }

    #[test]
    fn what_is_no_frame_is_told_from_what_is_a_bad_one() {
        let mut headers = HeaderMap::new();
        assert!(Numbered::read(&message(headers.clone(), Bytes::new())).is_none());
        for bad in [
            "",
            "data",
            "data 1",
            "data -1",
            "data x",
            "alive 1 2 3",
            "credit 1",
            "credit 1 -1",
            "credit 1 99999999999999999999",
            "accept 0 x",
            "outcome 1",
            "nothing 1",
            "data  1",
        ] {
            headers.insert(FRAME.clone(), bad);
            let read = Numbered::read(&message(headers.clone(), Bytes::new()));
            assert!(read.expect("a frame").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_outcome_reads_back_as_written(
            stderr in proptest::collection::vec(any::<u8>(), 0..2000),
            code in any::<u8>(),
            reason in any::<String>(),
            micros in any::<u64>(),
        ) {
            let reason = &reason[..reason.floor_char_boundary(100)];
            for ending in [Ending::Exited(code), Ending::Lost(reason.into())] {
                let outcome = Outcome {
                    ending: ending.clone(),
                    stderr: stderr.clone().into(),
                    elapsed: Duration::from_micros(micros),
                    ..Outcome::new(Ending::Cut)
                };
                let frame = Frame::Outcome(outcome.clone());
                match read_back(Numbered { number: 0, frame }).frame {
                    Frame::Outcome(read) => {
                        prop_assert_eq!(read.ending, ending);
                        prop_assert_eq!(read.stderr, outcome.stderr);
                        prop_assert_eq!(read.elapsed, outcome.elapsed);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn no_header_makes_reading_panic(header in "\\PC*", value in "\\PC*") {
            let mut headers = HeaderMap::new();
            headers.insert(FRAME.clone(), header.as_str());
            headers.insert(subject::ENDING.clone(), value.as_str());
            headers.insert(subject::STDERR.clone(), value.as_str());
            headers.insert(subject::STREAM.clone(), value.as_str());
            headers.insert(subject::TIMEOUT_MS.clone(), header.as_str());
            let _ = request::RequestHead::read(Some(&headers), tokio::time::Instant::now());
            let _ = reply::ReplyHead::read(&headers);
            let _ = Numbered::read(&message(headers, Bytes::new()));
        }
    }
}
