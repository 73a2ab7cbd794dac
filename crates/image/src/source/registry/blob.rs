//! Downloading a layer: resumed where it broke, hashed on its way, bounded.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::RegistryError;
use super::body::Body;
use super::endpoint::Endpoint;
use super::failure::{Attempts, Failure, skipped};
use super::resolve::Resolved;
use super::session::{Ask, Session};
use crate::manifest::{ContentError, Descriptor};
use crate::source::Progress;
use crate::store::BlobFile;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// How long they are gathered at most. A pull may be dropped at any time, and the next
/// one continues from what was written.
const WRITE_AFTER: Duration = Duration::from_secs(5);
/// An attempt got somewhere if it brought so many bytes more than there ever were.
const PROGRESS_BYTES: u64 = 256 << 10;
/// The most bytes that are fetched for a layer, in multiples of its size. It takes more
/// than one if a server cannot resume and its connections break.
const FETCHES_MAX: u64 = 5;

impl Session<'_> {
    /// Fills `file`, which may have its beginning already, with the layer, and
    /// gives it back whole and verified.
    pub(crate) async fn download(
        &self,
        resolved: &Resolved,
        layer: &Descriptor,
        file: BlobFile,
        progress: &dyn Progress,
    ) -> Result<BlobFile, RegistryError> {
        let (mirrors, registry) = self
            .endpoints_from(resolved.endpoint)
            .ok_or_else(|| self.nowhere())?;
        if file.bytes() != layer.size && file.verify(layer).is_ok() {
            return Err(RegistryError::Content {
                address: registry.address.clone(),
                cause: wrong_size(layer, file.bytes()),
            });
        }
        let mut slot = Some(file);
        let download = |endpoint| Download {
            session: self,
            endpoint,
            layer,
            progress,
            attempts: Attempts::new(self.options),
            reached_bytes: 0,
            fetched_bytes: 0,
        };
        for mirror in mirrors {
            match download(mirror).run(&mut slot).await {
                Ok(()) => return slot.ok_or_else(lost),
                Err(error) => skipped(&error),
            }
        }
        download(registry).run(&mut slot).await?;
        slot.ok_or_else(lost)
    }
}

struct Download<'a> {
    session: &'a Session<'a>,
    endpoint: &'a Endpoint,
    layer: &'a Descriptor,
    progress: &'a dyn Progress,
    attempts: Attempts<'a>,
    /// The bytes of the layer when an attempt last got somewhere. Bytes that are thrown
    /// away and fetched again do not count.
    reached_bytes: u64,
    /// The bytes that came in all attempts together.
    fetched_bytes: u64,
}

/// The file is always put back, except where its writer panicked.
fn lost() -> RegistryError {
    RegistryError::Protocol {
        what: "a layer".to_owned(),
        address: "here".to_owned(),
        problem: "its file was lost".into(),
    }
}

