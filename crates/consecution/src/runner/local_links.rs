//! The links that a runner serves, and the pools of their pipelines: one pool for each
//! link alone, and pools for consecutive links that are called together.
//!
//! It takes the pipelines for a call from the pools. [`sequences`](super::sequences)
//! decides which links are kept warm together; this module carries that out. It must not
//! know what work a pipeline is given.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chain::{Link, LinkId, Warm};
use parking_lot::Mutex;
use tokio::time::{Instant, interval, timeout};

use super::hints::Means;
use super::metrics::LinkMetrics;
use super::pipeline::Mode;
use super::pool::{Capacity, Pool, TakeError};
use super::pool_state::{self, Moment, Warmth};
use super::sequences::{Border, Change, Sequence, Sequences, Step, cut};
use super::service::{PipelineStarter, Starts, WarmPipeline};
use super::stderr_log::StderrLog;
use super::worker::ZygoteHandle;
use crate::transport::{FOLLOWING_MAX, Following};
use taking::{Planned, take, take_beside};

mod taking;

pub(super) use taking::Segment;

/// How often to look for sequences and pools that are not used any more: they have been
/// idle for minutes then, and some seconds more cost only the memory that they take.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The most pools of several links that are not kept warm, for calls whose sequence has no
/// warm pool. If there are that many, further such calls run their links separately.
const COLD_POOLS_MAX: usize = 64;

/// How long a call waits for room for its whole pipeline. After that it runs its first link
/// alone, as soon as there is room for that. Otherwise calls could deadlock: the calls that
/// hold the room may themselves wait for a link that is queued behind this call.
const WHOLE_WAIT_MAX: Duration = Duration::from_millis(500);

/// A link that is served here.
pub(super) struct LocalLink {
    pub(super) id: LinkId,
    pub(super) link: Arc<Link>,
    pub(super) zygote: Arc<ZygoteHandle>,
    pub(super) metrics: Arc<LinkMetrics>,
    /// What hints about its failures speak of.
    pub(super) means: Arc<Means>,
    /// Logs what it writes to standard error, if that is wanted.
    pub(super) stderr_log: Option<Arc<StderrLog>>,
    pub(super) mode: Mode,
}

impl LocalLink {
    /// Where no link has a reserve, none has one of its own.
    fn border(&self, has_reserves: bool) -> Border {
        Border {
            network: self.link.network,
            stores_input: self.mode.stores_input,
            shows_output: self.mode.leaves_file || self.mode.output_bytes_max.is_some(),
            has_own_reserve: has_reserves && self.own_reserve().is_some(),
        }
    }

    /// How many of its processes are to be in reserve, if it says so.
    fn own_reserve(&self) -> Option<usize> {
        match self.link.warm {
            Warm::Count(count) => Some(count.into()),
            Warm::Default | Warm::Late => None,
        }
    }
}

/// The settings for new pools.
pub(super) struct Making {
    pub(super) capacity: Capacity<WarmPipeline>,
    pub(super) config: pool_state::Config,
    /// The most processes, over all links.
    pub(super) processes_max: usize,
    /// The most links of a pipeline: there is room for that many processes.
    pub(super) links_max: usize,
    pub(super) starts: Starts,
}

/// There is no room for all processes that links are to have in reserve.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReserveShortage {
    /// So many are asked for, by all links that say a number.
    pub(super) asked: usize,
    /// So many processes there may be, of all links.
    pub(super) most: usize,
}

/// All links that a runner serves. Clones share the state.
#[derive(Clone)]
pub(super) struct LocalLinks(Arc<Shared>);

struct Shared {
    making: Making,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: HashMap<LinkId, Served>,
    /// The pools of several consecutive links.
    pools: HashMap<Sequence, Arc<Pool<WarmPipeline>>>,
    sequences: Sequences,
    /// Pools to drop after the lock is released.
    gone: Vec<Arc<Pool<WarmPipeline>>>,
}

