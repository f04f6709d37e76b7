//! Requests that were applied, and what came of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{RequestId, command::Applied, digest::Hasher, ring::Ring};

/// The last [`REQUESTS_MAX`] requests with their outcomes, so that a retry is answered and not applied again.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Requests {
    outcomes: BTreeMap<RequestId, Applied>,
    order: Ring<RequestId, REQUESTS_MAX>,
    #[serde(skip)]
    hasher: Hasher,
}

impl Requests {
    pub(super) fn remember(&mut self, request: RequestId, outcome: Applied) {
        let hash = self.hasher.hash(&(request, &outcome));
        let known = self.outcomes.insert(request, outcome);
        debug_assert!(known.is_none(), "a request is applied once: {request:?}");
        if let Some(oldest) = self.order.push(request, hash) {
            self.outcomes.remove(&oldest);
        }
    }

    /// Returns a hash of all requests with their outcomes, in order.
    pub(super) fn sum(&self) -> u128 {
        self.order.sum()
    }

    pub(super) fn outcome(&self, request: RequestId) -> Option<&Applied> {
        self.outcomes.get(&request)
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
        assert_eq!(requests.outcomes.len(), REQUESTS_MAX);
    }
}
