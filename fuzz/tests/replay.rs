//! Runs every target over its corpus, over what once crashed it, and over damaged copies: on stable Rust, without a
//! fuzzer.
//!
//! A failure names the target and leaves the octets in `artifacts/<target>/replay`; `OVERLAY_REPLAY_ROUNDS` asks for more.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use overlay_core::{Rng, Seed};
use overlay_fuzz::{TARGETS, Target};

/// Damaged copies for each target, as far as time goes.
const ROUNDS: u64 = 5_000;
/// Time for the damaged copies of each target.
const PATIENCE: Duration = Duration::from_millis(1_000);

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target)
}

/// Returns the files of a folder in the order of their names; none if there is no such folder.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target; what makes it panic is kept.
fn run(name: &str, target: Target, bytes: &[u8]) {
    struct Keep<'a>(&'a str, &'a [u8]);
    impl Drop for Keep<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let folder = folder("artifacts", self.0);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("replay"), self.1).unwrap();
            }
        }
    }
    let keep = Keep(name, bytes);
    target(bytes);
    drop(keep);
}

/// What faults and attackers do: flipped, lost, repeated and foreign octets.
fn damage(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut Rng| &corpus[rng.index(corpus.len()).unwrap()];
    let mut bytes = pick(rng).clone();
    for _ in 0..=rng.below(4) {
        let at = rng.index(bytes.len() + 1).unwrap();
        let end = at + rng.index(bytes.len() - at + 1).unwrap();
        let octet =
            [0, 1, 0x7f, 0x80, 0xff, rng.next_u64().to_le_bytes()[0]][rng.index(6).unwrap()];
        match rng.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] = octet,
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end.min(at + 8))),
            5 if bytes.len() < 4_096 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let other = pick(rng);
                let from = rng.index(other.len() + 1).unwrap();
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => bytes.insert(at, octet),
        }
    }
    bytes
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long this runs is bounded by real time"
)]
fn replay(name: &str) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = *target.expect("the target exists");
    let corpus = files(&folder("corpus", name));
    assert!(
        corpus.len() >= 3,
        "{name} has a corpus of {}: run `seeds`",
        corpus.len()
    );
    run(name, target, b"");
    for bytes in corpus.iter().chain(&files(&folder("crashes", name))) {
        run(name, target, bytes);
    }
    let rounds = std::env::var("OVERLAY_REPLAY_ROUNDS").ok();
    let asked = rounds.map(|rounds| rounds.parse().expect("a number of rounds"));
    let mut rng = Seed::from_u64(1).derive(name).rng();
    let start = Instant::now();
    for _ in 0..asked.unwrap_or(ROUNDS) {
        run(name, target, &damage(&mut rng, &corpus));
        if asked.is_none() && start.elapsed() > PATIENCE {
            break;
        }
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(replayed.as_slice(), names);
        }
    };
}

replays! {
    dns_message dns_query dns_upstream
    esp_open
    gossip_datagram gossip_machine gossip_stream
    ipam_snapshot
    lb_frames lb_proxy
    node_frame node_join node_member node_peer node_state node_token
    raft_log raft_machine raft_message raft_sealed
    unix_stream
    vxlan_headers vxlan_local vxlan_outer vxlan_path vxlan_policy vxlan_remote vxlan_switch
}
