//! Requests that were applied, and what came of them.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, Hasher as StdHasher},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct as _};

use super::{
    RequestId,
    command::Applied,
    digest::{Hasher, Octets},
    ring::Ring,
};

/// The last [`REQUESTS_MAX`] requests with their outcomes, so that a retry is answered and not applied again.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    order: Ring<(RequestId, Applied), REQUESTS_MAX>,
    /// Which of all that ever came each one is. Looked up only, and never iterated over.
    numbers: HashMap<RequestId, u64, BuildHasherDefault<Mix>>,
    /// How many came before the oldest that is remembered.
    before: u64,
    hasher: Hasher,
}

impl Requests {
    pub(super) fn remember(&mut self, request: RequestId, outcome: Applied) {
        let hash = self.hasher.hash(&(Octets(request.as_bytes()), &outcome));
        let number = self.before + self.order.iter().len() as u64;
        let known = self.numbers.insert(request, number);
        debug_assert!(known.is_none(), "a request is applied once: {request:?}");
        if let Some((oldest, _)) = self.order.push((request, outcome), hash) {
            self.numbers.remove(&oldest);
            self.before += 1;
        }
    }

    /// Returns a hash of all requests with their outcomes, in order.
    pub(super) fn sum(&self) -> u128 {
        self.order.sum()
    }

    pub(super) fn outcome(&self, request: RequestId) -> Option<&Applied> {
        let number = self.numbers.get(&request)?;
        let place = usize::try_from(number - self.before).ok()?;
        self.order.get(place).map(|(_, outcome)| outcome)
    }
}

/// Spreads identities that are random already. Somebody who draws his own so that they collide makes a look-up at worst a
/// search among [`REQUESTS_MAX`].
#[derive(Clone, Debug, Default)]
struct Mix(u64);

impl StdHasher for Mix {
    fn write(&mut self, octets: &[u8]) {
        for octets in octets.chunks(8) {
            let mut word = [0; 8];
            word[..octets.len()].copy_from_slice(octets);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The upper bits choose among what the lower ones chose: both have to be good.
        let mixed = (self.0 ^ word).wrapping_mul(MULTIPLIER);
        self.0 = mixed ^ mixed.rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The golden ratio over 2^64, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Stored as the outcomes by request, and the requests in order.
impl Serialize for Requests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let outcomes: BTreeMap<_, _> = self
            .order
            .iter()
            .map(|(id, outcome)| (id, outcome))
            .collect();
        let order: Vec<_> = self.order.iter().map(|(id, _)| id).collect();
        let mut stored = serializer.serialize_struct("Requests", 2)?;
        stored.serialize_field("outcomes", &outcomes)?;
        stored.serialize_field("order", &order)?;
        stored.end()
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Requests")]
        struct Stored {
            outcomes: BTreeMap<RequestId, Applied>,
            order: Vec<RequestId>,
        }
        let Stored {
            mut outcomes,
            order,
        } = Stored::deserialize(deserializer)?;
        let mut requests = Self::default();
        for request in order {
            let outcome = outcomes.remove(&request);
            let outcome = outcome.ok_or_else(|| de::Error::custom("a request without outcome"))?;
            requests.remember(request, outcome);
        }
        if outcomes.is_empty() {
            Ok(requests)
        } else {
            Err(de::Error::custom("an outcome of no request"))
        }
    }
}

/// How many requests are remembered: a client gives up long before as many others were applied.
pub(super) const REQUESTS_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    #[test]
    fn the_oldest_request_is_forgotten_first() {
        let mut requests = Requests::default();
        let id = |n: usize| RequestId::from_bytes((n as u128).to_be_bytes());
        for n in 0..=REQUESTS_MAX {
            requests.remember(id(n), Ok(Outcome::Done));
        }
        assert!(requests.outcome(id(0)).is_none());
        assert!(requests.outcome(id(1)).is_some());
        assert_eq!(requests.order.iter().len(), REQUESTS_MAX);
        assert_eq!(requests.numbers.len(), REQUESTS_MAX);
    }
}
