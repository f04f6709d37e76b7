//! Fuzz targets for everything that reads octets from outside: one function for each, which no octets may make panic.
//!
//! Each target also checks what must hold whatever it was given: what is refused changes nothing, what is accepted
//! survives a round trip, what is on a disk can be opened again.
//!
//! `fuzz_targets/` wraps the functions for libFuzzer (feature `libfuzzer`); `tests/replay.rs` runs them on stable Rust
//! over the corpora and over damaged copies of them; `cargo run --bin seeds` writes what the corpora begin with.
//!
//! ```text
//! cargo test                                                     # replay
//! cargo fuzz run --features libfuzzer gossip_datagram            # needs cargo-fuzz, and nightly or RUSTC_BOOTSTRAP=1
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod dns;
mod esp;
mod gossip;
mod input;
mod ipam;
mod lb;
mod node;
mod policy;
mod raft;
mod raft_disk;
mod raft_sealed;
// The file of the program brings its own unit tests along, which are run there.
#[cfg(not(test))]
mod unix;
mod vxlan;

pub use dns::{dns_message, dns_query, dns_upstream};
pub use esp::esp_open;
pub use gossip::{gossip_datagram, gossip_machine, gossip_stream};
pub use input::Script;
pub use ipam::ipam_snapshot;
pub use lb::{lb_frames, lb_proxy};
pub use node::{node_frame, node_join, node_member, node_peer, node_state, node_token, own_member};
pub use policy::vxlan_policy;
pub use raft::{raft_machine, raft_message};
pub use raft_disk::{MemoryDisk, disk_script, raft_log};
pub use raft_sealed::{raft_sealed, sealed_scripts};
#[cfg(not(test))]
pub use unix::unix_stream;
pub use vxlan::{vxlan_headers, vxlan_local, vxlan_outer, vxlan_path, vxlan_remote, vxlan_switch};

/// A target takes any octets.
pub type Target = fn(&[u8]);

/// All targets by their names, which are also those of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("dns_message", dns_message),
    ("dns_query", dns_query),
    ("dns_upstream", dns_upstream),
    ("esp_open", esp_open),
    ("gossip_datagram", gossip_datagram),
    ("gossip_machine", gossip_machine),
    ("gossip_stream", gossip_stream),
    ("ipam_snapshot", ipam_snapshot),
    ("lb_frames", lb_frames),
    ("lb_proxy", lb_proxy),
    ("node_frame", node_frame),
    ("node_join", node_join),
    ("node_member", node_member),
    ("node_peer", node_peer),
    ("node_state", node_state),
    ("node_token", node_token),
    ("raft_log", raft_log),
    ("raft_machine", raft_machine),
    ("raft_message", raft_message),
    ("raft_sealed", raft_sealed),
    #[cfg(not(test))]
    ("unix_stream", unix_stream),
    ("vxlan_headers", vxlan_headers),
    ("vxlan_local", vxlan_local),
    ("vxlan_outer", vxlan_outer),
    ("vxlan_path", vxlan_path),
    ("vxlan_policy", vxlan_policy),
    ("vxlan_remote", vxlan_remote),
    ("vxlan_switch", vxlan_switch),
];
