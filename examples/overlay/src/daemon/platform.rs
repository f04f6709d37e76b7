//! `overlay-linux` with the types that the driver asks for: ports of endpoints, and the kernel plane.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use overlay_core::{
    EndpointId, NetworkId, ServiceId,
    plane::{ActualPort, Change, Desired, Platform, PlatformError, PortSpec, WayOutState},
};
use overlay_linux::{
    EndpointServices, Linux, Offload, Port, PortCapabilities, Sockets,
    plane::{Host, Reconciler, Refused, Report, SwitchNamespace, Underlay},
    services,
};
use overlay_node::driver::PortIo;

/// Linux below a node.
pub(super) struct OnLinux {
    linux: Linux,
    /// The kernel plane, where the daemon has one.
    plane: Option<KernelPlane>,
}

/// The kernel plane, once the node has an address.
struct KernelPlane {
    /// Where the namespace of its devices is kept.
    switch: PathBuf,
    reconciler: Option<Reconciler<Host>>,
    /// Whether it carries encrypted networks, too; else the daemon does.
    seals: bool,
    /// The virtual addresses, in the endpoints' namespaces.
    services: EndpointServices,
    unserved: BTreeMap<ServiceId, services::Refused>,
    /// What was said to be refused, which is not said again.
    refused: Vec<(NetworkId, Refused)>,
}

impl OnLinux {
    /// Without a `switch`, there is no kernel plane. Nodes speak IPv6 to each other, or IPv4.
    pub(super) fn new(linux: Linux, switch: Option<PathBuf>, v6: bool) -> Self {
        let (linux, plane) = match switch {
            None => (linux, None),
            Some(switch) => {
                let sealing = linux.can_seal(v6);
                if let Err(reason) = &sealing {
                    tracing::info!(%reason, "encrypted networks are carried in user space");
                }
                let plane = KernelPlane {
                    switch: switch.clone(),
                    seals: sealing.is_ok(),
                    reconciler: None,
                    services: EndpointServices::new(),
                    unserved: BTreeMap::new(),
                    refused: Vec::new(),
                };
                (linux.with_switch(switch), Some(plane))
            }
        };
        Self { linux, plane }
    }

    /// Whether encrypted networks are carried by the kernel.
    pub(super) fn kernel_seals(&self) -> bool {
        self.plane.as_ref().is_some_and(|plane| plane.seals)
    }
}

impl KernelPlane {
    fn reconciler(
        &mut self,
        desired: &Desired,
    ) -> Result<Option<&mut Reconciler<Host>>, PlatformError> {
        let Some(underlay) = desired.underlay else {
            return Ok(self.reconciler.as_mut());
        };
        let underlay = Underlay {
            local: underlay.address,
            port: underlay.port,
        };
        let reconciler = match self.reconciler.take() {
            Some(mut reconciler) => {
                reconciler.set_underlay(underlay);
                reconciler
            }
            None => {
                let host = Host::open(SwitchNamespace::open(&self.switch)?)?;
                Reconciler::new(host, underlay)
            }
        };
        Ok(Some(self.reconciler.insert(reconciler)))
    }

    fn apply(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let desired = self.of_kernel(desired);
        let Some(reconciler) = self.reconciler(&desired)? else {
            return Ok(Vec::new());
        };
        let report = reconciler.apply(&desired)?;
        if report.refused != self.refused {
            for (network, reason) in &report.refused {
                tracing::warn!(%network, %reason, "the kernel cannot carry all of a network");
            }
            self.refused.clone_from(&report.refused);
        }
        Ok(changes(&report))
    }

    /// Makes the endpoints' namespaces lead to services.
    fn serve(&mut self, linux: &Linux, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let report = self.services.apply(linux, desired)?;
        if report.refused != self.unserved {
            for (service, reason) in &report.refused {
                tracing::warn!(%service, %reason, "the kernel does not serve a service");
            }
            self.unserved.clone_from(&report.refused);
        }
        if let Some((_, error)) = report.failed.into_iter().next() {
            return Err(error);
        }
        let operations = report.operations.into_iter();
        Ok(operations
            .map(|(endpoint, done)| Change::new(Some(endpoint), done))
            .collect())
    }

    fn plan(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let desired = self.of_kernel(desired);
        match self.reconciler(&desired)? {
            None => Ok(Vec::new()),
            Some(reconciler) => Ok(changes(&reconciler.plan(&desired)?)),
        }
    }

    /// Leaves out the keys if the daemon seals itself: the kernel must not have them, too, because both would count packets of
    /// one key.
    fn of_kernel<'a>(&self, desired: &'a Desired) -> Cow<'a, Desired> {
        if self.seals || desired.peers.is_empty() {
            return Cow::Borrowed(desired);
        }
        let mut desired = desired.clone();
        desired.peers.clear();
        Cow::Owned(desired)
    }
}

fn changes(report: &Report) -> Vec<Change> {
    let operations = report.operations.iter();
    operations
        .map(|operation| Change::new(None, operation.to_string()))
        .collect()
}

/// A port with the reading and writing that the driver asks for.
pub(super) struct LinuxPort(Port);

impl Platform for OnLinux {
    type Port = LinuxPort;
    type Sockets = (UdpSocket, TcpListener);

    fn create_port(&mut self, spec: &PortSpec) -> Result<Option<LinuxPort>, PlatformError> {
        if let Some(plane) = &self.plane
            && plane.reconciler.is_none()
        {
            // The outer ends of ports go in there, whether or not the rest is made yet.
            drop(SwitchNamespace::open(&plane.switch)?);
        }
        Ok(self.linux.create_port(spec)?.map(LinuxPort))
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        self.linux.remove_port(endpoint)
    }

    fn retain_ports(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError> {
        self.linux.retain_ports(kept)
    }

    fn open_sockets(
        &mut self,
        endpoint: EndpointId,
        address: SocketAddr,
    ) -> Result<Self::Sockets, PlatformError> {
        let Sockets { udp, tcp } = self.linux.open_sockets(endpoint, address)?;
        Ok((udp, tcp))
    }

    fn open_stream(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, PlatformError> {
        self.linux.open_stream(endpoint, v6, source)
    }

    fn open_datagrams(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<UdpSocket, PlatformError> {
        self.linux.open_datagrams(endpoint, v6, source)
    }

    fn way_out(&mut self, endpoint: EndpointId) -> Result<Option<WayOutState>, PlatformError> {
        self.linux.way_out(endpoint)
    }

    fn underlay_mtu(&mut self, address: IpAddr) -> Result<Option<u16>, PlatformError> {
        self.linux.underlay_mtu(address)
    }

    fn apply(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        // What others wait for comes first, and neither is in the way of the other.
        let carried = self.apply_changes(desired);
        let ports = self.linux.apply(desired);
        Ok([carried?, ports?].concat())
    }

    fn apply_changes(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        // Ports are made as they are desired.
        let Some(plane) = &mut self.plane else {
            return Ok(Vec::new());
        };
        let devices = plane.apply(desired);
        let services = plane.serve(&self.linux, desired);
        Ok([devices?, services?].concat())
    }

    fn plan(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let plane = self.plane.as_mut().map(|plane| plane.plan(desired));
        Ok(plane.transpose()?.unwrap_or_default())
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        self.linux.actual()
    }
}

impl AsFd for LinuxPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PortIo for LinuxPort {
    fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)> {
        self.0.read_into(place)
    }

    fn write_frame(&self, frame: &[u8], offload: Offload) -> io::Result<()> {
        self.0.write_frame(frame, offload)
    }

    fn capabilities(&self) -> PortCapabilities {
        self.0.capabilities()
    }
}
