//! Captures of a network's frames for whoever asks, as they come.

use overlay_core::plane::{DataPath, DesiredNetwork};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::active::Active;
use crate::{
    agent::AssignedNetwork,
    api::{self, ErrorKind},
    plane::CaptureSpec,
};

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureOptions {
    /// The network, by name or identity.
    pub network: String,
    /// How much of each frame is kept, in octets.
    pub snap_bytes: u32,
}

/// A capture, as it goes on: the octets of a pcapng file, in pieces. It ends when this is dropped.
#[derive(Debug)]
pub struct Captured(mpsc::Receiver<Vec<u8>>);

impl Captured {
    /// Returns the next piece; `None` when the node has stopped.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }

    /// As [`next`](Self::next), for whoever polls.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Vec<u8>>> {
        self.0.poll_recv(context)
    }
}

impl Active {
    /// Begins a capture.
    pub(super) fn capture(&self, options: &CaptureOptions) -> Result<Captured, api::Error> {
        let name = &options.network;
        let Some((network, plane)) = self.network_here(name) else {
            let text = format!(
                "no frames of network `{name}` pass here: no endpoint on this node is on it; `overlay network inspect {name}` says where its endpoints are"
            );
            return Err(api::Error::new(ErrorKind::NotFound, text));
        };
        if plane.path == DataPath::Kernel {
            let text = format!(
                "the kernel carries network `{name}` on this node, and its frames do not pass here: capture on its devices (VNI {}), with tcpdump for instance",
                plane.vni
            );
            return Err(api::Error::new(ErrorKind::Platform, text));
        }
        let spec = CaptureSpec {
            vni: plane.vni,
            name: network.name.clone(),
            mtu: plane.mtu,
            snap_bytes: options.snap_bytes,
            unix_epoch: std::time::Duration::ZERO,
        };
        Ok(Captured(self.plane.capture(spec)))
    }
    /// Finds a network with an endpoint here, by name or identity.
    pub(super) fn network_here(&self, name: &str) -> Option<(&AssignedNetwork, &DesiredNetwork)> {
        let desired = self.node.desired();
        let assigned = self.node.assignment();
        let networks = assigned.into_iter().flat_map(|all| &all.networks);
        let mut found = networks.filter_map(|network| {
            let is = network.name == name || network.id.to_string() == name;
            is.then(|| Some((network, desired.networks.get(&network.id)?)))?
        });
        found.next()
    }
}
