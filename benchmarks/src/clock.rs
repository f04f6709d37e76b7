//! How long this thread has had a processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs `work`; returns what it returns, and the CPU time of this thread meanwhile.
pub fn cpu<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = read(ClockId::ThreadCPUTime);
    let result = work();
    (result, read(ClockId::ThreadCPUTime) - start)
}

/// Runs `work`; returns what it returns, and how long that took: good for times too short for [`cpu`]'s system call.
pub fn wall<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = read(ClockId::Monotonic);
    let result = work();
    (result, read(ClockId::Monotonic) - start)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}
