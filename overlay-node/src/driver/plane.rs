//! The frame path's thread: it owns the [`Plane`](crate::plane::Plane), the ports and the socket of UDP 4789, and waits on all of them.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use mio::{Poll, Waker};
use overlay_core::{EndpointId, NetworkId, Seed, plane::Desired};
use overlay_vxlan::{Offload, PortCapabilities};
use tokio::sync::oneshot;

use self::path::FramePath;
pub(crate) use self::report::{PathInfo, Report};
use super::{clock::Clock, opening::PlaneSockets};
use crate::plane::{Address, CaptureSpec, Found};

mod path;
mod report;
mod underlay;

/// The frame side of an endpoint's port. Neither call blocks.
pub trait PortIo: AsFd + Send + 'static {
    /// Reads one frame (Ethernet II, without FCS) to the beginning of `place` and returns its length.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none waits; any other error says that the port is gone.
    fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)>;

    /// Writes one frame.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room: the frame is lost. Any other error says that the port is gone.
    fn write_frame(&self, frame: &[u8], offload: Offload) -> io::Result<()>;

    /// Returns which frames are written as they are: by default only whole ones.
    fn capabilities(&self) -> PortCapabilities {
        PortCapabilities::default()
    }
}

/// Is told of a port that is there no more, which nobody asked for.
pub(crate) type Gone = Box<dyn Fn(EndpointId, &io::Error) + Send>;

enum Order {
    Add(EndpointId, Box<dyn PortIo>),
    Remove(EndpointId),
    Apply(Arc<Desired>),
    Flows(EndpointId, oneshot::Sender<Option<u32>>),
    Lookup(NetworkId, Vec<Address>, oneshot::Sender<Vec<Found>>),
    Capture(CaptureSpec, tokio::sync::mpsc::Sender<Vec<u8>>),
    Report(oneshot::Sender<Report>),
    Stop,
}

/// Orders for the thread; it ends when this is dropped.
pub(crate) struct PlaneThread {
    orders: mpsc::Sender<Order>,
    waker: Waker,
    clock: Clock,
    thread: Option<thread::JoinHandle<()>>,
}

impl PlaneThread {
    /// Starts the thread on these sockets.
    pub(crate) fn start(
        sockets: PlaneSockets,
        clock: Clock,
        seed: Seed,
        busy_poll: Duration,
        gone: Gone,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), path::WAKE)?;
        let (orders, receiver) = mpsc::channel();
        let path = FramePath::new(poll, sockets, clock, seed, busy_poll, gone, receiver)?;
        let thread = thread::Builder::new()
            .name("overlay-plane".to_owned())
            .spawn(move || path.run())?;
        Ok(Self {
            orders,
            waker,
            clock,
            thread: Some(thread),
        })
    }

    pub(crate) fn add(&self, endpoint: EndpointId, port: Box<dyn PortIo>) {
        self.order(Order::Add(endpoint, port));
    }

    pub(crate) fn remove(&self, endpoint: EndpointId) {
        self.order(Order::Remove(endpoint));
    }

    pub(crate) fn apply(&self, desired: Arc<Desired>) {
        self.order(Order::Apply(desired));
    }

    /// Counts the flows to an endpoint in the data plane as it was applied last; the answer is dropped with the thread.
    pub(crate) fn flows_left(&self, endpoint: EndpointId) -> oneshot::Receiver<Option<u32>> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Flows(endpoint, reply));
        answer
    }

    /// Asks what the frame path knows of itself.
    pub(crate) fn report(&self) -> oneshot::Receiver<Report> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Report(reply));
        answer
    }

    /// Looks addresses up in the tables as they are; the answer is dropped with the thread.
    pub(crate) fn lookup(
        &self,
        network: NetworkId,
        addresses: Vec<Address>,
    ) -> oneshot::Receiver<Vec<Found>> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Lookup(network, addresses, reply));
        answer
    }

    /// Captures the frames of a network for as long as somebody reads; what is not read in time is lost.
    pub(crate) fn capture(&self, mut spec: CaptureSpec) -> tokio::sync::mpsc::Receiver<Vec<u8>> {
        spec.unix_epoch = self.clock.unix_epoch();
        let (sender, captured) = tokio::sync::mpsc::channel(CAPTURED_MAX);
        self.order(Order::Capture(spec, sender));
        captured
    }

    fn order(&self, order: Order) {
        let sent = self.orders.send(order).is_ok();
        if !sent || self.waker.wake().is_err() {
            tracing::error!("the frame path's thread is gone");
        }
    }
}

impl std::fmt::Debug for PlaneThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlaneThread(..)")
    }
}

impl Drop for PlaneThread {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Batches of captured frames that wait for their reader.
const CAPTURED_MAX: usize = 1_024;
