use super::*;
use futures_util::FutureExt;
use futures_util::future::{join_all, poll_fn};
use proptest::prelude::*;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Room in that much memory and altogether.
fn room(memory: u64, all: u64, folder: Option<&tempfile::TempDir>) -> Arc<Room> {
    let mut room = Room::open(SpoolOptions {
        folder: folder.map(|folder| folder.path().to_owned()),
        bytes_max: all,
    });
    room.memory_bytes_max = memory;
    Arc::new(room)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn succeeded() -> End {
    End::Succeeded(Report { links: Vec::new() })
}

async fn next(reader: &mut Reader) -> Next {
    poll_fn(|context| reader.poll_next(context)).await
}

/// All that comes, to a good end.
async fn all(reader: &mut Reader) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match next(reader).await {
            Next::Chunk(chunk) => bytes.extend_from_slice(&chunk),
            Next::End(End::Succeeded(_)) => return bytes,
            Next::End(end) => panic!("{end:?}"),
        }
    }
}

async fn push(writer: &Writer, bytes: &[u8]) {
    let pushed = writer.push(Bytes::copy_from_slice(bytes));
    let pushed = tokio::time::timeout(Duration::from_secs(10), pushed).await;
    pushed.expect("it waits").expect("it is read");
}

/// The unnamed files of this process in a folder.
fn files_in(folder: &tempfile::TempDir) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.starts_with(folder.path()))
        .count()
}

