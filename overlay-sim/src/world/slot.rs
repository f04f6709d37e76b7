//! One host: its machine, and what outlives it.

use std::collections::VecDeque;

use overlay_core::Instant;

use super::drive::Event;
use crate::{Boot, Host, SimDisk, clock::Clock};

pub(super) type BootFn<H> = Box<dyn FnMut(Boot<'_>) -> H>;

pub(super) struct Slot<H: Host> {
    pub(super) boot: BootFn<H>,
    pub(super) disk: SimDisk,
    pub(super) machine: Option<H>,
    /// How often it was booted.
    pub(super) life: u64,
    /// The wake-up that stands in the queue.
    pub(super) wake: Option<Instant>,
    /// Wake-ups at one instant, without which a machine that makes no progress would spin for ever.
    pub(super) spins: (Instant, u32),
    pub(super) paused: bool,
    /// What came while it was paused.
    pub(super) held: VecDeque<Event<H>>,
    pub(super) clock: Clock,
}

impl<H: Host> Slot<H> {
    pub(super) fn new(disk: SimDisk, boot: BootFn<H>) -> Self {
        Self {
            boot,
            disk,
            machine: None,
            life: 0,
            wake: None,
            spins: (Instant::EPOCH, 0),
            paused: false,
            held: VecDeque::new(),
            clock: Clock::new(),
        }
    }

    /// Ends the life of the machine; returns whether it had one.
    pub(super) fn stop(&mut self) -> bool {
        self.disk.power_off();
        let lived = self.machine.take().is_some();
        self.paused = false;
        self.held.clear();
        self.wake = None;
        self.disk.kill();
        lived
    }
}
