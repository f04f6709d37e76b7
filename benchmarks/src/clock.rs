//! How long this thread has had a processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Runs `work`; returns what it returns, and the CPU time of this thread meanwhile.
pub fn cpu<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = read();
    let result = work();
    (result, read() - start)
}

fn read() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}
