//! Whether and when there is another task after one has ended.

use std::{collections::VecDeque, time::Duration};

use overlay_core::{Instant, TaskId};

use crate::{
    api::{RestartCondition, RestartPolicy, TaskState},
    state::TaskRecord,
};

/// The restarts of one slot.
#[derive(Debug)]
pub(super) struct RestartLog {
    /// The version of the spec that they are of: a changed service starts anew.
    spec_version: u64,
    restarts: u32,
    failures: u32,
    /// The last restarts, and whether each followed a failure.
    last: VecDeque<(Instant, bool)>,
    decided: Option<(TaskId, Decision)>,
}

/// What follows the end of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Another task.
    Restart {
        /// When it is due.
        due: Instant,
        /// How often that was done within the window.
        attempt: u32,
    },
    /// Nothing.
    Rest,
}

impl RestartLog {
    /// Starts with what is left of a slot's history; when that happened is not known, so it counts as just now.
    pub(super) fn new<'a>(
        now: Instant,
        spec_version: u64,
        history: impl Iterator<Item = &'a TaskRecord>,
    ) -> Self {
        let mut log = Self {
            spec_version,
            restarts: 0,
            failures: 0,
            last: VecDeque::new(),
            decided: None,
        };
        for task in history {
            let own = task.spec_version == spec_version && ended_by_itself(task.status.state);
            if own {
                log.note(now, is_failure(task.status.state));
            }
        }
        log
    }

    pub(super) fn spec_version(&self) -> u64 {
        self.spec_version
    }

    /// Decides what follows the end of `task`, once.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        ended_at: Instant,
        policy: &RestartPolicy,
        task: &TaskRecord,
    ) -> Decision {
        if let Some((decided, decision)) = self.decided
            && decided == task.id
        {
            return decision;
        }
        let decision = self.judge(now, ended_at, policy, task.status.state);
        self.decided = Some((task.id, decision));
        decision
    }

    fn judge(
        &mut self,
        now: Instant,
        ended_at: Instant,
        policy: &RestartPolicy,
        state: TaskState,
    ) -> Decision {
        let failed = is_failure(state);
        let another = match policy.condition {
            _ if !ended_by_itself(state) => true,
            RestartCondition::None => false,
            RestartCondition::OnFailure => failed,
            RestartCondition::Any => true,
        };
        let (restarts, failures) = self.within(now, policy.window_ms);
        let used_up = policy.attempts_max > 0 && restarts >= policy.attempts_max;
        if !another || used_up {
            return Decision::Rest;
        }
        self.note(now, failed);
        let nth = if failed { failures + 1 } else { 0 };
        Decision::Restart {
            due: ended_at + delay(policy, nth),
            attempt: restarts.saturating_add(1),
        }
    }

    fn note(&mut self, now: Instant, failed: bool) {
        self.restarts = self.restarts.saturating_add(1);
        self.failures = self.failures.saturating_add(u32::from(failed));
        if self.last.len() == REMEMBERED_MAX {
            self.last.pop_front();
        }
        self.last.push_back((now, failed));
    }

    /// Returns how many restarts there were within the window, and how many of them followed failures.
    fn within(&self, now: Instant, window_ms: u64) -> (u32, u32) {
        if window_ms == 0 {
            return (self.restarts, self.failures);
        }
        let window = Duration::from_millis(window_ms);
        let recent = self.last.iter().rev();
        recent
            .take_while(|(at, _)| now.duration_since(*at) < window)
            .fold((0, 0), |(all, failed), (_, bad)| {
                (all + 1, failed + u32::from(*bad))
            })
    }
}

/// Returns how long to wait before a restart after the `nth` failure within the window, 0 for what is none.
pub(super) fn delay(policy: &RestartPolicy, nth: u32) -> Duration {
    let doublings = nth.saturating_sub(1).min(20);
    let base = if doublings > 0 {
        policy.delay_ms.max(REPEATED_DELAY_MIN_MS)
    } else {
        policy.delay_ms
    };
    let doubled = base.saturating_mul(1 << doublings);
    Duration::from_millis(doubled.min(base.max(DELAY_MAX_MS)))
}

pub(super) fn is_failure(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::Rejected)
}

/// Returns whether a task ended by itself, and was not stopped or lost.
pub(super) fn ended_by_itself(state: TaskState) -> bool {
    is_failure(state) || state == TaskState::Complete
}

/// Doubling ends here.
const DELAY_MAX_MS: u64 = 60_000;
/// What fails again and again is not restarted in a tight loop even if its delay is zero.
const REPEATED_DELAY_MIN_MS: u64 = 100;
/// How many restarts of a slot are remembered with their times.
const REMEMBERED_MAX: usize = 1_024;
