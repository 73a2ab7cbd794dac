//! Reading and writing keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use chain::Link;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse,
};
use parking_lot::Mutex;

use super::failure::Failure;
use super::keys;
use super::session::Session;
use super::view::Position;
use crate::link_store::changes::Links;

/// Keys that are read at a time.
const PAGE_KEYS: i64 = 32;

/// The same where nothing but the keys is read.
const PAGE_KEYS_ONLY: i64 = 1000;

/// Bytes of a message from etcd: more than that many keys have, where etcd's
/// own bound on requests (1.5 MiB) is not raised.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How often to try to put a key that others change all the time.
const PUT_ATTEMPTS_MAX: usize = 10;

/// How many contents are remembered to have been skipped.
const SKIPPED_KEYS_MAX: usize = 1000;

/// What is kept in etcd.
pub(super) struct Store {
    pub(super) session: Session,
    /// Keys whose content is of no use, by the revision of that content.
    skipped: Mutex<BTreeSet<(Vec<u8>, i64)>>,
}

impl Store {
    pub(super) fn new(session: Session) -> Store {
        Store {
            session,
            skipped: Mutex::default(),
        }
    }

    /// All keys that begin so, as they were at that position.
    pub(super) async fn range(&self, prefix: &str) -> Result<(Position, Vec<KeyValue>), Failure> {
        self.range_with(prefix, GetOptions::new().with_limit(PAGE_KEYS))
            .await
    }

    /// The same without what they hold.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<KeyValue>, Failure> {
        let options = GetOptions::new()
            .with_keys_only()
            .with_limit(PAGE_KEYS_ONLY);
        Ok(self.range_with(prefix, options).await?.1)
    }

    async fn range_with(
        &self,
        prefix: &str,
        options: GetOptions,
    ) -> Result<(Position, Vec<KeyValue>), Failure> {
        let (mut start, end) = (prefix.as_bytes().to_vec(), keys::end_of(prefix));
        let mut entries = Vec::new();
        let mut position = None;
        loop {
            let revision = position.map_or(0, |position: Position| position.revision);
            let options = options
                .clone()
                .with_range(end.clone())
                .with_revision(revision);
            let ask = async |client: etcd_client::Client| {
                let mut kv = client
                    .kv_client()
                    .max_decoding_message_size(MESSAGE_BYTES_MAX);
                kv.get(start.clone(), Some(options.clone())).await
            };
            let mut page = self.session.call(ask).await?;
            let at = *position.get_or_insert(position_of(page.header()));
            let (is_more, page) = (page.more(), page.take_kvs());
            let Some(last) = page.last().filter(|_| is_more) else {
                entries.extend(page);
                return Ok((at, entries));
            };
            start = [last.key(), &[0]].concat();
            entries.extend(page);
        }
    }

    /// The links among these, without what is none.
    pub(super) fn links(&self, entries: &[KeyValue]) -> Links {
        let links = entries.iter().filter_map(|entry| self.link(entry));
        links.map(|link| (link.id(), link)).collect()
    }

    /// The link under this key, if it is one.
    pub(super) fn link(&self, entry: &KeyValue) -> Option<Arc<Link>> {
        match keys::link(entry.key(), entry.value()) {
            Ok(link) => Some(Arc::new(link)),
            Err(reason) => {
                self.skip(entry, &reason);
                None
            }
        }
    }

    /// What these keys hold, in their order; at most
    /// [`MISSING_MAX`](crate::link_store::MISSING_MAX), so that it fits a message.
    pub(super) async fn get(&self, keys: &[String]) -> Result<Vec<Option<KeyValue>>, Failure> {
        let ask = async |client: etcd_client::Client| {
            let mut kv = client
                .kv_client()
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            let gets = keys.iter().map(|key| TxnOp::get(key.as_str(), None));
            kv.txn(Txn::new().and_then(gets.collect::<Vec<_>>())).await
        };
        let answers = self.session.call(ask).await?.op_responses();
        let found = answers.into_iter().map(|answer| match answer {
            TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
            _ => None,
        });
        Ok(found.collect())
    }

    /// Whether the key is there.
    pub(super) async fn has(&self, key: &str) -> Result<bool, Failure> {
        let ask = async |mut client: etcd_client::Client| {
            let options = GetOptions::new().with_count_only();
            client.get(key, Some(options)).await
        };
        Ok(self.session.call(ask).await?.count() > 0)
    }

    /// Puts `value` where nothing is, or nothing that `read` can make sense of;
    /// gives what `read` makes of what is there from now on, and whether that was
    /// put now.
    pub(super) async fn put_if_absent<T>(
        &self,
        key: &str,
        value: &str,
        read: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<(T, bool), Failure> {
        let mut revision = 0;
        for _ in 0..PUT_ATTEMPTS_MAX {
            let ask = async |mut client: etcd_client::Client| {
                let is_as_seen = Compare::mod_revision(key, CompareOp::Equal, revision);
                let txn = Txn::new()
                    .when([is_as_seen])
                    .and_then([TxnOp::put(key, value, None)])
                    .or_else([TxnOp::get(key, None)]);
                client.txn(txn).await
            };
            let answer = self.session.call(ask).await?;
            if answer.succeeded() {
                let read = read(value.as_bytes()).map_err(Failure::refused)?;
                return Ok((read, true));
            }
            let found = answer.op_responses().into_iter().find_map(|it| match it {
                TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
                _ => None,
            });
            let Some(found) = found else {
                revision = 0;
                continue;
            };
            match read(found.value()) {
                Ok(read) => return Ok((read, false)),
                Err(reason) => {
                    tracing::warn!("writing {} in etcd anew: {reason}", shown_key(&found));
                    revision = found.mod_revision();
                }
            }
        }
        Err(Failure::refused(format!(
            "{key} was changed by others {PUT_ATTEMPTS_MAX} times while it was put; find out who does that"
        )))
    }

    /// Says that this content is of no use, once.
    pub(super) fn skip(&self, entry: &KeyValue, reason: &str) {
        let mut skipped = self.skipped.lock();
        if skipped.len() >= SKIPPED_KEYS_MAX {
            skipped.clear();
        }
        if skipped.insert((entry.key().to_vec(), entry.mod_revision())) {
            tracing::warn!("skipping {} in etcd: {reason}", shown_key(entry));
        }
    }
}

fn shown_key(entry: &KeyValue) -> String {
    keys::shown(entry.key())
}

/// Where etcd's data stood when it answered.
pub(super) fn position_of(header: Option<&ResponseHeader>) -> Position {
    Position {
        cluster: header.map_or(0, ResponseHeader::cluster_id),
        revision: header.map_or(0, ResponseHeader::revision),
    }
}
