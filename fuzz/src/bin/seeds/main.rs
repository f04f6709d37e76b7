//! Writes what the corpora begin with: octets that the crates' own encoders make.
//!
//! `cargo run --bin seeds`, in `fuzz/`. The same octets every time; what fuzzing added is left alone.

mod dns;
mod esp;
mod gossip;
mod ipam;
mod lb;
mod node;
mod policy;
mod raft;
mod vxlan;

use std::{fs, io, path::Path};

/// Name of a file and its octets.
type Seed = (String, Vec<u8>);

fn main() -> io::Result<()> {
    for (target, seeds) in [
        ("dns_message", dns::messages()),
        ("dns_query", dns::queries()),
        ("dns_upstream", dns::answers()),
        ("esp_open", esp::scripts()),
        ("gossip_datagram", gossip::datagrams()),
        ("gossip_machine", gossip::scripts()),
        ("gossip_stream", gossip::streams()),
        ("ipam_snapshot", ipam::states()),
        ("lb_frames", lb::scripts()),
        ("lb_proxy", lb::headers()),
        ("node_frame", node::frames()),
        ("node_join", node::joins()),
        ("node_member", node::members()),
        ("node_peer", node::conversations()),
        ("node_state", node::states()),
        ("node_token", node::tokens()),
        ("raft_log", raft::disks()),
        ("raft_machine", raft::scripts()),
        ("raft_message", raft::messages()),
        ("raft_sealed", raft::sealed()),
        ("unix_stream", unix_streams()),
        ("vxlan_headers", vxlan::headers()),
        ("vxlan_local", vxlan::local()),
        ("vxlan_outer", vxlan::outer()),
        ("vxlan_path", vxlan::paths()),
        ("vxlan_policy", policy::scripts()),
        ("vxlan_remote", vxlan::remote()),
        ("vxlan_switch", vxlan::scripts()),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

fn seed(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    (name.into(), bytes.into())
}

/// Frames of each kind, all of them, and one that is cut short.
fn unix_streams() -> Vec<Seed> {
    let frame = |stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("it is short");
        [&[stream][..], &length.to_be_bytes(), payload].concat()
    };
    let frames = [
        ("stdin", frame(0, b"in")),
        ("stdin-end", frame(0, b"")),
        ("stdout", frame(1, b"out")),
        ("stderr", frame(2, b"err")),
        ("resize", frame(3, &[0, 24, 0, 80])),
        ("exit", frame(4, &[0, 0, 0, 1])),
        ("signal", frame(5, &[15])),
        ("failure", frame(6, b"because")),
        ("cut", frame(1, b"out")[..6].to_vec()),
    ];
    let all: Vec<u8> = frames.iter().flat_map(|(_, frame)| frame.clone()).collect();
    let mut seeds = vec![seed("all", all)];
    seeds.extend(frames.map(|(name, frame)| seed(name, frame)));
    seeds
}
