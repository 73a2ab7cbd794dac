//! Taking what a call needs out of the pools.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{join_all, maybe_done};

use super::super::pool::{Pool, TakeError, Taken};
use super::super::sequences::Step;
use super::super::service::WarmPipeline;

/// A pipeline that was taken for a call: for all of its links, or for some in a row.
pub(in crate::runner) struct Segment {
    pub(in crate::runner) taken: Taken<WarmPipeline>,
    /// The codes of the link before it that complete its input.
    pub(in crate::runner) accepted: Vec<u8>,
}

/// Where a segment of a call is to come from.
pub(super) struct Planned {
    pub(super) pool: Arc<Pool<WarmPipeline>>,
    pub(super) accepted: Vec<u8>,
}

impl Planned {
    /// From that pool, with this as its first link.
    pub(super) fn new(pool: &Arc<Pool<WarmPipeline>>, first: &Step) -> Planned {
        Planned {
            pool: Arc::clone(pool),
            accepted: first.accepted.clone(),
        }
    }
}

/// Takes the first one, however long that takes, and then of the others what there is room
/// for.
pub(super) async fn take(planned: &[Planned]) -> Result<Vec<Segment>, TakeError> {
    let Some((first, others)) = planned.split_first() else {
        return Err(TakeError::Busy);
    };
    let mut taken = vec![Segment {
        taken: first.pool.take().await?,
        accepted: first.accepted.clone(),
    }];
    if !others.is_empty() {
        // Why not, their own call will be told.
        taken.extend(take_beside(others).await.unwrap_or_default());
    }
    Ok(taken)
}

/// Takes one after the other, as far as there is room at once.
///
/// # Errors
/// Why not the first one.
pub(super) async fn take_beside(planned: &[Planned]) -> Result<Vec<Segment>, TakeError> {
    let mut takes = Vec::new();
    for Planned { pool, accepted } in planned {
        // Queues for all at once: a call's processes start in parallel, and calls finish
        // in order.
        let mut take = Box::pin(maybe_done(pool.take_beside()));
        let _ = take.as_mut().now_or_never();
        let is_refused = matches!(take.as_mut().output_mut(), Some(Err(_)));
        takes.push((take, accepted));
        if is_refused {
            break;
        }
    }
    join_all(takes.iter_mut().map(|(take, _)| take)).await;
    let mut segments = Vec::new();
    for (take, accepted) in &mut takes {
        match take.as_mut().take_output() {
            Some(Ok(taken)) => segments.push(Segment {
                taken,
                accepted: accepted.clone(),
            }),
            // Why not, their own call will be told.
            _ if !segments.is_empty() => break,
            Some(Err(error)) => return Err(error),
            None => return Err(TakeError::Busy),
        }
    }
    Ok(segments)
}
