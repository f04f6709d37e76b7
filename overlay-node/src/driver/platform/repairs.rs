//! Keeping the system at what is desired of it, between the orders of the platform's thread.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use overlay_core::plane::{Change, DataPath, Desired, PlatformError};

use super::Order;

/// Says that the system carries what it can of what is desired.
pub(super) type Carried = Box<dyn FnOnce() + Send>;

/// What the system is compared with what is desired for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// For what is desired since the last look.
    Changes,
    /// For whatever somebody else may have changed, too.
    Everything,
}

/// What had to change.
type Applied = Result<Vec<Change>, PlatformError>;

/// What the system shall hold, and when it was last looked at.
#[derive(Default)]
pub(super) struct Repairs {
    desired: Option<Arc<Desired>>,
    /// Who waits for it.
    carried: Option<Carried>,
    /// Whether what is desired has changed since.
    changed: bool,
    /// When the last look at the system ended, and how long it took.
    looked: Option<(Instant, Duration)>,
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

    /// Takes what is desired from now on. `carried` is called after the next look, whether or not all of it could be brought in
    /// line, and also if a former life's state is left as it is for now. Of several that wait, the last one's is called.
    pub(super) fn want(&mut self, desired: Arc<Desired>, carried: Carried) {
        // Of what is carried in user space only ports are the system's, which are made as they are desired: the next look
        // is soon enough.
        let before = self.desired.as_deref();
        self.changed |= kernel(&desired) || before.is_some_and(kernel);
        self.desired = Some(desired);
        self.carried = Some(carried);
    }

