//! An answer's body: read piece by piece, at a pace, up to a bound.
//!
//! A connection on which a byte comes now and then is never idle, and would last for
//! ever. So each 64 KiB have a time in which they must come, long enough for several
//! downloads that share a link of 20 kB a second.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::time::timeout;

use super::RegistryError;
use super::endpoint::Endpoint;
use super::failure::{Failure, transport};
use crate::manifest::ContentError;

/// What must come within [`Timeouts::pace`](super::Timeouts::pace).
const PACE_BYTES: usize = 64 << 10;

/// A body that is being read.
pub(super) struct Body<'e> {
    endpoint: &'e Endpoint,
    answer: Response,
    /// Bytes that came since the pace was last kept, and for how long they were
    /// waited for. What we do between two pieces is not the registry's fault.
    bytes: usize,
    waited: Duration,
}

impl<'e> Body<'e> {
    pub(super) fn new(endpoint: &'e Endpoint, answer: Response) -> Self {
        Self {
            endpoint,
            answer,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// The next piece, `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let patience = self.endpoint.timeouts.pace;
        let began = Instant::now();
        let left = patience.saturating_sub(self.waited);
        let Ok(chunk) = timeout(left, self.answer.chunk()).await else {
            let error = RegistryError::TooSlow {
                address: self.endpoint.address.clone(),
                bytes: PACE_BYTES,
                within: patience,
            };
            return Err(Failure::Passing(error, None));
        };
        let chunk = chunk.map_err(|cause| transport(self.endpoint, cause))?;
        self.waited += began.elapsed();
        self.bytes += chunk.as_ref().map_or(0, Bytes::len);
        if self.bytes >= PACE_BYTES {
            (self.bytes, self.waited) = (0, Duration::ZERO);
        }
        Ok(chunk)
    }
}

/// A whole body of bounded size.
pub(super) async fn read_bounded(
    endpoint: &Endpoint,
    what: &'static str,
    answer: Response,
    bytes_max: u64,
) -> Result<Bytes, Failure> {
    let mut body = Body::new(endpoint, answer);
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.chunk().await? {
        let found = whole.len() as u64 + chunk.len() as u64;
        if found > bytes_max {
            return Err(Failure::Final(RegistryError::Content {
                address: endpoint.address.clone(),
                cause: ContentError::TooLarge {
                    what,
                    unit: "bytes",
                    found,
                    most: bytes_max,
                },
            }));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}
