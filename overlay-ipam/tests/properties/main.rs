//! Random operations against naive models: ordered collections and linear scans.

mod extremes;
mod network;
mod pools;
mod refusals;
mod set;
mod snapshots;
mod subnet;
mod subnets;
mod vni;

use serde::{Serialize, de::DeserializeOwned};

/// Stores and restores a value.
fn stored<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let bytes = postcard::to_allocvec(value).expect("memory is the only limit");
    postcard::from_bytes(&bytes).expect("what was stored is well-formed")
}