    /// Returns the next order; while none waits, brings the system in line. None when nobody orders any more.
    pub(super) fn next(
        &mut self,
        orders: &mpsc::Receiver<Order>,
        mut apply: impl FnMut(Look, &Desired) -> Applied,
    ) -> Option<Order> {
        loop {
            // However many orders there are, the system is looked at now and then.
            let due = self.looked.map_or(Duration::ZERO, |(looked, took)| {
                let pause = INTERVAL.max(took * PAUSE);
                pause.saturating_sub(now().duration_since(looked))
            });
            if due.is_zero() {
                self.changed = false;
                self.repair(Look::Everything, &mut apply);
            }
            // What was ordered may change what is desired.
            match orders.try_recv() {
                Ok(order) => return Some(order),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if std::mem::take(&mut self.changed) {
                self.repair(Look::Changes, &mut apply);
                continue;
            }
            match orders.recv_timeout(due) {
                Ok(order) => return Some(order),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn repair(&mut self, look: Look, apply: &mut impl FnMut(Look, &Desired) -> Applied) {
        let begun = now();
        self.try_repair(look, apply);
        if let Some(carried) = self.carried.take() {
            carried();
        }
        if look == Look::Everything {
            let ended = now();
            // Its end counts: however long it takes, orders have their turn.
            self.looked = Some((ended, ended.duration_since(begun)));
        }
    }

    fn try_repair(&mut self, look: Look, apply: &mut impl FnMut(Look, &Desired) -> Applied) {
        let Some(desired) = &self.desired else {
            return;
        };
        if self.settled.is_some_and(|settled| now() < settled) {
            return;
        }
        self.settled = None;
        match apply(look, desired) {
            Ok(changes) => {
                if look == Look::Everything {
                    self.failure = None;
                }
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

/// Whether the system carries frames of any network.
fn kernel(desired: &Desired) -> bool {
    let mut networks = desired.networks.values();
    networks.any(|network| network.path == DataPath::Kernel)
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
/// How often the system is looked at: what others change by hand is as desired again within twice that.
const INTERVAL: Duration = Duration::from_millis(750);
/// How many times as long as a look the pause after it is at least: with very many endpoints repairs come later.
const PAUSE: u32 = 4;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex, thread};

    use overlay_core::{EndpointId, NetworkId, Vni, plane::DesiredNetwork};

    use super::*;

    fn desired(path: DataPath) -> Arc<Desired> {
        let network = DesiredNetwork {
            vlan_tags: false,
            encrypted: false,
            policy: Default::default(),
            vni: Vni::new(4_097).unwrap(),
            path,
            subnets: Vec::new(),
            mtu: 1_450,
            ports: BTreeMap::new(),
            remotes: BTreeMap::new(),
            vteps: [].into(),
            services: BTreeMap::new(),
        };
        Arc::new(Desired {
            peers: Default::default(),
            underlay: None,
            networks: [(NetworkId::from_bytes([1; 16]), network)].into(),
        })
    }

    /// Nobody waits.
    fn nobody() -> Carried {
        Box::new(|| {})
    }

    /// Orders without a pause for some intervals; returns how often the system was looked at meanwhile, and how many
    /// orders were taken.
    #[expect(
        clippy::disallowed_methods,
        reason = "stands for a system that takes its time"
    )]
    fn busy(repairs: &mut Repairs, takes: Duration) -> (u32, u32) {
        let (sender, orders) = mpsc::channel();
        let end = now() + 2 * INTERVAL + 3 * takes;
        let (mut looks, mut taken) = (0, 0);
        while now() < end {
            sender.send(Order::Apply(Arc::default(), nobody())).unwrap();
            let order = repairs.next(&orders, |_, _| {
                looks += 1;
                thread::sleep(takes);
                Ok(Vec::new())
            });
            taken += u32::from(order.is_some());
        }
        (looks, taken)
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "what others change is looked for in real time"
    )]
    fn a_change_is_lowered_at_once_and_everything_is_looked_at_now_and_then() {
        let mut repairs = Repairs::default();
        let (sender, orders) = mpsc::channel();
        let look = |repairs: &mut Repairs| {
            let mut looks = Vec::new();
            sender.send(Order::Apply(Arc::default(), nobody())).unwrap();
            // An order waits, so the system is looked at only in the call after it.
            for _ in 0..2 {
                let order = repairs.next(&orders, |look, _| {
                    looks.push(look);
                    sender.send(Order::Apply(Arc::default(), nobody())).unwrap();
                    Ok(Vec::new())
                });
                drop(order);
            }
            looks
        };
        repairs.want(desired(DataPath::Kernel), nobody());
        assert_eq!(look(&mut repairs), [Look::Everything], "the first");
        repairs.want(desired(DataPath::Kernel), nobody());
        assert_eq!(look(&mut repairs)[..1], [Look::Changes]);
        thread::sleep(INTERVAL);
        assert_eq!(look(&mut repairs), [Look::Everything]);
    }

    #[test]
    fn orders_in_a_row_keep_nobody_from_looking_at_the_system() {
        let mut repairs = Repairs::default();
        repairs.want(desired(DataPath::Kernel), nobody());
        let (looks, taken) = busy(&mut repairs, Duration::ZERO);
        assert!(looks >= 2 && taken > 0, "{looks} looks, {taken} orders");
    }

    #[test]
    fn a_look_that_takes_long_keeps_no_order_waiting_for_ever() {
        let mut repairs = Repairs::default();
        repairs.want(desired(DataPath::Kernel), nobody());
        let (looks, taken) = busy(&mut repairs, INTERVAL / 3);
        assert!(looks >= 2 && taken > looks, "{looks} looks, {taken} orders");
    }

    #[test]
    fn what_a_former_life_left_stays_until_the_rows_of_others_have_come() {
        let mut repairs = Repairs::default();
        repairs.settle(true);
        repairs.want(desired(DataPath::Kernel), nobody());
        assert_eq!(busy(&mut repairs, Duration::ZERO).0, 0);
        repairs.settle(false);
        assert!(busy(&mut repairs, Duration::ZERO).0 > 0);
    }

    #[test]
    fn who_waits_for_the_data_plane_hears_once_the_system_was_brought_in_line() {
        let (mut repairs, heard) = (Repairs::default(), Arc::new(Mutex::new(Vec::new())));
        let says = |number| -> Carried {
            let heard = Arc::clone(&heard);
            Box::new(move || heard.lock().unwrap().push(number))
        };
        repairs.want(desired(DataPath::Kernel), says(1));
        repairs.want(desired(DataPath::Kernel), says(2));
        let (sender, orders) = mpsc::channel();
        let mut looks = 0;
        for _ in 0..2 {
            sender
                .send(Order::Remove(EndpointId::from_bytes([1; 16])))
                .unwrap();
            let _ = repairs.next(&orders, |_, _| {
                assert!(looks > 0 || heard.lock().unwrap().is_empty(), "too early");
                looks += 1;
                Ok(Vec::new())
            });
        }
        assert!(looks > 0);
        assert_eq!(*heard.lock().unwrap(), [2], "the newest, and once");
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "an order comes a moment after the change"
    )]
    fn what_changes_in_user_space_is_not_looked_at_at_once() {
        for path in [DataPath::User, DataPath::Kernel] {
            let (mut repairs, mut looks, mut changes) = (Repairs::default(), 0, 0);
            let begun = now();
            while begun.elapsed() < 2 * INTERVAL {
                repairs.want(desired(path), nobody());
                changes += 1;
                let (sender, orders) = mpsc::channel();
                let order = thread::spawn(move || {
                    thread::sleep(Duration::from_millis(10));
                    sender.send(Order::Apply(Arc::default(), nobody()))
                });
                let _ = repairs.next(&orders, |_, _| {
                    looks += 1;
                    Ok(Vec::new())
                });
                order.join().unwrap().unwrap();
            }
            let due = begun.elapsed().as_millis() / INTERVAL.as_millis() + 1;
            match path {
                DataPath::User => assert!((2..=due).contains(&looks), "{looks} of {due}"),
                DataPath::Kernel => assert!(looks >= changes, "{looks} of {changes}"),
            }
        }
    }
}
