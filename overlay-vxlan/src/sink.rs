//! Where the frames go that a switch sends.

use std::net::IpAddr;

use thiserror::Error;

use crate::{frame::Frame, outer::Outer, switch::PortId};

/// Takes the frames that the switch sends.
///
/// A frame that is given as `&mut` is the sink's: it may push headers, seal it in place or take it
/// ([`std::mem::take`]). One that is given as `&` goes to others as well.
///
/// What goes to VTEPs of a network with [`encrypted`](crate::NetworkConfig::encrypted) goes the sealed way and no other. A
/// sink that does not know that way has none: by default such frames are dropped, and the switch counts them.
pub trait Sink {
    /// Takes a frame for a local port.
    fn to_port(&mut self, port: PortId, frame: &mut Frame);

    /// Takes a frame for a VTEP: the payload of a UDP datagram, VXLAN header included; `outer` is for its headers.
    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame);

    /// Seals a frame ([`Associations::seal`](crate::esp::Associations::seal)), and takes it for a VTEP. It comes as plain text,
    /// VXLAN header included, and never must leave the node like that.
    ///
    /// # Errors
    ///
    /// [`Unsealed`] drops the frame: there is no association with the VTEP, or, as the default has it, nobody who seals.
    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        let _ = (vtep, outer, frame);
        Err(Unsealed)
    }

    /// Takes a copy of a frame for one of several local ports. The default copies into a new frame.
    fn copy_to_port(&mut self, port: PortId, frame: &Frame) {
        self.to_port(port, &mut frame.clone());
    }

    /// Takes a copy of a frame for one of several VTEPs. The default copies into a new frame.
    fn copy_to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &Frame) {
        self.to_vtep(vtep, outer, &mut frame.clone());
    }

    /// Seals a copy of a frame for one of several VTEPs, and takes it. The default copies into a new frame.
    ///
    /// # Errors
    ///
    /// As [`to_sealed_vtep`](Self::to_sealed_vtep).
    fn copy_to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &Frame,
    ) -> Result<(), Unsealed> {
        self.to_sealed_vtep(vtep, outer, &mut frame.clone())
    }
}

/// A frame of an encrypted network was not sealed, and so not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a sink that seals the frame, found none")]
pub struct Unsealed;

impl From<crate::esp::SealError> for Unsealed {
    fn from(_: crate::esp::SealError) -> Self {
        Self
    }
}
