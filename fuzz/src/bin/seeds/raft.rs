//! What three members of a cluster say and write.

use std::collections::BTreeMap;

use bytes::Bytes;
use overlay_core::{Instant, Machine, Seed as Randomness};
use overlay_fuzz::{MemoryDisk, Script, disk_script, sealed_scripts};
use overlay_raft::{
    Change, Config, Output, Raft, RaftId, Restored,
    storage::{Log, StorageConfig},
};

use crate::{Seed, seed};

fn id(number: u64) -> RaftId {
    RaftId::new(number).expect("not zero")
}

struct Member {
    raft: Raft,
    log: Log<MemoryDisk>,
}

/// Three members, and everything that was said to the first.
struct Cluster {
    members: Vec<Member>,
    now: Instant,
    heard: BTreeMap<u8, Vec<u8>>,
    cut: Option<RaftId>,
}

impl Cluster {
    fn new() -> Self {
        let now = Instant::from_millis(1);
        let ids = [1, 2, 3].map(id);
        let member = |of: RaftId| {
            let config = Config {
                trailing_entries_max: 0,
                snapshot_chunk_bytes_max: 16,
                ..Config::new(of, 7)
            };
            let seed = Randomness::from_u64(of.get());
            let raft = Raft::new(config, seed, now, Restored::bootstrap(ids));
            let config = StorageConfig {
                segment_bytes_max: 256,
                reserve_bytes_max: 128,
            };
            let (log, _) = Log::open(MemoryDisk::default(), config).expect("an empty disk opens");
            Member {
                raft: raft.expect("good settings"),
                log,
            }
        };
        Self {
            members: ids.map(member).into(),
            now,
            heard: BTreeMap::new(),
            cut: None,
        }
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 20 {
            self.now += std::time::Duration::from_millis(20);
            for at in 0..3 {
                self.members[at].raft.handle_timeout(self.now);
            }
            while (0..3).any(|at| self.drain(at)) {}
        }
    }

    fn drain(&mut self, at: usize) -> bool {
        let from = self.members[at].raft.id();
        let mut busy = false;
        self.members[at].raft.handle_timeout(self.now);
        while let Some(output) = self.members[at].raft.poll_output() {
            busy = true;
            match output {
                Output::Persist(batch) => {
                    let (write, ticket) = batch.into_parts();
                    let member = &mut self.members[at];
                    member
                        .log
                        .write(&write)
                        .expect("a disk in memory does not fail");
                    member.raft.handle_persisted(self.now, ticket);
                }
                Output::Send { to, message } if self.cut != Some(to) && self.cut != Some(from) => {
                    let bytes = message.encode();
                    if to == id(1) {
                        // The longest of a kind is the most telling.
                        let known = self.heard.entry(bytes[0]).or_default();
                        if known.len() < bytes.len() {
                            *known = bytes.to_vec();
                        }
                    }
                    let to = usize::try_from(to.get()).expect("few members") - 1;
                    // Of the learner that is added only what is sent to it is seen.
                    if let Some(member) = self.members.get_mut(to) {
                        member
                            .raft
                            .handle_message(self.now, from, message)
                            .expect("a good message");
                    }
                }
                _ => {}
            }
        }
        busy
    }

    fn propose(&mut self, text: &'static [u8]) {
        let now = self.now;
        let leader = self
            .members
            .iter_mut()
            .find(|member| member.raft.is_leader());
        let raft = &mut leader.expect("somebody leads").raft;
        raft.propose(now, Bytes::from_static(text))
            .expect("a leader takes commands");
        self.run(200);
    }

    fn disk(&self, of: usize) -> &MemoryDisk {
        self.members[of].log.disk()
    }
}

