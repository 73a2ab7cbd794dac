//! The transport within one process: a call is a function call.
//!
//! It passes the bodies of requests and replies on unchanged, without buffering or copying
//! them. It must not look into them.

use std::collections::BTreeMap;
use std::sync::Arc;

use chain::LinkId;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{Refusal, RefusalReason, Registration, Reply, Request, Service, Transport};

/// Carries calls to services of the same process.
#[derive(Clone, Default)]
pub struct InProcess {
    offers: Arc<Mutex<Offers>>,
}

/// The services of each link.
#[derive(Default)]
struct Offers {
    by_link: BTreeMap<LinkId, Offer>,
    last_key: u64,
}

/// The services of one link; at least one.
#[derive(Default)]
struct Offer {
    services: Vec<(Key, Arc<dyn Service>)>,
    /// The service that the next call asks first. It advances, so that all get their share.
    turn: usize,
}

/// Tells registrations of the same link apart.
type Key = u64;

impl InProcess {
    /// A transport without services.
    pub fn new() -> InProcess {
        InProcess::default()
    }

    /// The services of a link, in the order in which to ask them.
    fn services(&self, id: LinkId) -> Vec<Arc<dyn Service>> {
        let mut offers = self.offers.lock();
        let Some(offer) = offers.by_link.get_mut(&id) else {
            return Vec::new();
        };
        offer.turn = (offer.turn + 1) % offer.services.len();
        let (later, first) = offer.services.split_at(offer.turn);
        first
            .iter()
            .chain(later)
            .map(|(_, service)| Arc::clone(service))
            .collect()
    }
}

impl Transport for InProcess {
    fn call(&self, id: LinkId, mut request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        Box::pin(async move {
            let mut reason = RefusalReason::NoRunner;
            for service in self.services(id) {
                let refusal = match service.call(request).await {
                    Ok(reply) => return Ok(reply),
                    Err(refusal) => refusal,
                };
                match refusal.reason {
                    RefusalReason::CannotStart(_) | RefusalReason::Malformed(_) => {
                        return Err(refusal);
                    }
                    RefusalReason::NoRunner => {}
                    other => reason = other,
                }
                request = refusal.request;
            }
            Err(Refusal { request, reason })
        })
    }

    fn serve(&self, id: LinkId, service: Arc<dyn Service>) -> Registration {
        let mut offers = self.offers.lock();
        offers.last_key += 1;
        let key = offers.last_key;
        let offer = offers.by_link.entry(id).or_default();
        offer.services.push((key, service));
        let withdraw = Withdraw {
            transport: self.clone(),
            id,
            key,
        };
        // A call is handed over at once, so none is ever on its way.
        Registration::new(withdraw, std::future::ready(()))
    }

    fn probe(&self, id: LinkId) -> BoxFuture<'_, Result<(), RefusalReason>> {
        let is_served = self.offers.lock().by_link.contains_key(&id);
        let served = is_served.then_some(()).ok_or(RefusalReason::NoRunner);
        Box::pin(std::future::ready(served))
    }
}

/// Removes a service when it is dropped.
struct Withdraw {
    transport: InProcess,
    id: LinkId,
    key: Key,
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        let mut offers = self.transport.offers.lock();
        let Some(offer) = offers.by_link.get_mut(&self.id) else {
            return;
        };
        let position = offer.services.iter().position(|(key, _)| *key == self.key);
        let service = position.map(|position| offer.services.remove(position));
        if offer.services.is_empty() {
            offers.by_link.remove(&self.id);
        }
        drop(offers);
        // After the lock is released, because dropping a service may run any code.
        drop(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conformance::{self, fake};

    #[tokio::test(start_paused = true)]
    async fn it_conforms() {
        conformance::all(&InProcess::new()).await;
    }

    #[tokio::test]
    async fn a_call_goes_past_those_who_are_busy_and_is_shared_among_the_rest() {
        let transport = InProcess::new();
        let id = fake::link_id();
        let _busy = transport.serve(id, fake::refusing(RefusalReason::Busy));
        let _gone = transport.serve(id, fake::refusing(RefusalReason::NoRunner));
        let _one = transport.serve(id, fake::saying("one"));
        let _two = transport.serve(id, fake::saying("two"));

        let mut said = Vec::new();
        for _ in 0..8 {
            let reply = transport.call(id, Request::new("")).await.unwrap();
            said.push(reply.body.collect().await.unwrap());
        }
        assert!(said.iter().any(|said| said == "one"), "{said:?}");
        assert!(said.iter().any(|said| said == "two"), "{said:?}");
    }

    #[tokio::test]
    async fn a_link_whose_services_are_all_withdrawn_leaves_nothing_behind() {
        let transport = InProcess::new();
        let id = fake::link_id();
        let registration = transport.serve(id, fake::echo());
        assert_eq!(transport.offers.lock().by_link.len(), 1);
        drop(registration);
        assert_eq!(transport.offers.lock().by_link.len(), 0);
    }
}
