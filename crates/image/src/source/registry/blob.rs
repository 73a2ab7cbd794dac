//! Downloading a layer: resumed where it broke, hashed on its way, bounded.

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::RegistryError;
use super::endpoint::Endpoint;
use super::resolve::Resolved;
use super::session::{Ask, Failure, Session, Tries, transport};
use crate::manifest::{ContentError, Descriptor};
use crate::source::Progress;
use crate::store::BlobFile;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes that make an attempt count as one that got somewhere.
const PROGRESS_BYTES: u64 = 256 << 10;

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
        let mut slot = Some(file);
        let (mirrors, registry) = self
            .endpoints_from(resolved.endpoint)
            .ok_or_else(|| self.nowhere())?;
        let download = |endpoint| Download {
            session: self,
            endpoint,
            layer,
            progress,
            tries: Tries::new(self.options),
        };
        for mirror in mirrors {
            match download(mirror).run(&mut slot).await {
                Ok(()) => return slot.ok_or_else(lost),
                Err(error) => tracing::warn!(%error, "mirror failed, going on to the next"),
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
    tries: Tries<'a>,
}

/// The file is always put back, except where its writer panicked.
fn lost() -> RegistryError {
    RegistryError::Protocol {
        what: "a layer".to_owned(),
        address: "here".to_owned(),
        problem: "its file was lost".to_owned(),
    }
}

impl Download<'_> {
    async fn run(&mut self, slot: &mut Option<BlobFile>) -> Result<(), RegistryError> {
        // What an earlier process left may be damaged; then it is fetched anew.
        let mut may_be_stale = slot.as_ref().is_some_and(|file| file.bytes() > 0);
        loop {
            let file = slot.take().ok_or_else(lost)?;
            let before = file.bytes();
            let (file, result) = self.attempt(file).await?;
            let got = file.bytes().saturating_sub(before);
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
                    }
                },
                Err(failure) => {
                    *slot = Some(file);
                    if got >= PROGRESS_BYTES {
                        self.tries.progressed();
                    }
                    self.tries.wait_after(failure).await?;
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

    /// One request and its body. The outer error is ours, the inner the
    /// registry's.
    async fn attempt(
        &self,
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
        &self,
        mut file: BlobFile,
        mut answer: Response,
    ) -> Result<(BlobFile, Result<(), Failure>), RegistryError> {
        let mut pending: Vec<Bytes> = Vec::new();
        let mut pending_bytes = 0;
        loop {
            let chunk = answer.chunk().await;
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(bytes)) = &chunk {
                pending_bytes += bytes.len();
                pending.push(bytes.clone());
            }
            let found = file.bytes() + pending_bytes as u64;
            if found > self.layer.size {
                let cause = ContentError::WrongSize {
                    what: format!("layer {}", self.layer.digest),
                    wanted: self.layer.size,
                    found,
                };
                let file = file.restart().await?;
                return Ok((file, Err(Failure::Final(self.content(cause)))));
            }
            if pending_bytes >= WRITE_BYTES || ended {
                file = file.append(std::mem::take(&mut pending)).await?;
                pending_bytes = 0;
                self.progress.advanced(&self.layer.digest, file.bytes());
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) if file.bytes() == self.layer.size => return Ok((file, Ok(()))),
                Ok(None) => {
                    let cause = ContentError::WrongSize {
                        what: format!("layer {}", self.layer.digest),
                        wanted: self.layer.size,
                        found: file.bytes(),
                    };
                    return Ok((file, Err(Failure::Passing(self.content(cause), None))));
                }
                Err(cause) => return Ok((file, Err(transport(self.endpoint, &cause)))),
            }
        }
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
