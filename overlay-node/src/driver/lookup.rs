//! Look-ups in the tables of the frame path, for people.

use overlay_core::plane::DataPath;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::active::Active;
use crate::{
    api::{self, ErrorKind},
    plane::{Address, Found},
};

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupOptions {
    /// The network, by name or identity.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

impl Active {
    /// Asks the frame path; its answer is dropped with it.
    pub(super) fn lookup(
        &self,
        options: LookupOptions,
    ) -> Result<oneshot::Receiver<Vec<Found>>, api::Error> {
        let LookupOptions { network, addresses } = options;
        let Some((found, plane)) = self.network_here(&network) else {
            let text = format!(
                "this node has no tables of network `{network}`: no endpoint here is on it; `overlay network inspect {network}` says where its endpoints are"
            );
            return Err(api::Error::new(ErrorKind::NotFound, text));
        };
        if plane.path == DataPath::Kernel {
            let text = format!(
                "the kernel carries network `{network}` on this node, and its tables are the kernel's: see `bridge fdb` and `ip neigh` of its devices (VNI {})",
                plane.vni
            );
            return Err(api::Error::new(ErrorKind::Platform, text));
        }
        Ok(self.plane.lookup(found.id, addresses))
    }
}