/// Files are closed elsewhere.
async fn until_no_files_in(folder: &tempfile::TempDir) {
    let closed = async {
        while files_in(folder) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
    closed.expect("a file is still open");
}

#[tokio::test]
async fn memory_comes_first_and_then_a_file_and_all_is_given_back() {
    let folder = folder();
    let room = room(64 * 1024, MIB, Some(&folder));
    let (writer, mut reader) = pipe(&room, Mode::Spooling);
    let sent: Vec<u8> = (0..300_000_u32).map(|at| (at / 7) as u8).collect();
    for chunk in sent.chunks(10_000) {
        push(&writer, chunk).await;
    }
    let used = *room.used.lock();
    assert_eq!(used.all(), sent.len() as u64);
    assert!(used.memory <= 32 * 1024 && used.file > 0, "{used:?}");
    assert_eq!(files_in(&folder), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(reader.news().now_or_never().is_none());
    writer.end(succeeded());
    assert_eq!(reader.news().await, News::Over);
    assert_eq!(reader.bytes(), sent.len() as u64);
    assert!(all(&mut reader).await == sent);
    drop(reader);
    assert_eq!(*room.used.lock(), Used::default());
    drop(writer);
    until_no_files_in(&folder).await;
}

#[tokio::test]
async fn who_goes_away_gives_everything_back_at_once() {
    let folder = folder();
    let room = room(64 * 1024, MIB, Some(&folder));
    let (writer, reader) = pipe(&room, Mode::Spooling);
    push(&writer, &[b'x'; 20_000]).await;
    push(&writer, &[b'x'; 200_000]).await;
    drop(reader);
    assert_eq!(*room.used.lock(), Used::default());
    until_no_files_in(&folder).await;
    assert!(writer.push(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test]
async fn a_call_without_room_waits_for_its_reader_and_loses_nothing() {
    let room = room(MIB, 1000, None);
    let (writer, mut reader) = pipe(&room, Mode::Spooling);
    push(&writer, &[b'a'; 400]).await;
    assert!(reader.news().now_or_never().is_none());
    // More than half; one chunk is handed over without room.
    push(&writer, &[b'b'; 200]).await;
    assert_eq!(reader.news().await, News::Full);
    assert_eq!(room.full.get(), 1);
    let mut third = Box::pin(writer.push(Bytes::from_static(b"c")));
    assert!((&mut third).now_or_never().is_none());
    assert!(matches!(next(&mut reader).await, Next::Chunk(chunk) if chunk.len() == 400));
    assert!((&mut third).now_or_never().is_none());
    assert!(matches!(next(&mut reader).await, Next::Chunk(chunk) if chunk.len() == 200));
    third.await.unwrap();
    writer.end(succeeded());
    assert_eq!(all(&mut reader).await, b"c");
    assert_eq!(*room.used.lock(), Used::default());
    assert_eq!(room.full.get(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_full_spool() {
    let folder = folder();
    let room = room(1000, MIB, Some(&folder));
    drop(folder);
    let (writer, mut reader) = pipe(&room, Mode::Spooling);
    push(&writer, &[b'a'; 400]).await;
    push(&writer, &[b'b'; 400]).await;
    assert_eq!(reader.news().await, News::Full);
    assert_eq!(room.used.lock().all(), 400);
    writer.end(succeeded());
    let wanted = [[b'a'; 400], [b'b'; 400]].concat();
    assert!(all(&mut reader).await == wanted);
}

#[test]
fn a_folder_that_cannot_be_written_leaves_memory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let room = Room::open(SpoolOptions {
        folder: Some(file.path().join("spool")),
        bytes_max: MIB,
    });
    assert_eq!(room.folder, None);
    assert!(room.is_there());
}

#[tokio::test]
async fn no_call_has_more_than_half_of_what_others_leave() {
    let room = room(MIB, 1024, None);
    let (first, second) = (pipe(&room, Mode::Spooling), pipe(&room, Mode::Spooling));
    push(&first.0, &[b'x'; 512]).await;
    push(&second.0, &[b'x'; 256]).await;
    assert!(first.1.news().now_or_never().is_none());
    assert!(second.1.news().now_or_never().is_none());
    push(&second.0, b"x").await;
    assert_eq!(second.1.news().await, News::Full);
}

#[tokio::test]
async fn a_reply_that_has_begun_takes_a_little_more_while_it_is_read() {
    let room = room(u64::MAX, u64::MAX, None);
    let (writer, mut reader) = pipe(&room, Mode::Spooling);
    push(&writer, b"early").await;
    reader.begin();
    for _ in 0..AHEAD_BYTES_MAX / MIB {
        push(&writer, &vec![b'x'; MIB as usize]).await;
    }
    // One chunk is handed over, the next one waits.
    push(&writer, b"direct").await;
    assert!(
        writer
            .push(Bytes::from_static(b"x"))
            .now_or_never()
            .is_none()
    );
    assert!(matches!(next(&mut reader).await, Next::Chunk(chunk) if chunk.starts_with(b"early")));
    assert_eq!(room.full.get(), 0);

    // Where all that was early has been read, nothing more waits.
    let (writer, mut reader) = pipe(&room, Mode::Spooling);
    push(&writer, b"early").await;
    reader.begin();
    assert!(matches!(next(&mut reader).await, Next::Chunk(_)));
    push(&writer, b"direct").await;
    assert!(
        writer
            .push(Bytes::from_static(b"x"))
            .now_or_never()
            .is_none()
    );
}

#[tokio::test]
async fn a_run_that_is_given_up_never_seems_to_end() {
    let (writer, mut reader) = pipe(&room(MIB, MIB, None), Mode::Spooling);
    push(&writer, b"some").await;
    drop(writer);
    assert!(matches!(next(&mut reader).await, Next::Chunk(_)));
    assert!(matches!(next(&mut reader).await, Next::End(End::Broken(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Many calls at once, of all sizes, in little room: each gets its own bytes, in
    /// order, and no more waits than may.
    #[test]
    fn many_calls_share_the_room(
        calls in prop::collection::vec(prop::collection::vec(1..6000_usize, 0..12), 1..12),
        memory in 1..20_000_u64,
        all_bytes in 1..60_000_u64,
        begins in 0..10_usize,
    ) {
        let folder = folder();
        let room = room(memory, all_bytes, Some(&folder));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let of_call = |(number, chunks): (usize, Vec<usize>)| {
            let room = Arc::clone(&room);
            async move {
                let byte = move |at: usize| (at.wrapping_mul(31) + number) as u8;
                let (writer, mut reader) = pipe(&room, Mode::Spooling);
                let length: usize = chunks.iter().sum();
                let writing = tokio::spawn({
                    let room = Arc::clone(&room);
                    async move {
                        let mut at = 0;
                        for length in chunks {
                            let chunk: Vec<u8> = (at..at + length).map(byte).collect();
                            writer.push(chunk.into()).await.unwrap();
                            at += length;
                            let used = *room.used.lock();
                            assert!(used.memory <= memory && used.all() <= all_bytes, "{used:?}");
                        }
                        writer.end(succeeded());
                    }
                });
                // Some replies begin before their run is over.
                if number % 10 < begins {
                    reader.begin();
                } else {
                    reader.news().await;
                }
                let read = all(&mut reader).await;
                assert!(read.iter().copied().eq((0..length).map(byte)));
                writing.await.unwrap();
            }
        };
        runtime.block_on(join_all(calls.into_iter().enumerate().map(of_call)));
        prop_assert_eq!(*room.used.lock(), Used::default());
        drop(runtime);
        prop_assert_eq!(files_in(&folder), 0);
    }
}
