//! How a member behaves, and every bound.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    ConfigError, Keyring, LeaseVerifier, MemberVerifier,
    table::RECORD_OVERHEAD_BYTES,
    wire::{Versions, overhead_bytes},
};

/// How a member behaves. [`Config::lan`] is memberlist's LAN profile.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this member, unique in the cluster; 1 to 64 octets. A restarted member keeps its name.
    pub name: String,
    /// Where others reach this member, datagrams and streams alike.
    pub advertise: SocketAddr,
    /// Guards against mixing clusters: packets with another label are refused. At most 128 octets, empty for none.
    pub label: Vec<u8>,
    /// What this member says of itself, at most 512 octets.
    pub meta: Vec<u8>,
    /// Keys; `None` runs the cluster in the clear.
    pub keyring: Option<Keyring>,
    /// With keys: whether packets in the clear are refused. Off only while a cluster gets its first key.
    pub verify_incoming: bool,
    /// With keys: whether packets are encrypted. Off only while a cluster gets its first key.
    pub verify_outgoing: bool,
    /// Whether packets are compressed where that makes them shorter, and streams always (memberlist's default).
    pub compress: bool,
    /// Minimum, maximum and current version of the application's protocol; others refuse to merge where they differ.
    pub delegate_versions: [u8; 3],
    /// Checks the leases in rows; `None` believes them.
    pub verifier: Option<Arc<dyn LeaseVerifier>>,
    /// Decides whether a member is who and where it claims to be; `None` believes the first that comes, and whoever
    /// comes once the holder of a name is Down. With one, members must say in [`meta`](Self::meta) what convinces it.
    pub member_verifier: Option<Arc<dyn MemberVerifier>>,
    /// Timers.
    pub timing: Timing,
    /// Bounds.
    pub limits: Limits,
}

/// Timers and fan-outs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between two probes, default 1 s. Shorter finds failures sooner and costs packets.
    pub probe_interval: Duration,
    /// Time until a probe asks others, default 500 ms. Above the 99th percentile of the round trip.
    pub probe_timeout: Duration,
    /// Members that are asked to probe for us, default 3.
    pub indirect_checks: usize,
    /// Length of a suspicion in probe intervals, times log10 of the members, default 4.
    pub suspicion_mult: u32,
    /// Longest suspicion as a multiple of the shortest, default 6.
    pub suspicion_max_timeout_mult: u32,
    /// Shortest suspicion whatever the number of members, default zero.
    pub suspicion_min: Duration,
    /// Local health stays below this, default 8.
    pub awareness_max: u32,
    /// Time between two rounds of gossip, default 200 ms.
    pub gossip_interval: Duration,
    /// Members told in a round, default 3.
    pub gossip_nodes: usize,
    /// How long a member that is Down is still told, default 30 s.
    pub gossip_to_the_dead: Duration,
    /// Times that a broadcast is sent, times log10 of the members, default 4.
    pub retransmit_mult: u32,
    /// Time between two exchanges of the whole membership, default 30 s.
    pub push_pull_interval: Duration,
    /// Time that a stream may take, default 10 s.
    pub stream_timeout: Duration,
    /// Whether a probe that gets no answer also tries a stream, default true.
    pub stream_ping: bool,
    /// Time between two tries to reach members that are Down, or seeds, default 1 s; backs off per member.
    pub heal_interval: Duration,
    /// Longest back-off between tries of one member or seed, default 30 s.
    pub heal_backoff_max: Duration,
    /// Expected number of members of a cluster that try in one interval, default 5.
    pub heal_nodes: u32,
    /// How long a member that is Down or Left is remembered, default 24 h.
    pub member_memory: Duration,
    /// How long a verified claim is believed without asking when its member comes back from Down or Left, default 60 s.
    /// Longer lets a member whose claim was revoked come back for longer; shorter verifies again and again what flaps.
    pub claim_memory: Duration,
    /// Longest time that leaving waits for its broadcast, default 5 s.
    pub leave_timeout: Duration,
    /// Members that a new own row is sent to at once, default 8.
    pub row_fanout: usize,
    /// Time between two digests of a network sent to one of its members, default 5 s.
    pub sync_interval: Duration,
    /// Members that are asked at once for the table on joining a network, and members of the cluster that are asked who is in
    /// it, default 3.
    pub sync_fanout: usize,
    /// Time after which an unanswered question about a table is put again, default 1 s.
    pub sync_retry: Duration,
    /// How long rows of a former life stay visible while their owner, back again, puts them anew, default 10 s.
    pub row_grace: Duration,
    /// How long a deleted row and a left network are remembered, default 30 min.
    pub tombstone_memory: Duration,
}