impl Download<'_> {
    async fn run(&mut self, slot: &mut Option<BlobFile>) -> Result<(), RegistryError> {
        // What an earlier process left may be damaged; then it is fetched anew.
        self.reached_bytes = slot.as_ref().map_or(0, BlobFile::bytes);
        let mut may_be_stale = self.reached_bytes > 0;
        loop {
            let file = slot.take().ok_or_else(lost)?;
            let (file, result) = self.attempt(file).await?;
            match result {
                Ok(()) => match file.verify(self.layer) {
                    Ok(()) => {
                        *slot = Some(file);
                        return Ok(());
                    }
                    Err(cause) => {
                        *slot = Some(file.restart().await?);
                        if !std::mem::take(&mut may_be_stale) {
                            return Err(self.content(cause));
                        }
                        self.reached_bytes = 0;
                    }
                },
                Err(failure) => {
                    if file.bytes() >= self.reached_bytes.saturating_add(PROGRESS_BYTES) {
                        self.reached_bytes = file.bytes();
                        self.attempts.progressed();
                    }
                    *slot = Some(file);
                    self.attempts.wait_after(failure).await?;
                }
            }
        }
    }

    fn content(&self, cause: ContentError) -> RegistryError {
        RegistryError::Content {
            address: self.endpoint.address.clone(),
            cause,
        }
    }

    fn over_and_over(&self) -> RegistryError {
        RegistryError::Protocol {
            what: format!("layer {}", self.layer.digest),
            address: self.endpoint.address.clone(),
            problem: format!(
                "it was begun anew so often that {} bytes came of {}; check the network, or use another mirror",
                self.fetched_bytes, self.layer.size
            )
            .into(),
        }
    }

    /// One request and its body. The outer error is ours, the inner the
    /// registry's.
    async fn attempt(
        &mut self,
        mut file: BlobFile,
    ) -> Result<(BlobFile, Result<(), Failure>), RegistryError> {
        if file.bytes() == self.layer.size {
            return Ok((file, Ok(())));
        }
        let what = format!("layer {}", self.layer.digest);
        let ask = Ask {
            what: &what,
            path: &format!("blobs/{}", self.layer.digest),
            accept: None,
            from: file.bytes(),
        };
        let answer = match self.session.ask(self.endpoint, &ask).await {
            Ok(answer) => answer,
            Err(failure) => {
                // 416: what we have is not a beginning of what it has.
                if is_unsatisfiable(&failure) && ask.from > 0 {
                    file = file.restart().await?;
                    return Ok((file, Err(Failure::Passing(failure.into_error(), None))));
                }
                return Ok((file, Err(failure)));
            }
        };
        if !continues_at(&answer, file.bytes()) {
            file = file.restart().await?;
        }
        self.body(file, answer).await
    }

    async fn body(
        &mut self,
        mut file: BlobFile,
        answer: Response,
    ) -> Result<(BlobFile, Result<(), Failure>), RegistryError> {
        let mut pending: Vec<Bytes> = Vec::new();
        let mut pending_bytes = 0;
        let mut written = Instant::now();
        let mut body = Body::new(self.endpoint, answer);
        loop {
            let chunk = body.chunk().await;
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(bytes)) = &chunk {
                pending_bytes += bytes.len();
                self.fetched_bytes = self.fetched_bytes.saturating_add(bytes.len() as u64);
                pending.push(bytes.clone());
            }
            let found = file.bytes() + pending_bytes as u64;
            if found > self.layer.size {
                let cause = wrong_size(self.layer, found);
                let file = file.restart().await?;
                return Ok((file, Err(Failure::Final(self.content(cause)))));
            }
            if self.fetched_bytes > self.layer.size.saturating_mul(FETCHES_MAX) {
                return Ok((file, Err(Failure::Final(self.over_and_over()))));
            }
            if pending_bytes >= WRITE_BYTES || ended || written.elapsed() >= WRITE_AFTER {
                file = file.append(std::mem::take(&mut pending)).await?;
                pending_bytes = 0;
                written = Instant::now();
                self.progress.advanced(&self.layer.digest, file.bytes());
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) if file.bytes() == self.layer.size => return Ok((file, Ok(()))),
                Ok(None) => {
                    let cause = wrong_size(self.layer, file.bytes());
                    return Ok((file, Err(Failure::Passing(self.content(cause), None))));
                }
                Err(failure) => return Ok((file, Err(failure))),
            }
        }
    }
}

fn wrong_size(layer: &Descriptor, found: u64) -> ContentError {
    ContentError::WrongSize {
        what: format!("layer {}", layer.digest),
        wanted: layer.size,
        found,
    }
}

fn is_unsatisfiable(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Final(RegistryError::Status { status: 416, .. })
    )
}

/// Whether an answer's body begins where we stopped, rather than at zero.
fn continues_at(answer: &Response, from: u64) -> bool {
    if from == 0 {
        return answer.status() != StatusCode::PARTIAL_CONTENT || range_start(answer) == Some(0);
    }
    answer.status() == StatusCode::PARTIAL_CONTENT && range_start(answer) == Some(from)
}

/// `bytes 100-199/200` starts at 100.
fn range_start(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes")?.trim_start().split_once('-')?;
    start.parse().ok()
}
