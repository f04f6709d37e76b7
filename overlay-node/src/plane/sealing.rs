//! Encrypted networks: what is sealed on its way to other nodes, and opened on its way from them.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use overlay_core::{Seed, plane};
use overlay_vxlan::{
    Frame, Outer, Received, Unsealed,
    esp::{self, Associations, KeysError, SaKeys},
    wire::esp::Spi,
};

use crate::identity::cipher::Ciphers;

/// The security associations of a node, as a data plane names them.
///
/// Whoever has the sockets has this, too: what a [`Sink`](overlay_vxlan::Sink) is handed for an encrypted network is
/// [sealed](Self::seal) there, and what comes to the port of ESP is [opened](Self::open) before the frame path gets it.
pub struct Sealing {
    seed: Seed,
    port: u16,
    associations: Associations,
    peers: BTreeMap<IpAddr, plane::PeerKeys>,
    refused: u64,
}

impl Sealing {
    /// Makes one without peers.
    pub fn new(seed: Seed) -> Self {
        let port = esp::Config::default().data_port;
        Self {
            associations: associations(&seed, port),
            seed,
            port,
            peers: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Has the associations that `desired` names and no others. One that stays goes on where it was.
    pub fn apply(&mut self, desired: &plane::Desired) {
        let port = desired.underlay.map_or(self.port, |underlay| underlay.port);
        if port != self.port {
            self.port = port;
            self.associations = associations(&self.seed, port);
            self.peers.clear();
        }
        let gone = self.peers.keys();
        let gone: Vec<_> = gone
            .filter(|vtep| !desired.peers.contains_key(vtep))
            .copied()
            .collect();
        for vtep in gone {
            self.associations.remove_peer(vtep);
            self.peers.remove(&vtep);
        }
        for (vtep, keys) in &desired.peers {
            if self.peers.get(vtep) == Some(keys) {
                continue;
            }
            let set = peer(keys).and_then(|keys| self.associations.set_peer(*vtep, &keys));
            match set {
                Ok(()) => {
                    self.peers.insert(*vtep, keys.clone());
                }
                // What it had is not what it shall have.
                Err(_) => {
                    self.associations.remove_peer(*vtep);
                    self.peers.remove(vtep);
                    self.refused += 1;
                }
            }
        }
    }

    /// Makes a frame for a VTEP the payload of a datagram to the port of ESP.
    ///
    /// # Errors
    ///
    /// [`Unsealed`], counted: it must not be sent.
    pub fn seal(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) -> Result<(), Unsealed> {
        let sealed = self.associations.seal(vtep, outer, frame);
        sealed.map_err(|_| Unsealed)
    }

    /// Makes the payload of a datagram that came to the port of ESP what [`Plane::handle_remote`](super::Plane::handle_remote)
    /// takes; `None`, counted, if it is none that a peer sealed.
    pub fn open(&mut self, received: Received, frame: &mut Frame) -> Option<Received> {
        self.associations.open(received.from, frame).ok()?;
        Some(Received {
            sealed: true,
            ..received
        })
    }

    /// Returns what was counted.
    pub fn stats(&self) -> &esp::Stats {
        self.associations.stats()
    }

    /// Returns how often keys of a peer were not taken: nothing goes to it then.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing")
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

fn associations(seed: &Seed, data_port: u16) -> Associations {
    let config = esp::Config {
        data_port,
        ..esp::Config::default()
    };
    Associations::new(config, Arc::new(Ciphers), seed)
}

fn peer(keys: &plane::PeerKeys) -> Result<esp::PeerKeys, KeysError> {
    let one = |keys: &plane::SaKeys| SaKeys::new(Spi(keys.spi), keys.key(), keys.salt());
    let inbound = keys.inbound.iter().map(one);
    Ok(esp::PeerKeys {
        outbound: one(&keys.outbound)?,
        inbound: inbound.collect::<Result<_, _>>()?,
    })
}
