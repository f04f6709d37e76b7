//! Requests that were applied, and what came of them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{RequestId, command::Applied};

/// The last [`REQUESTS_MAX`] requests with their outcomes, so that a retry is answered and not applied again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    outcomes: BTreeMap<RequestId, Applied>,
    order: VecDeque<RequestId>,
}

impl Requests {
    pub(super) fn remember(&mut self, request: RequestId, outcome: Applied) {
        if self.outcomes.insert(request, outcome).is_none() {
            self.order.push_back(request);
        }
        while self.order.len() > REQUESTS_MAX {
            let oldest = self.order.pop_front();
            oldest.map(|request| self.outcomes.remove(&request));
        }
    }

    pub(super) fn outcome(&self, request: RequestId) -> Option<&Applied> {
        self.outcomes.get(&request)
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
        assert_eq!(requests.order.len(), REQUESTS_MAX);
        assert_eq!(requests.outcomes.len(), REQUESTS_MAX);
    }
}
