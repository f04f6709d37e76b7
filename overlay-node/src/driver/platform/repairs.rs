//! Keeping the system at what is desired of it, between the orders of the platform's thread.
//!
//! Only where it carries networks: the ports of networks in user space are not looked at.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use overlay_core::plane::{DataPath, Desired, Platform};

use super::Order;

/// What the system shall hold, and when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    desired: Option<Arc<Desired>>,
    /// Whether what is desired has changed since.
    changed: bool,
    /// When the system was looked at last.
    looked: Option<Instant>,
    /// Until when the system stays as the former life of the node left it: the rows of others are still on their way.
    settled: Option<Instant>,
    /// What was said of the last failure, which is not said again.
    failure: Option<String>,
}

impl Repairs {
    /// Leaves the system as it is for a while, if a former life of the node has left something.
    pub(super) fn settle(&mut self, left: bool) {
        self.settled = left.then(|| now() + SETTLING);
    }

    pub(super) fn want(&mut self, desired: Arc<Desired>) {
        // Of what is carried in user space only ports are the system's, which are made as they are desired.
        let before = self.desired.as_deref();
        if kernel(&desired) || before.is_some_and(kernel) {
            self.changed = true;
            self.desired = Some(desired);
        }
    }

    /// Returns the next order; while none waits, brings the system in line. None when nobody orders any more.
    pub(super) fn next(
        &mut self,
        orders: &mpsc::Receiver<Order>,
        platform: &mut impl Platform,
    ) -> Option<Order> {
        loop {
            // However many orders there are, the system is looked at now and then.
            let due = self.looked.map_or(Duration::ZERO, |looked| {
                INTERVAL.saturating_sub(now().duration_since(looked))
            });
            if due.is_zero() {
                self.repair(platform);
                continue;
            }
            // What was ordered may change what is desired.
            match orders.try_recv() {
                Ok(order) => return Some(order),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if std::mem::take(&mut self.changed) {
                self.repair(platform);
                continue;
            }
            match orders.recv_timeout(due) {
                Ok(order) => return Some(order),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn repair(&mut self, platform: &mut impl Platform) {
        self.looked = Some(now());
        let Some(desired) = &self.desired else {
            return;
        };
        if self.settled.is_some_and(|settled| now() < settled) {
            return;
        }
        self.settled = None;
        match platform.apply(desired) {
            Ok(changes) => {
                self.failure = None;
                for change in changes {
                    tracing::info!(%change, "the system is as desired again");
                }
            }
            Err(error) => {
                let said = error.to_string();
                if self.failure.as_ref() != Some(&said) {
                    tracing::warn!(%error, "the system could not be made as desired; this is tried again");
                }
                self.failure = Some(said);
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the system is looked at in real time"
)]
fn now() -> Instant {
    Instant::now()
}

/// How long it takes at the most until the rows of others have come.
const SETTLING: Duration = Duration::from_secs(3);
/// Whether the system carries any network.
fn kernel(desired: &Desired) -> bool {
    let mut networks = desired.networks.values();
    networks.any(|network| network.path == DataPath::Kernel)
}

/// How often the system is looked at: what others change by hand is as desired again within twice that.
const INTERVAL: Duration = Duration::from_millis(750);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::InProcess;

    #[test]
    fn orders_in_a_row_keep_nobody_from_looking_at_the_system() {
        let (sender, orders) = mpsc::channel();
        let mut repairs = Repairs::default();
        let mut platform = InProcess::new();
        let end = now() + 2 * INTERVAL;
        let (mut looks, mut before) = (0, None);
        while now() < end {
            sender.send(Order::Apply(Arc::default())).unwrap();
            assert!(repairs.next(&orders, &mut platform).is_some());
            looks += u32::from(repairs.looked != before);
            before = repairs.looked;
        }
        assert!(looks >= 2, "{looks}");
    }
}
