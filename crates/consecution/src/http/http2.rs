//! Serves one connection with HTTP/2.
//!
//! hyper has the protocol, and runs each stream as a task; the tasks are ours. What the loop
//! for HTTP/1.1 finds out of a connection is found out here of each stream:
//!
//! - *A client that leaves* resets its stream, or its connection ends. hyper drops the call.
//! - *A reply that breaks off* ends in a reset of its stream.
//! - *A client that reads nothing* opens no window for its stream. Then hyper, which has a
//!   piece of the reply in hand, does not ask the reply's body for the next one; a stream that
//!   stays so for too long is reset. Pieces are small, since hyper gives up a whole one for a
//!   window of one byte: what is left of the last piece of a reply stays until the connection
//!   ends, which it does when it has no stream for long enough.
//! - *A client that reads nothing from the connection* is found as with HTTP/1.1.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body as RouteBody;
use bytes::{Buf, Bytes};
use hyper::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_rustls::server::TlsStream;

use super::Client;
use super::arrivals::Peer;
use super::client::OwnPlace;
use super::connection::{DRAIN_STALL_MAX, HEAD_BYTES_MAX, Progress, add_call_id, insert_call_id};
use super::places::Place;
use super::server::{Site, Stage, Waits};
use super::socket::Socket;
use super::stall::{Stall, look_every};

/// The most streams that a client may have open on a connection. hyper and h2 also bound what
/// is reset as soon as it was opened, and the frames that continue a head.
const STREAMS_MAX: u32 = 100;

/// How much of a request may wait here to be read. A connection has room for all of its
/// streams, so that one whose chain reads nothing keeps no other from being read.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// How much of a reply may wait here to be sent.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// The largest piece of a reply.
const PIECE_BYTES_MAX: usize = 16 * 1024;

tokio::task_local! {
    /// The stream that this task serves.
    static STREAM: Arc<Flow>;
}

/// Serves one connection to its end.
pub(super) async fn serve(
    stream: TlsStream<Socket>,
    socket: Socket,
    peer: Peer,
    place: Place,
    site: Site,
    mut progress: Progress,
) {
    let Site {
        router,
        is_guarded,
        waits,
        ..
    } = site;
    let mut stall = Stall::of(&socket, &waits.unacknowledged);
    let place = Arc::new(place);
    let streams = Streams::new(waits.clone(), progress.clone());
    let router = TowerToHyperService::new(router);
    let (stage, open, at) = (progress.stage.clone(), streams.clone(), Arc::clone(&place));
    let service = service_fn(move |mut request: Request<Incoming>| {
        at.has_head();
        let client = Client::new(peer.clone(), stage.clone());
        client.set_extra(at.is_extra());
        // The first stream has the place of its connection; each other one that is open at
        // the same time needs a further place. If there is a guard, it takes that one when it
        // knows who asks: else a few connections without a key could hold all places.
        let further = (open.count() > 0).then(|| client.needs_place(at.further()));
        if !is_guarded {
            client.take_place();
        }
        let call_id = add_call_id(&mut request, &client);
        let response = router.call(request);
        async move {
            let Ok(mut response) = response.await;
            insert_call_id(response.headers_mut(), &call_id);
            let flow = STREAM.try_with(Arc::clone).unwrap_or_default();
            Ok::<_, Infallible>(response.map(|body| Paced::new(body, flow, further)))
        }
    });
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut over = pin!(place.until_over());
    let (mut is_told, mut idle_max) = (false, waits.head_max);
    let mut stall_wait_max = waits.stall_max;
    loop {
        tokio::select! {
            biased;
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!("a connection broke off: {error}");
                }
                return;
            }
            () = progress.until(Stage::Draining), if !is_told => {
                is_told = true;
                idle_max = DRAIN_STALL_MAX;
                stall_wait_max = stall_wait_max.min(DRAIN_STALL_MAX);
                connection.as_mut().graceful_shutdown();
            }
            () = streams.idle_for(idle_max) => {
                if is_told {
                    return;
                }
                is_told = true;
                idle_max = DRAIN_STALL_MAX;
                connection.as_mut().graceful_shutdown();
            }
            () = stall.longer_than(stall_wait_max) => {
                tracing::info!("a client has read nothing for {stall_wait_max:?}: its connection is closed");
                // So the kernel does not keep what is unread either.
                let _ = socket.stream().set_zero_linger();
                return;
            }
            () = &mut over => return,
        }
    }
}

