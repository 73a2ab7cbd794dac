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

/// How many keys to read at a time, with their values.
const PAGE_KEYS: i64 = 32;

/// How many keys to read at a time, without their values.
const PAGE_KEYS_ONLY: i64 = 1000;

/// The largest message from etcd: more than [`PAGE_KEYS`] values of the largest size that
/// etcd accepts by default (1.5 MiB).
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How many times to try to put a key that others keep changing.
const PUT_ATTEMPTS_MAX: usize = 10;

/// How many skipped values to remember, so that each is logged once.
const SKIPPED_KEYS_MAX: usize = 1000;

/// Reads and writes keys in etcd.
pub(super) struct Store {
    pub(super) session: Session,
    /// The keys whose values were skipped, with the revision of the value.
    skipped: Mutex<BTreeSet<(Vec<u8>, i64)>>,
}

impl Store {
    pub(super) fn new(session: Session) -> Store {
        Store {
            session,
            skipped: Mutex::default(),
        }
    }

    /// All keys with that prefix, all as of the returned position.
    pub(super) async fn range(&self, prefix: &str) -> Result<(Position, Vec<KeyValue>), Failure> {
        self.range_with(prefix, GetOptions::new().with_limit(PAGE_KEYS))
            .await
    }

    /// The same without the values.
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

    /// The links in these entries; skips malformed ones.
    pub(super) fn links(&self, entries: &[KeyValue]) -> Links {
        let links = entries.iter().filter_map(|entry| self.link(entry));
        links.map(|link| (link.id(), link)).collect()
    }

    /// The link in this entry; skips it if it is malformed.
    pub(super) fn link(&self, entry: &KeyValue) -> Option<Arc<Link>> {
        match keys::link(entry.key(), entry.value()) {
            Ok(link) => Some(Arc::new(link)),
            Err(reason) => {
                self.skip(entry, &reason);
                None
            }
        }
    }

    /// The entries of these keys, in the same order. At most
    /// [`MISSING_MAX`](crate::link_store::MISSING_MAX) keys, so that the answer fits a message.
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

    /// Whether the key exists.
    pub(super) async fn has(&self, key: &str) -> Result<bool, Failure> {
        let ask = async |mut client: etcd_client::Client| {
            let options = GetOptions::new().with_count_only();
            client.get(key, Some(options)).await
        };
        Ok(self.session.call(ask).await?.count() > 0)
    }

    /// Puts `value` under the key unless the key already has a value that `read` accepts.
    /// Returns what `read` makes of the value that is now there, and whether this call has put
    /// it.
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
                    tracing::warn!("replacing {} in etcd: {reason}", shown_key(&found));
                    revision = found.mod_revision();
                }
            }
        }
        Err(Failure::refused(format!(
            "others changed {key} {PUT_ATTEMPTS_MAX} times while it was put; find out who does that"
        )))
    }

    /// Logs, once for each value, that it is skipped.
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

/// The position of etcd's data when it answered.
pub(super) fn position_of(header: Option<&ResponseHeader>) -> Position {
    Position {
        cluster: header.map_or(0, ResponseHeader::cluster_id),
        revision: header.map_or(0, ResponseHeader::revision),
    }
}
