//! The socket half for tokio: UDP and TCP on one port, and a loop of a few lines.
//!
//! [`Sockets`] turns sockets into [`Input`]s and carries out [`Output`]s; whoever has more machines to drive (as
//! `overlay-node` has) pumps those values itself. [`Driver`] is the loop for one [`Gossip`] alone:
//!
//! ```no_run
//! use overlay_core::Seed;
//! use overlay_gossip::{Config, Event, driver::{Driver, Sockets}};
//!
//! # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
//! let sockets = Sockets::bind("192.0.2.7:7946".parse()?).await?;
//! let config = Config::lan("node-7", sockets.local_addr());
//! let mut driver = Driver::new(config, Seed::from_bytes([7; 32]), sockets)?; // from the system's entropy, really
//! driver.command(|gossip, now| gossip.join(now, &["192.0.2.1:7946".parse().unwrap()]));
//! loop {
//!     match driver.next_event().await {
//!         Event::MemberAlive(member) => println!("{} is there", member.name),
//!         Event::LeaveDone => return Ok(()),
//!         _ => {}
//!     }
//! }
//! # }
//! ```

mod sockets;
mod stream;

use overlay_core::{Instant, Machine, Seed};

pub use self::sockets::{Input, Sockets};
use crate::{Config, ConfigError, Event, Gossip, Output};

/// Drives one member on its sockets.
#[derive(Debug)]
pub struct Driver {
    gossip: Gossip,
    sockets: Sockets,
    clock: Clock,
}

impl Driver {
    /// Makes a member and gives it its sockets.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says which field cannot work.
    pub fn new(config: Config, seed: Seed, sockets: Sockets) -> Result<Self, ConfigError> {
        let clock = Clock::start();
        let gossip = Gossip::new(config, seed, clock.now())?;
        Ok(Self {
            gossip,
            sockets,
            clock,
        })
    }

    /// Has the member do something; what it queues is carried out with the next [`next_event`](Self::next_event).
    pub fn command<R>(&mut self, command: impl FnOnce(&mut Gossip, Instant) -> R) -> R {
        command(&mut self.gossip, self.clock.now())
    }

    /// Returns the member.
    pub fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Runs until the next event. Dropping the future loses nothing.
    pub async fn next_event(&mut self) -> Event {
        loop {
            while let Some(output) = self.gossip.poll_output() {
                match output {
                    Output::Event(event) => return event,
                    Output::Datagram { .. }
                    | Output::Dial { .. }
                    | Output::StreamSend { .. }
                    | Output::StreamClose { .. } => self.sockets.apply(output),
                }
            }
            let due = self.gossip.poll_timeout();
            tokio::select! {
                input = self.sockets.recv() => input.feed(&mut self.gossip, self.clock.now()),
                () = self.clock.wait_until(due) => self.gossip.handle_timeout(self.clock.now()),
            }
        }
    }
}

/// The time since the start of this process' machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: std::time::Instant,
}

impl Clock {
    /// Starts a clock at [`Instant::EPOCH`].
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver is where time comes from"
    )]
    pub fn start() -> Self {
        Self {
            epoch: std::time::Instant::now(),
        }
    }

    /// Returns the time.
    pub fn now(&self) -> Instant {
        let nanoseconds = self.epoch.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Waits until `due`; for ever if there is none.
    pub async fn wait_until(&self, due: Option<Instant>) {
        let Some(due) = due else {
            return std::future::pending().await;
        };
        let wait = due.duration_since(self.now());
        tokio::time::sleep(wait).await;
    }
}
