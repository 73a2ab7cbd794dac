//! Finds clients that no longer read what they were sent, so that their connections can be
//! closed.
//!
//! Writing to the socket does not show whether a slow client still reads: the kernel buffers
//! megabytes, so a client that reads 10 KB/s makes no room for minutes. But the number of
//! bytes that it has not acknowledged changes. The kernel gives that number by an ioctl
//! (`SIOCOUTQ`), which would need unsafe code, and in `/proc/self/net/tcp`. That file is read
//! here, only if nothing else has moved on a connection for a while, and once for all such
//! connections.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::socket::Socket;

/// The kernel's tables of sockets, for IPv4 and IPv6.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// How long their content is used before they are read again.
const FRESH: Duration = Duration::from_millis(100);

/// How many times to check a client within the time for which it may do nothing. So it is
/// noticed at most a quarter of that time late.
const LOOKS: u32 = 4;

/// The shortest time between two checks, so that a short limit causes no busy loop.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// Interval of checks of a client that may do nothing for `wait_max`.
pub(crate) fn look_every(wait_max: Duration) -> Duration {
    (wait_max / LOOKS).max(LOOK_EVERY_MIN)
}

/// Follows whether anything moves on a stream.
pub(super) struct Stall {
    socket: Socket,
    unacknowledged: Arc<Unacknowledged>,
    inode: Option<u64>,
    /// The bytes read and written, at the last check.
    seen: (u64, u64),
    /// The bytes that were not acknowledged at the last check, if that is known.
    queue: Option<u64>,
    /// Since when nothing has moved.
    since: Instant,
}

/// How many bytes the other side of each socket has not acknowledged, by inode.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged(Mutex<Option<Table>>);

#[derive(Debug)]
struct Table {
    read_at: Instant,
    by_inode: HashMap<u64, u64>,
}

impl Stall {
    pub(super) fn of(socket: &Socket, unacknowledged: &Arc<Unacknowledged>) -> Stall {
        let stat = rustix::fs::fstat(socket.stream());
        Stall {
            socket: socket.clone(),
            unacknowledged: Arc::clone(unacknowledged),
            inode: stat.ok().map(|stat| stat.st_ino),
            seen: (0, 0),
            queue: None,
            since: Instant::now(),
        }
    }

    /// Resolves when for that long the other side has acknowledged none of the bytes sent to
    /// it, and has sent none itself. Cancel-safe.
    pub(super) async fn longer_than(&mut self, wait_max: Duration) {
        let every = look_every(wait_max);
        loop {
            sleep(every).await;
            if self.moves().await {
                self.since = Instant::now();
            } else if self.since.elapsed() >= wait_max {
                return;
            }
        }
    }

    /// Whether something has moved since the last check, or nothing has to.
    async fn moves(&mut self) -> bool {
        let passed = self.socket.passed();
        let read = passed.bytes_read.load(Ordering::Relaxed);
        let written = passed.bytes_written.load(Ordering::Relaxed);
        if self.seen != (read, written) {
            self.seen = (read, written);
            self.queue = None;
            return true;
        }
        if self.queue == Some(0) {
            // Everything was acknowledged, and nothing was written since.
            return true;
        }
        let queue = match self.inode {
            Some(inode) => self.unacknowledged.of(inode).await,
            None => None,
        };
        let before = std::mem::replace(&mut self.queue, queue);
        match queue {
            Some(0) => true,
            Some(_) => queue != before,
            // It is not known. At least it is known whether the socket has room.
            None => !self.socket.passed().is_blocked.load(Ordering::Relaxed),
        }
    }
}

impl Unacknowledged {
    /// The unacknowledged bytes of a socket, if they are known.
    async fn of(&self, inode: u64) -> Option<u64> {
        let mut table = self.0.lock().await;
        if !matches!(&*table, Some(table) if table.read_at.elapsed() < FRESH) {
            let read_at = Instant::now();
            let read = tokio::task::spawn_blocking(|| {
                let mut by_inode = HashMap::new();
                for path in TABLES {
                    // Without IPv6, the second one does not exist.
                    if let Ok(file) = std::fs::File::open(path) {
                        read_table(BufReader::new(file), &mut by_inode);
                    }
                }
                by_inode
            });
            let by_inode = read.await.ok()?;
            *table = Some(Table { read_at, by_inode });
        }
        table.as_ref()?.by_inode.get(&inode).copied()
    }
}

fn read_table(table: impl BufRead, by_inode: &mut HashMap<u64, u64>) {
    let lines = table.lines().map_while(Result::ok);
    by_inode.extend(lines.filter_map(|line| entry(&line)));
}

/// Reads the inode and the unacknowledged bytes from a line
/// `sl local remote state sent:received timer retransmits user timeout inode …`
fn entry(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (sent, _) = fields.nth(4)?.split_once(':')?;
    let inode = fields.nth(4)?.parse().ok()?;
    Some((inode, u64::from_str_radix(sent, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    const WAIT_MAX: Duration = Duration::from_millis(400);

    /// A stream that is followed, and its other end.
    async fn pair() -> (Socket, Stall, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap());
        let (other, taken) = tokio::join!(other, listener.accept());
        let socket = Socket::new(taken.unwrap().0);
        let stall = Stall::of(&socket, &Arc::default());
        (socket, stall, other.unwrap())
    }

    /// Writes until there is no more room.
    async fn fill(stream: &mut Socket) {
        let bytes = vec![b'x'; 1024 * 1024];
        let patience = Duration::from_millis(100);
        while timeout(patience, stream.write_all(&bytes)).await.is_ok() {}
    }

    #[test]
    fn a_line_of_the_table_is_understood() {
        let line = "   0: 0100007F:1F90 0100007F:9C4E 01 000A0F10:00000000 04:00000012 00000000  1000        0 48213 2 ffff888 22 4 30 10 -1";
        assert_eq!(entry(line), Some((48213, 0x000A_0F10)));
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(entry(head), None);
        assert_eq!(entry(""), None);
    }

    #[tokio::test]
    async fn who_reads_nothing_is_found() {
        let (mut stream, mut stall, _other) = pair().await;
        fill(&mut stream).await;
        stall.longer_than(WAIT_MAX).await;
    }

    #[tokio::test]
    async fn who_has_nothing_to_read_may_be_silent() {
        let (mut stream, mut stall, mut other) = pair().await;
        stream.write_all(b"some").await.unwrap();
        other.read_exact(&mut [0; 4]).await.unwrap();
        assert!(
            timeout(WAIT_MAX * 4, stall.longer_than(WAIT_MAX))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn who_reads_slowly_or_sends_is_not_stalled() {
        let (mut stream, mut stall, mut other) = pair().await;
        fill(&mut stream).await;
        // Much less than what would make room for the next write.
        let reading = async {
            let mut bytes = vec![0; 64 * 1024];
            loop {
                other.read_exact(&mut bytes).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = stall.longer_than(WAIT_MAX) => panic!("it reads"),
            () = reading => {}
            () = sleep(WAIT_MAX * 4) => {}
        }
        let sending = async {
            loop {
                other.write_all(b"x").await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = stall.longer_than(WAIT_MAX) => panic!("it sends"),
            () = sending => {}
            () = sleep(WAIT_MAX * 4) => {}
        }
    }
}
