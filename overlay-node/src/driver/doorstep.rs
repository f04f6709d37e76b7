//! Connections whose owners are not known yet: bounded in number and in time, so that whoever has no certificate takes no place
//! from those who have.
//!
//! When there is no room, the oldest makes way: a handshake takes milliseconds, so one that is still there is of somebody
//! slow, or of somebody who does not mean it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) all_max: usize,
    /// From one address; of IPv6, from one network of 64 bits, which is as easily had.
    pub(crate) address_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            all_max: 1_024,
            address_max: 64,
        }
    }
}

/// Those that are there.
#[derive(Clone, Debug)]
pub(crate) struct Doorstep(Arc<Mutex<Guests>>);

#[derive(Debug)]
struct Guests {
    bounds: Bounds,
    next: u64,
    here: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_address: BTreeMap<IpAddr, BTreeSet<u64>>,
    sent_away: u64,
}

/// A place, for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Guest {
    doorstep: Doorstep,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl Doorstep {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(Guests {
            bounds,
            next: 0,
            here: BTreeMap::new(),
            by_address: BTreeMap::new(),
            sent_away: 0,
        })))
    }

    /// Gives a place to a connection from an address; the oldest one of that address, or of all, makes way for it.
    pub(crate) fn enter(&self, from: IpAddr) -> Guest {
        let address = network(from);
        let mut guests = self.guests();
        let (all, own) = (guests.here.len(), guests.by_address.get(&address));
        let oldest = if own.is_some_and(|own| own.len() >= guests.bounds.address_max) {
            own.and_then(|own| own.first().copied())
        } else if all >= guests.bounds.all_max {
            guests.here.keys().next().copied()
        } else {
            None
        };
        if let Some(oldest) = oldest
            && let Some(place) = guests.remove(oldest)
        {
            guests.sent_away += 1;
            // It may be on its way out.
            let _ = place.send(());
        }
        let number = guests.next;
        guests.next += 1;
        let (place, told) = oneshot::channel();
        guests.here.insert(number, (address, place));
        guests.by_address.entry(address).or_default().insert(number);
        drop(guests);
        Guest {
            doorstep: self.clone(),
            number,
            told,
        }
    }

    /// Returns how many are there, and how many had to go.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let guests = self.guests();
        (guests.here.len(), guests.sent_away)
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn remove(&mut self, number: u64) -> Option<oneshot::Sender<()>> {
        let (address, place) = self.here.remove(&number)?;
        if let Some(own) = self.by_address.get_mut(&address) {
            own.remove(&number);
            if own.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(place)
    }
}

impl Guest {
    /// Does something that must not take longer than `patience`, and ends when somebody else needs the place.
    pub(crate) async fn within<T>(
        &mut self,
        patience: Duration,
        work: impl Future<Output = std::io::Result<T>>,
    ) -> std::io::Result<T> {
        tokio::select! {
            done = tokio::time::timeout(patience, work) => done?,
            _ = &mut self.told => Err(std::io::Error::new(
                std::io::ErrorKind::ConnectionAborted,
                "it made way for another one",
            )),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.doorstep.guests().remove(self.number);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn is_told(guest: &mut Guest) -> bool {
        let forever = std::future::pending::<std::io::Result<()>>();
        let ended = guest.within(Duration::from_millis(1), forever).await;
        ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionAborted
    }

    #[tokio::test]
    async fn the_oldest_of_an_address_makes_way_and_no_other() {
        let doorstep = Doorstep::new(Bounds {
            all_max: 100,
            address_max: 2,
        });
        let mut other = doorstep.enter(address(2));
        let mut guests: Vec<_> = (0..3).map(|_| doorstep.enter(address(1))).collect();
        assert!(is_told(&mut guests[0]).await);
        assert!(!is_told(&mut guests[1]).await);
        assert!(!is_told(&mut other).await);
        assert_eq!(doorstep.counts(), (3, 1));
        // Those that go leave room.
        guests.truncate(1);
        assert_eq!(doorstep.counts(), (1, 1));
        let _next = doorstep.enter(address(1));
        assert_eq!(doorstep.counts(), (2, 1));
    }

    #[tokio::test]
    async fn the_oldest_of_all_makes_way_when_many_addresses_come() {
        let doorstep = Doorstep::new(Bounds {
            all_max: 50,
            address_max: 2,
        });
        let mut guests: Vec<_> = (0..200).map(|last| doorstep.enter(address(last))).collect();
        assert_eq!(doorstep.counts(), (50, 150));
        assert!(is_told(&mut guests[149]).await);
        assert!(!is_told(&mut guests[150]).await);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8:0:1::1"), parse("2001:db8:0:1:ffff::2"));
        assert_ne!(parse("2001:db8:0:1::1"), parse("2001:db8:0:2::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), address(1));
    }
}