/// A link, and the pool of pipelines of this link alone. Clones share the pool.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) link: Arc<LocalLink>,
    pub(super) alone: Arc<Pool<WarmPipeline>>,
}

/// Which pools the links of a call may come from.
pub(super) struct Plan {
    /// The links one by one, as far as this runner serves them.
    links: Vec<(Served, Step)>,
    /// The same links in as few pipelines as is best now.
    joined: Vec<Planned>,
}

impl LocalLinks {
    /// Serves no links yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(making: Making) -> LocalLinks {
        let shared = Arc::new(Shared {
            making,
            began: Instant::now(),
            state: Mutex::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&shared)));
        LocalLinks(shared)
    }

    /// Serves a link, alone and with others, until the returned membership is dropped.
    pub(super) fn enter(&self, link: LocalLink) -> Membership {
        let id = link.id;
        let link = Arc::new(link);
        let sequence = Sequence::of_one(id);
        let alone = self.0.making.pool(vec![Arc::clone(&link)], &sequence);
        let served = Served {
            link,
            alone: Arc::new(alone),
        };
        self.0.change(|state, _| {
            // A link that was removed and put again may enter before its old self has left.
            let mut changes = state.leave(id).0;
            state.links.insert(id, served.clone());
            changes.extend(state.sequences.enter(id));
            ((), changes)
        });
        Membership {
            links: self.clone(),
            served,
        }
    }

    /// Whether the links that say how many processes they have in reserve ask for more than
    /// there may be.
    pub(super) fn reserve_shortage(&self) -> Option<ReserveShortage> {
        let making = &self.0.making;
        if making.config.floor == 0 {
            return None;
        }
        let state = self.0.state.lock();
        let reserves = state.links.values();
        let reserves = reserves.filter_map(|served| served.link.own_reserve());
        let (asked, most) = (reserves.sum(), making.processes_max);
        (asked > most).then_some(ReserveShortage { asked, most })
    }

    /// Plans a call of a link and of the links that follow, as far as this runner serves
    /// them.
    pub(super) fn plan(&self, first: &Served, following: &[Following]) -> Plan {
        self.0.plan(first, following)
    }
}

impl Plan {
    /// The links of the call that are served here: the called one, and those that follow up
    /// to the first one that is not served.
    pub(super) fn links(&self) -> impl Iterator<Item = &LocalLink> + Clone {
        self.links.iter().map(|(served, _)| &*served.link)
    }

    /// Takes pipelines for the call, as far as there is room. A call never waits for room
    /// while it holds a pipeline.
    ///
    /// # Errors
    /// There is no pipeline for the first link.
    pub(super) async fn take(&self) -> Result<Vec<Segment>, TakeError> {
        let error = match take_beside(&self.joined).await {
            Ok(taken) => return Ok(taken),
            Err(error) => error,
        };
        // If a resource is lacking, it is lacking for a part of the pipeline too; and a
        // single link has no smaller part.
        let is_short = matches!(error, TakeError::Starved(_));
        let has_parts = self.joined.len() < self.links.len();
        if is_short || !(has_parts || error == TakeError::Busy) {
            return Err(error);
        }
        let alone = self.alone();
        if has_parts {
            match take_beside(&alone).await {
                Err(TakeError::Busy) => {}
                taken => return taken,
            }
            if error == TakeError::Busy
                && let Ok(Ok(taken)) = timeout(WHOLE_WAIT_MAX, take(&self.joined)).await
            {
                return Ok(taken);
            }
        }
        take(&alone).await
    }

    /// Each link from its own pool.
    fn alone(&self) -> Vec<Planned> {
        let links = self.links.iter();
        links
            .map(|(served, step)| Planned::new(&served.alone, step))
            .collect()
    }
}