/// Runs a cluster through everything; shows the disks on the way.
fn story(mut look: impl FnMut(&Cluster, &str)) -> Cluster {
    let mut cluster = Cluster::new();
    let now = cluster.now;
    cluster.members[0].raft.campaign(now);
    cluster.run(400);
    look(&cluster, "elected");
    cluster.propose(b"one");
    cluster.propose(b"two");
    let now = cluster.now;
    cluster.members[0]
        .raft
        .change(now, &[Change::AddLearner(id(4))])
        .expect("a new member");
    cluster.run(400);
    look(&cluster, "changed");
    cluster.members[0]
        .raft
        .transfer(cluster.now, id(2))
        .expect("a voter that is up to date");
    cluster.run(400);
    cluster.cut = Some(id(1));
    cluster.run(2_500);
    cluster.propose(b"three");
    let now = cluster.now;
    for member in &mut cluster.members[1..] {
        let applied = member.raft.applied();
        let state = Bytes::from_static(b"one two three, and what else there is");
        member
            .raft
            .compact(now, applied, state)
            .expect("it was applied");
    }
    cluster.run(100);
    cluster.cut = None;
    cluster.run(3_000);
    cluster.propose(b"four");
    look(&cluster, "snapshot");
    cluster
}

pub(crate) fn messages() -> Vec<Seed> {
    let cluster = story(|_, _| {});
    let heard = cluster.heard.into_iter();
    heard
        .map(|(kind, bytes)| seed(format!("kind-{kind}"), bytes))
        .collect()
}

pub(crate) fn disks() -> Vec<Seed> {
    let mut seeds = Vec::new();
    story(|cluster, name| {
        for (of, is_repaired) in [(0, false), (0, true), (1, true)] {
            let name = format!("{name}-{of}-{is_repaired}");
            seeds.push(seed(name, disk_script(cluster.disk(of), is_repaired)));
        }
    });
    seeds
}

pub(crate) fn sealed() -> Vec<Seed> {
    let names = ["synced", "batch", "cut", "empty", "long"];
    let files = names.into_iter().zip(sealed_scripts());
    files.map(|(name, bytes)| seed(name, bytes)).collect()
}

pub(crate) fn scripts() -> Vec<Seed> {
    // Time, agreement to the pre-vote, a write, agreement to the vote, a write: member 1 leads.
    let lead = || Script::new().op(&[14, 0, 9, 4, 9, 4, 9, 4, 9]);
    let propose = |script: Script| script.op(&[10]).bytes(b"command").op(&[9, 4, 9]);
    let mut seeds = vec![
        seed(
            "time",
            Script::new().op(&[7, 255, 4, 9, 4, 9, 7, 255, 4, 9]).done(),
        ),
        seed("lead", propose(propose(lead())).done()),
        seed("read", propose(lead()).op(&[13, 4, 7, 20, 4]).done()),
        seed(
            "change",
            propose(lead())
                .op(&[11, 4, 0, 9, 4, 9, 11, 4, 3, 9, 4])
                .done(),
        ),
        seed("transfer", propose(lead()).op(&[14, 2, 2, 4]).done()),
        seed(
            "compact",
            propose(lead())
                .op(&[12])
                .bytes(b"state")
                .op(&[9, 15, 7, 255])
                .done(),
        ),
        seed(
            "fail",
            lead().op(&[10]).bytes(b"command").op(&[14, 1, 15]).done(),
        ),
    ];
    // The bodies of real messages, one after another: header of 6 octets, envelope of 5 or more.
    let mut told = Script::new();
    for (name, bytes) in messages() {
        told = told.op(&[3, 2]).bytes(&bytes).op(&[9]);
        type Envelope = (u64, u64, u64, u64, Option<u64>);
        let (_, body): (Envelope, _) =
            postcard::take_from_bytes(&bytes[6..]).expect("every message has an envelope");
        let script = Script::new()
            .op(&[0, 0, bytes[0], 0x14])
            .bytes(body)
            .op(&[9, 7, 30]);
        seeds.push(seed(format!("told-{name}"), script.done()));
    }
    seeds.push(seed("told", told.done()));
    seeds
}