/// The tasks that serve the streams of a connection. Clones share them; they end with the
/// last one.
#[derive(Clone)]
struct Streams {
    tasks: Arc<Mutex<JoinSet<()>>>,
    open: Arc<Open>,
    waits: Waits,
    progress: Progress,
}

/// The number of streams that are open.
#[derive(Default)]
struct Open {
    count: AtomicUsize,
    has_changed: Notify,
}

/// A stream that is open while this is held.
struct OpenStream(Arc<Open>);

impl Streams {
    fn new(waits: Waits, progress: Progress) -> Streams {
        Streams {
            tasks: Arc::default(),
            open: Arc::default(),
            waits,
            progress,
        }
    }

    fn count(&self) -> usize {
        self.open.count.load(Ordering::Acquire)
    }

    /// Resolves when there has been no stream for that long. Cancel-safe, but then it begins
    /// anew.
    async fn idle_for(&self, wait_max: Duration) {
        loop {
            let changed = self.open.has_changed.notified();
            if self.count() > 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = sleep(wait_max) => return,
            }
        }
    }
}

impl<Stream: Future<Output = ()> + Send + 'static> Executor<Stream> for Streams {
    fn execute(&self, stream: Stream) {
        let open = OpenStream::begin(&self.open);
        let (flow, waits, progress) = (Arc::default(), self.waits.clone(), self.progress.clone());
        let mut tasks = self.tasks.lock();
        tasks.spawn(async move {
            let _open = open;
            let stalled = Flow::stalled(&flow, waits.stall_max, progress);
            tokio::select! {
                biased;
                () = STREAM.scope(Arc::clone(&flow), stream) => {}
                // Dropping it resets the stream.
                () = stalled => {
                    tracing::info!("a client has read nothing of its reply for too long: its stream is reset");
                }
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

impl OpenStream {
    fn begin(open: &Arc<Open>) -> OpenStream {
        open.count.fetch_add(1, Ordering::AcqRel);
        open.has_changed.notify_waiters();
        OpenStream(Arc::clone(open))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.has_changed.notify_waiters();
    }
}

/// Since when hyper has a piece of a stream's reply in hand without asking for the next one.
#[derive(Default)]
struct Flow(Mutex<Option<Instant>>);

impl Flow {
    /// Resolves when the client has opened no window for that long.
    async fn stalled(flow: &Flow, wait_max: Duration, mut progress: Progress) {
        tokio::select! {
            () = flow.longer_than(wait_max) => return,
            () = progress.until_closing() => {}
        }
        flow.longer_than(wait_max.min(DRAIN_STALL_MAX)).await;
    }

    async fn longer_than(&self, wait_max: Duration) {
        loop {
            sleep(look_every(wait_max)).await;
            if self
                .0
                .lock()
                .is_some_and(|since| since.elapsed() >= wait_max)
            {
                return;
            }
        }
    }
}

/// The body of a reply in small pieces, which notes when the next one is asked for.
struct Paced {
    body: RouteBody,
    flow: Arc<Flow>,
    /// What is left of the last chunk.
    rest: Bytes,
    _place: Option<OwnPlace>,
}

impl Paced {
    fn new(body: RouteBody, flow: Arc<Flow>, place: Option<OwnPlace>) -> Paced {
        Paced {
            body,
            flow,
            rest: Bytes::new(),
            _place: place,
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let paced = &mut *self;
        *paced.flow.0.lock() = None;
        if paced.rest.is_empty() {
            let frame = ready!(Pin::new(&mut paced.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(chunk))) => paced.rest = chunk,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = paced.rest.remaining().min(PIECE_BYTES_MAX);
        *paced.flow.0.lock() = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(paced.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let left = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(left.lower().saturating_add(rest));
        hint
    }
}