impl Shared {
    fn plan(&self, first: &Served, following: &[Following]) -> Plan {
        self.change(|state, now| {
            let mut links = vec![(first.clone(), Step::new(first.link.id, &[]))];
            let here = state.links.get(&first.link.id);
            // A link that is leaving is run alone.
            if here.is_some_and(|here| Arc::ptr_eq(&here.link, &first.link)) {
                links.extend(following.iter().take(FOLLOWING_MAX).map_while(|next| {
                    let served = state.links.get(&next.id)?.clone();
                    Some((served, Step::new(next.id, &next.accepted)))
                }));
            }
            let has_reserves = self.making.config.floor > 0;
            let borders: Vec<_> = links
                .iter()
                .map(|(served, _)| served.link.border(has_reserves))
                .collect();
            let (mut joined, mut changes) = (Vec::new(), Vec::new());
            for piece in cut(&borders, self.making.links_max) {
                let links = &links[piece];
                let steps = links.iter().map(|(_, step)| step.clone()).collect();
                let sequence = Sequence::new(steps);
                changes.extend(state.sequences.asked(&sequence, now));
                match self.pool_for(state, &sequence, links) {
                    Some(pool) => joined.push(Planned::new(&pool, &links[0].1)),
                    None => {
                        joined.extend(links.iter().map(|(of, step)| Planned::new(&of.alone, step)))
                    }
                }
            }
            (Plan { links, joined }, changes)
        })
    }

    /// The pool from which consecutive links should come as one pipeline; `None` if each
    /// link should come from its own pool.
    fn pool_for(
        &self,
        state: &mut State,
        sequence: &Sequence,
        links: &[(Served, Step)],
    ) -> Option<Arc<Pool<WarmPipeline>>> {
        if let [(alone, _)] = links {
            return Some(Arc::clone(&alone.alone));
        }
        let pool = state.pools.get(sequence);
        let whole = pool.map_or(Warmth::Cold, |pool| pool.warmth());
        if whole < Warmth::Ready {
            let parts = links.iter().map(|(of, _)| of.alone.warmth());
            if parts.min() > Some(whole) {
                // Idle pipelines of single links that the runner joins are faster than
                // starting new ones.
                return None;
            }
        }
        if pool.is_none() && state.pools.len() >= state.sequences.joined() + COLD_POOLS_MAX {
            state.remove_unused();
            if state.pools.len() >= state.sequences.joined() + COLD_POOLS_MAX {
                return None;
            }
        }
        let links = links.iter().map(|(of, _)| Arc::clone(&of.link)).collect();
        Some(self.open(state, sequence, links))
    }

    /// The pool of a sequence of several links; creates it if there is none.
    fn open(
        &self,
        state: &mut State,
        sequence: &Sequence,
        links: Vec<Arc<LocalLink>>,
    ) -> Arc<Pool<WarmPipeline>> {
        let pool = (state.pools.entry(sequence.clone()))
            .or_insert_with(|| Arc::new(self.making.pool(links, sequence)));
        Arc::clone(pool)
    }

    /// Changes the state, and carries out the resulting changes of pools.
    fn change<T>(&self, change: impl FnOnce(&mut State, Moment) -> (T, Vec<Change>)) -> T {
        let mut state = self.state.lock();
        let (result, changes) = change(&mut state, self.began.elapsed());
        for Change { sequence, is_warm } in changes {
            self.set_warm(&mut state, &sequence, is_warm);
        }
        let gone = std::mem::take(&mut state.gone);
        drop(state);
        drop(gone);
        result
    }

    fn set_warm(&self, state: &mut State, sequence: &Sequence, is_warm: bool) {
        let floor = self.making.config.floor;
        if floor == 0 {
            return;
        }
        let floor = if is_warm { floor } else { 0 };
        if let [alone] = sequence.steps() {
            if let Some(served) = state.links.get(&alone.id) {
                // It is not a part of warm sequences, so it is always warm alone.
                let floor = served.link.own_reserve().unwrap_or(floor);
                served.alone.set_floor(floor);
            }
            return;
        }
        let links = sequence
            .ids()
            .map(|id| Some(Arc::clone(&state.links.get(&id)?.link)));
        match links.collect::<Option<Vec<_>>>() {
            Some(links) if is_warm => self.open(state, sequence, links).set_floor(floor),
            _ => {
                if let Some(pool) = state.pools.get(sequence) {
                    pool.set_floor(0);
                }
            }
        }
    }
}

