//! Takes the pipelines for a call from the pools.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{join_all, maybe_done};

use super::super::pool::{Pool, TakeError, Taken};
use super::super::sequences::Step;
use super::super::service::WarmPipeline;

/// A pipeline that was taken for all links of a call, or for some consecutive ones.
pub(in crate::runner) struct Segment {
    pub(in crate::runner) taken: Taken<WarmPipeline>,
    /// The exit codes of the link before it with which its input is complete.
    pub(in crate::runner) accepted: Vec<u8>,
}

/// The pool that a segment of a call will come from.
pub(super) struct Planned {
    pub(super) pool: Arc<Pool<WarmPipeline>>,
    pub(super) accepted: Vec<u8>,
}

impl Planned {
    /// A segment from this pool, whose first link is `first`.
    pub(super) fn new(pool: &Arc<Pool<WarmPipeline>>, first: &Step) -> Planned {
        Planned {
            pool: Arc::clone(pool),
            accepted: first.accepted.clone(),
        }
    }
}

/// Takes the first pipeline, waiting for room, and then as many of the others as there is
/// room for at once.
pub(super) async fn take(planned: &[Planned]) -> Result<Vec<Segment>, TakeError> {
    let Some((first, others)) = planned.split_first() else {
        return Err(TakeError::Busy);
    };
    let mut taken = vec![Segment {
        taken: first.pool.take().await?,
        accepted: first.accepted.clone(),
    }];
    if !others.is_empty() {
        // If this fails, the portal calls these links itself and gets the reason then.
        taken.extend(take_beside(others).await.unwrap_or_default());
    }
    Ok(taken)
}

/// Takes as many pipelines, from the first on, as there is room for at once.
///
/// # Errors
/// The first pipeline cannot be taken, for this reason.
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
            // The portal calls the rest itself and gets the reason then.
            _ if !segments.is_empty() => break,
            Some(Err(error)) => return Err(error),
            None => return Err(TakeError::Busy),
        }
    }
    Ok(segments)
}
