//! Forwarded answers, kept until they expire.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use overlay_core::Instant;

use crate::{config::CacheConfig, reply::Reply};

/// What was asked upstream: name in small letters, type, and the flags that change the answer.
pub(crate) type Key = Arc<[u8]>;

/// A bounded set of answers. When it is full, the one that expires first goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<Key, Entry>,
    expiries: BTreeSet<(Instant, Key)>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    reply: Arc<Reply>,
    stored: Instant,
    expires: Instant,
}

impl Cache {
    /// Keeps an answer, if it may be kept and there is room.
    pub(crate) fn insert(
        &mut self,
        config: &CacheConfig,
        now: Instant,
        key: &Key,
        reply: &Arc<Reply>,
    ) {
        let size = cost(key, reply);
        self.remove(key);
        if reply.lifetime.is_zero() || config.entries_max == 0 || size > config.bytes_max {
            return;
        }
        let expires = now + reply.lifetime;
        while let Some((first, oldest)) = self.expiries.first().cloned() {
            let full =
                self.entries.len() >= config.entries_max || self.bytes + size > config.bytes_max;
            if first > now && !full {
                break;
            }
            self.remove(&oldest);
        }
        self.bytes += size;
        self.expiries.insert((expires, Arc::clone(key)));
        let entry = Entry {
            reply: Arc::clone(reply),
            stored: now,
            expires,
        };
        self.entries.insert(Arc::clone(key), entry);
    }

    /// Returns the answer and its age in whole seconds.
    pub(crate) fn get(&self, now: Instant, key: &[u8]) -> Option<(&Arc<Reply>, u32)> {
        let entry = self.entries.get(key).filter(|entry| entry.expires > now)?;
        let age = now.duration_since(entry.stored).as_secs();
        Some((&entry.reply, u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns how many answers there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how much memory they take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.bytes -= cost(&key, &entry.reply);
            self.expiries.remove(&(entry.expires, key));
        }
    }
}

/// An entry's memory: the answer, the key, and its places in both indexes.
fn cost(key: &[u8], reply: &Reply) -> usize {
    reply.size() + key.len() + 2 * size_of::<(Instant, Key)>() + size_of::<Entry>()
}