/// Bounds of everything that others can fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest datagram, in octets, default 1,400.
    pub packet_bytes_max: usize,
    /// Most octets that one datagram may expand to, default 65,536.
    pub decompressed_bytes_max: usize,
    /// Members that are remembered, default 16,384. Members Down or Left give way first.
    pub members_max: usize,
    /// Claims of new members, and of known ones that changed, that are verified in a second, default 1,000: a twentieth
    /// of a processor at 50 µs each. What goes beyond is dropped and heard later. Too low, and it takes long to learn
    /// of a large cluster: a new member asks again each second until it knows all.
    pub claims_per_second_max: u32,
    /// Seeds that are remembered, default 256.
    pub seeds_max: usize,
    /// Broadcasts that wait, of membership and of attachments and messages each, default 4,096.
    pub broadcasts_max: usize,
    /// Relayed probes under way, default 1,024.
    pub relays_max: usize,
    /// Streams that others opened, default 128.
    pub streams_max: usize,
    /// Streams that others opened from one IP address, default 32: nobody takes all places alone. Below the members
    /// behind one address (of a translator, say), some of them have to try again.
    pub streams_per_address_max: usize,
    /// Streams that we opened, default 128.
    pub dials_max: usize,
    /// Most octets of one stream's message, default 20 MiB.
    pub stream_bytes_max: usize,
    /// Most octets that all streams together may hold unread, default 64 MiB. Beyond, the one that holds most is closed.
    pub stream_bytes_total_max: usize,
    /// Networks whose attachments are remembered, default 4,096.
    pub networks_max: usize,
    /// Attachments of members to networks that are remembered, default 65,536.
    pub attachments_max: usize,
    /// Rows in all tables, deleted and hidden ones included, default 65,536.
    pub rows_max: usize,
    /// Row broadcasts that wait, in each network, default 4,096.
    pub row_broadcasts_max: usize,
    /// Most octets of one answer with rows, default 1 MiB; the rest comes with the next digest.
    pub sync_bytes_max: usize,
}

impl Config {
    /// Makes a configuration for a local network, with memberlist's LAN timers and nothing secret.
    pub fn lan(name: impl Into<String>, advertise: SocketAddr) -> Self {
        Self {
            name: name.into(),
            advertise,
            label: Vec::new(),
            meta: Vec::new(),
            keyring: None,
            verify_incoming: true,
            verify_outgoing: true,
            compress: true,
            delegate_versions: [0; 3],
            verifier: None,
            member_verifier: None,
            timing: Timing::lan(),
            limits: Limits::default(),
        }
    }

    pub(crate) fn versions(&self) -> Versions {
        let [min, max, current] = self.delegate_versions;
        Versions([1, 5, 2, min, max, current])
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=NAME_BYTES_MAX).contains(&self.name.len()) {
            return Err(ConfigError::Name {
                limit: NAME_BYTES_MAX,
                found: self.name.len(),
            });
        }
        if self.advertise.port() == 0 || self.advertise.ip().is_unspecified() {
            return Err(ConfigError::Advertise);
        }
        if self.label.len() > LABEL_BYTES_MAX {
            return Err(ConfigError::Label {
                limit: LABEL_BYTES_MAX,
                found: self.label.len(),
            });
        }
        check_meta(&self.meta)?;
        let need = RECORD_OVERHEAD_BYTES
            .saturating_add(crate::ROW_BYTES_MAX)
            .saturating_add(overhead_bytes(&self.label, self.keyring.is_some()));
        if self.limits.packet_bytes_max < need {
            return Err(ConfigError::PacketTooSmall {
                need,
                found: self.limits.packet_bytes_max,
            });
        }
        if self.limits.claims_per_second_max == 0 {
            let field = "claims_per_second_max";
            return Err(ConfigError::Zero { field });
        }
        self.timing.validate()
    }
}