impl State {
    /// Removes a link, and drains the pools of pipelines that it is a part of.
    fn leave(&mut self, id: LinkId) -> (Vec<Change>, Vec<Arc<Pool<WarmPipeline>>>) {
        if self.links.remove(&id).is_none() {
            return (Vec::new(), Vec::new());
        }
        let changes = self.sequences.leave(id);
        let is_in = |sequence: &Sequence, _: &mut Arc<Pool<WarmPipeline>>| {
            sequence.ids().any(|of| of == id)
        };
        let pools: Vec<_> = self.pools.extract_if(is_in).map(|(_, pool)| pool).collect();
        for pool in &pools {
            pool.drain();
        }
        self.gone.extend(pools.iter().cloned());
        (changes, pools)
    }

    /// Removes the pools that are not warm and that nobody uses.
    fn remove_unused(&mut self) {
        let State {
            pools, sequences, ..
        } = self;
        let is_unused = |sequence: &Sequence, pool: &mut Arc<Pool<WarmPipeline>>| {
            // A call that is about to take from a pool holds it, too.
            let is_held = Arc::strong_count(pool) > 1;
            !sequences.is_warm(sequence) && !is_held && pool.counts().is_unused()
        };
        let removed = pools.extract_if(is_unused).map(|(_, pool)| pool);
        self.gone.extend(removed);
    }
}

impl Making {
    /// A new pool of these consecutive links, without idle pipelines.
    fn pool(&self, links: Vec<Arc<LocalLink>>, sequence: &Sequence) -> Pool<WarmPipeline> {
        let config = pool_state::Config {
            floor: 0,
            ..self.config.clone()
        };
        let ids: Vec<_> = sequence.ids().collect();
        let accepted = sequence
            .steps()
            .iter()
            .skip(1)
            .map(|step| step.accepted.clone());
        let starter = PipelineStarter {
            links: links.into(),
            accepted: accepted.chain([Vec::new()]).collect(),
            starts: self.starts.clone(),
        };
        Pool::new(ids, starter, &config, &self.capacity)
    }
}

/// Regularly removes sequences and pools that are not used any more.
async fn sweep(shared: Weak<Shared>) {
    let mut interval = interval(SWEEP_EVERY);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.change(|state, now| {
            let changes = state.sequences.sweep(now);
            state.remove_unused();
            ((), changes)
        });
    }
}

/// Keeps a link served until it is dropped.
pub(super) struct Membership {
    links: LocalLinks,
    served: Served,
}

impl Membership {
    pub(super) fn served(&self) -> &Served {
        &self.served
    }

    /// Stops serving the link: no call is joined to it any more, and idle pipelines that it
    /// is a part of are dropped. Returns all of its pools; calls may still use them.
    pub(super) fn leave(self) -> Vec<Arc<Pool<WarmPipeline>>> {
        let mut pools = self.take_leave();
        pools.push(Arc::clone(&self.served.alone));
        pools
    }

    fn take_leave(&self) -> Vec<Arc<Pool<WarmPipeline>>> {
        let link = &self.served.link;
        self.links.0.change(|state, _| {
            // The link may have been put again meanwhile.
            let here = state.links.get(&link.id);
            if !here.is_some_and(|here| Arc::ptr_eq(&here.link, link)) {
                return (Vec::new(), Vec::new());
            }
            let (changes, pools) = state.leave(link.id);
            (pools, changes)
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        drop(self.take_leave());
    }
}
