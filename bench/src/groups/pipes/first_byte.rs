//! How soon the first byte comes out of a stream that does not end.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::network::Network;
use crate::http::{self, Length, Reply};
use crate::measure::Samples;
use crate::place::Place;
use crate::process::Process;

const TURNS: usize = 50;

/// Pause between streams, for the processes of the last one to be replaced.
const PAUSE: Duration = Duration::from_millis(50);

/// The milliseconds of first bytes and of later ones.
#[derive(Default)]
pub(super) struct Times {
    pub(super) first: Samples,
    pub(super) later: Samples,
}

#[derive(Default)]
pub(super) struct FirstByte {
    pub(super) one: Times,
    pub(super) three: Times,
    /// Of a byte through a pipeline that was started before.
    pub(super) shell: Samples,
}

pub(super) fn measure(place: &Place, network: &Network) -> anyhow::Result<FirstByte> {
    eprintln!("pipes: first bytes");
    let mut shell = place.shell(&["cat", "cat", "cat"]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = Process::start(shell)?;
    let (mut shell_in, mut shell_out) = (shell.input()?, shell.output()?);
    let mut found = FirstByte::default();
    // The first turn only warms caches.
    for turn in 0..=TURNS {
        let one = stream(network.one.address)?;
        let three = stream(network.three.address)?;
        let begin = Instant::now();
        shell_in.write_all(b"x")?;
        shell_out.read_exact(&mut [0])?;
        let shell = begin.elapsed();
        if turn > 0 {
            for ((first, later), times) in [(one, &mut found.one), (three, &mut found.three)] {
                times.first.add_milliseconds(first);
                times.later.add_milliseconds(later);
            }
            found.shell.add_milliseconds(shell);
        }
    }
    drop(shell_in);
    shell.succeed()?;
    Ok(found)
}

/// Begins a stream, and aborts it again. Returns the times of its first byte, which is sent
/// with the request's head, and of the next one.
fn stream(address: SocketAddr) -> anyhow::Result<(Duration, Duration)> {
    let mut stream = http::connect(address)?;
    let begin = Instant::now();
    let request = http::head(Length::Chunked) + http::BYTE_CHUNK;
    stream.write_all(request.as_bytes())?;
    let mut reply = Reply::begin(stream)?.expect_success()?;
    reply.await_byte()?;
    let first = begin.elapsed();
    sleep(PAUSE);
    let begin = Instant::now();
    reply.send_byte()?;
    reply.await_byte()?;
    let later = begin.elapsed();
    drop(reply);
    sleep(PAUSE);
    Ok((first, later))
}