impl Timing {
    /// memberlist's LAN profile.
    pub fn lan() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_checks: 3,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            suspicion_min: Duration::ZERO,
            awareness_max: 8,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            retransmit_mult: 4,
            push_pull_interval: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(10),
            stream_ping: true,
            heal_interval: Duration::from_secs(1),
            heal_backoff_max: Duration::from_secs(30),
            heal_nodes: 5,
            member_memory: Duration::from_secs(24 * 60 * 60),
            claim_memory: Duration::from_secs(60),
            leave_timeout: Duration::from_secs(5),
            row_fanout: 8,
            sync_interval: Duration::from_secs(5),
            sync_fanout: 3,
            sync_retry: Duration::from_secs(1),
            row_grace: Duration::from_secs(10),
            tombstone_memory: Duration::from_secs(30 * 60),
        }
    }

    /// memberlist's WAN profile.
    pub fn wan() -> Self {
        Self {
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(3),
            suspicion_mult: 6,
            gossip_interval: Duration::from_millis(500),
            gossip_nodes: 4,
            gossip_to_the_dead: Duration::from_secs(60),
            push_pull_interval: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(30),
            ..Self::lan()
        }
    }

    /// memberlist's profile for one host.
    pub fn local() -> Self {
        Self {
            probe_timeout: Duration::from_millis(200),
            indirect_checks: 1,
            suspicion_mult: 3,
            gossip_interval: Duration::from_millis(100),
            gossip_to_the_dead: Duration::from_secs(15),
            retransmit_mult: 2,
            push_pull_interval: Duration::from_secs(15),
            stream_timeout: Duration::from_secs(1),
            ..Self::lan()
        }
    }

    /// A small cluster that shall notice quickly: probes each 500 ms, gossip each 100 ms, suspicion at least 1 s.
    pub fn quick() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            suspicion_mult: 2,
            suspicion_min: Duration::from_secs(1),
            gossip_interval: Duration::from_millis(100),
            push_pull_interval: Duration::from_secs(10),
            stream_timeout: Duration::from_secs(5),
            heal_interval: Duration::from_millis(500),
            heal_backoff_max: Duration::from_secs(5),
            sync_interval: Duration::from_secs(2),
            sync_retry: Duration::from_millis(500),
            ..Self::lan()
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let durations = [
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("gossip_interval", self.gossip_interval),
            ("push_pull_interval", self.push_pull_interval),
            ("stream_timeout", self.stream_timeout),
            ("heal_interval", self.heal_interval),
            ("heal_backoff_max", self.heal_backoff_max),
            ("member_memory", self.member_memory),
            ("claim_memory", self.claim_memory),
            ("leave_timeout", self.leave_timeout),
            ("sync_interval", self.sync_interval),
            ("sync_retry", self.sync_retry),
            ("tombstone_memory", self.tombstone_memory),
        ];
        let counts = [
            ("suspicion_mult", self.suspicion_mult),
            (
                "suspicion_max_timeout_mult",
                self.suspicion_max_timeout_mult,
            ),
            ("awareness_max", self.awareness_max),
            ("retransmit_mult", self.retransmit_mult),
            ("heal_nodes", self.heal_nodes),
        ];
        let zero = durations.iter().find(|(_, duration)| duration.is_zero());
        let zero = zero.map(|(field, _)| *field);
        let none = counts.iter().find(|(_, count)| *count == 0);
        if let Some(field) = zero.or(none.map(|(field, _)| *field)) {
            return Err(ConfigError::Zero { field });
        }
        if self.probe_timeout >= self.probe_interval {
            return Err(ConfigError::ProbeTimeout);
        }
        Ok(())
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::lan()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1_400,
            decompressed_bytes_max: 65_536,
            members_max: 16_384,
            claims_per_second_max: 1_000,
            seeds_max: 256,
            broadcasts_max: 4_096,
            relays_max: 1_024,
            streams_max: 128,
            streams_per_address_max: 32,
            dials_max: 128,
            stream_bytes_max: 20 << 20,
            stream_bytes_total_max: 64 << 20,
            networks_max: 4_096,
            attachments_max: 65_536,
            rows_max: 65_536,
            row_broadcasts_max: 4_096,
            sync_bytes_max: 1 << 20,
        }
    }
}

pub(crate) fn check_meta(meta: &[u8]) -> Result<(), ConfigError> {
    if meta.len() > META_BYTES_MAX {
        return Err(ConfigError::Meta {
            limit: META_BYTES_MAX,
            found: meta.len(),
        });
    }
    Ok(())
}

/// Largest meta data, in octets (memberlist).
pub const META_BYTES_MAX: usize = 512;
/// Longest name, in octets.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest label, in octets.
pub const LABEL_BYTES_MAX: usize = 128;
