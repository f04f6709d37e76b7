//! The machine: members, their probing, dissemination, streams, and the tables.

mod claims;
#[cfg(test)]
mod contract;
mod dissemination;
mod exchange;
mod healing;
mod membership;
mod probing;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, Machine, NetworkId, Rng, Seed};

use self::{exchange::Streams, healing::Healing, probing::Probing};
use crate::{
    Config, ConfigError, DecodeError, Event, Incarnation, KeyError, Keyring, Member, MemberState,
    Name, Output, Row, RowError, SendError, Stats,
    awareness::Awareness,
    config::check_meta,
    queue::Queue,
    roster::Roster,
    table::{MARK, TableOutput, Tables},
    wire::{Message, overhead_bytes},
};

/// Membership of one cluster, and the tables of its networks.
///
/// The [crate documentation](crate) shows the loop that drives it.
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    now: Instant,
    rng: Rng,
    local: Local,
    roster: Roster,
    awareness: Awareness,
    probing: Probing,
    broadcasts: Queue<Name>,
    user_broadcasts: Queue<UserKey>,
    streams: Streams,
    healing: Healing,
    tables: Tables,
    timers: Timers,
    outputs: VecDeque<Output>,
    stats: Stats,
}

/// This member.
#[derive(Debug)]
struct Local {
    member: Member,
    /// Until when leaving waits for its broadcast.
    leave_until: Option<Instant>,
}

/// What a broadcast that is no membership message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UserKey {
    Attachment(NetworkId, Name),
    Message(u64),
}

#[derive(Debug)]
struct Timers {
    gossip_at: Option<Instant>,
    gossip_from: Instant,
    push_pull_at: Instant,
    next_message: u64,
}

impl Gossip {
    /// Makes a member that is alone so far.
    ///
    /// `seed` comes from the system's entropy: the nonces of packets are drawn from it, so a seed that is used twice with
    /// the same key breaks the cipher.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says which field cannot work.
    pub fn new(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let member = Member {
            name: Name::from(config.name.as_str()),
            address: canonical(config.advertise),
            meta: Bytes::from(config.meta.clone()),
            state: MemberState::Alive,
            incarnation: Incarnation(1),
            versions: config.versions(),
        };
        let overhead = overhead_bytes(&config.label, config.keyring.is_some());
        let packet_bytes = config.limits.packet_bytes_max - overhead;
        let mut rng = seed.derive("gossip").rng();
        Ok(Self {
            now,
            local: Local {
                member,
                leave_until: None,
            },
            roster: Roster::default(),
            awareness: Awareness::new(config.timing.awareness_max),
            probing: Probing::new(now, rng.next_u32()),
            broadcasts: Queue::new(config.limits.broadcasts_max),
            user_broadcasts: Queue::new(config.limits.broadcasts_max),
            streams: Streams::default(),
            healing: Healing::default(),
            tables: Tables::new(&config, packet_bytes, &seed.derive("tables"), now),
            timers: Timers {
                gossip_at: None,
                gossip_from: now,
                push_pull_at: now,
                next_message: 0,
            },
            outputs: VecDeque::new(),
            stats: Stats::default(),
            rng,
            config,
        })
    }

    /// Joins a cluster through any of `seeds`, which are also remembered: whenever none of our members has the
    /// address of a seed, it is tried again, so that clusters that split find each other.
    ///
    /// Seeds beyond [`Limits::seeds_max`](crate::Limits::seeds_max) are ignored. A member that left may join again.
    pub fn join(&mut self, now: Instant, seeds: &[SocketAddr]) {
        self.advance(now);
        self.rejoin();
        self.add_seeds(seeds);
        self.settle();
    }

    /// Tells everybody that this member leaves. [`Event::LeaveDone`] follows; then the driver may stop.
    pub fn leave(&mut self, now: Instant) {
        self.advance(now);
        self.start_leaving();
        self.settle();
    }

    /// Changes what this member says of itself.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Meta`] if it is longer than 512 octets.
    pub fn set_meta(&mut self, now: Instant, meta: Vec<u8>) -> Result<(), ConfigError> {
        check_meta(&meta)?;
        self.advance(now);
        if self.local.member.meta != meta {
            self.local.member.meta = Bytes::from(meta);
            self.renew_incarnation(self.local.member.incarnation);
        }
        self.settle();
        Ok(())
    }

    /// A datagram arrived from `from`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if nothing of it was readable or meant for this cluster; it is counted and nothing changed.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DecodeError> {
        self.stats.datagrams_received += 1;
        let packet = self.packet_codec().decode(bytes);
        let packet = packet.inspect_err(|_| self.stats.malformed += 1)?;
        self.advance(now);
        self.stats.parts_ignored += u64::try_from(packet.ignored).unwrap_or(0);
        let from = canonical(from);
        for message in packet.messages {
            self.on_message(from, message);
        }
        self.settle();
        Ok(())
    }

    /// Sends octets of the application to one member: by datagram if they fit one, otherwise by stream.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing changed.
    pub fn send(&mut self, now: Instant, to: &str, bytes: &[u8]) -> Result<(), SendError> {
        check_message(bytes, self.config.limits.stream_bytes_max)?;
        let entry = self.roster.get(to);
        let unknown = || SendError::UnknownMember {
            name: to.to_owned(),
        };
        let entry = entry.ok_or_else(unknown)?;
        let (address, name) = (entry.member.address, entry.member.name.clone());
        let limit = self.config.limits.dials_max;
        if !self.fits_packet(bytes.len()) && self.streams.dialled() >= limit {
            return Err(SendError::Busy { limit });
        }
        self.advance(now);
        self.send_user(address, Some(&name), bytes);
        self.settle();
        Ok(())
    }

    /// Sends octets of the application to all members, with the gossip: most get them, none twice as a rule.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLong`] if they do not fit a packet, [`SendError::Reserved`]; nothing changed.
    pub fn broadcast(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SendError> {
        check_message(bytes, self.gossip_budget().saturating_sub(3))?;
        self.advance(now);
        self.timers.next_message += 1;
        let key = UserKey::Message(self.timers.next_message);
        let message = Message::User(bytes.to_vec()).encode();
        self.user_broadcasts.push(key, Bytes::from(message), true);
        self.arm_gossip();
        self.settle();
        Ok(())
    }

    /// Returns all members that are remembered, ourselves first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let others = self.roster.entries().map(|entry| &entry.member);
        std::iter::once(&self.local.member).chain(others)
    }

    /// Returns a member by its name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        if *self.local.member.name == *name {
            return Some(&self.local.member);
        }
        self.roster.get(name).map(|entry| &entry.member)
    }

    /// Returns this member.
    pub fn local(&self) -> &Member {
        &self.local.member
    }

    /// Returns how healthy this node believes to be: 0 is healthy (Lifeguard §IV-A).
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// Returns the counters.
    pub fn stats(&self) -> Stats {
        let dropped = self.broadcasts.dropped() + self.user_broadcasts.dropped();
        Stats {
            broadcasts_dropped: dropped,
            tables: self.tables.stats(),
            ..self.stats
        }
    }

    /// Returns the keys, if the cluster has any.
    pub fn keyring(&self) -> Option<&Keyring> {
        self.config.keyring.as_ref()
    }

    /// Adds a key: it decrypts from now on. First step of a rotation.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; nothing changed.
    pub fn install_key(&mut self, now: Instant, key: &[u8]) -> Result<(), KeyError> {
        self.with_keyring(now, |ring| ring.install(key))
    }

    /// Makes an installed key the one that encrypts. Second step of a rotation, once every member installed it.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; nothing changed.
    pub fn use_key(&mut self, now: Instant, key: &[u8]) -> Result<(), KeyError> {
        self.with_keyring(now, |ring| ring.make_primary(key))
    }

    /// Removes a key. Last step of a rotation, once every member uses another one.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; nothing changed.
    pub fn remove_key(&mut self, now: Instant, key: &[u8]) -> Result<(), KeyError> {
        self.with_keyring(now, |ring| ring.remove(key))
    }

    /// Makes the ring just `keys`, of which `primary` encrypts from now on: a rotation in one step.
    ///
    /// Members whose primary keys the other holds understand each other. With three keys, oldest, primary and newest, of
    /// which each rotation drops the oldest and adds a new one, that is so while they are one rotation apart; a member
    /// that missed two hears nobody until it is given the keys of today.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; nothing changed.
    pub fn set_keys<K: AsRef<[u8]>>(
        &mut self,
        now: Instant,
        keys: &[K],
        primary: &[u8],
    ) -> Result<(), KeyError> {
        self.with_keyring(now, |ring| ring.replace(keys, primary))
    }

    /// Joins a network: its rows come here from now on. [`Event::NetworkSynced`] says that its table was fetched.
    pub fn join_network(&mut self, now: Instant, network: NetworkId) {
        self.advance(now);
        let alone = self.is_alone();
        self.tables.join_network(self.now, network, alone);
        self.settle();
    }

    /// Leaves a network: our rows in it vanish everywhere, and its table here.
    pub fn leave_network(&mut self, now: Instant, network: NetworkId) {
        self.advance(now);
        self.tables.leave_network(self.now, network);
        self.settle();
    }

    /// Puts a row of an endpoint that runs here, in place of the one that was there.
    ///
    /// It leaves at once to some members of the network and then with the gossip.
    ///
    /// # Errors
    ///
    /// [`RowError`]; nothing changed.
    pub fn put_row(&mut self, now: Instant, network: NetworkId, row: Row) -> Result<(), RowError> {
        let now = now.max(self.now);
        self.tables.put_row(now, network, row)?;
        self.advance(now);
        self.settle();
        Ok(())
    }

    /// Deletes the row of an endpoint that ran here; unknown ones are fine.
    pub fn delete_row(&mut self, now: Instant, network: NetworkId, endpoint: EndpointId) {
        self.advance(now);
        self.tables.delete_row(self.now, network, endpoint);
        self.settle();
    }

    /// Returns the visible rows of a network with their owners, own rows included.
    pub fn rows(&self, network: NetworkId) -> impl Iterator<Item = (&str, &Row)> {
        self.tables.rows(network)
    }

    /// Returns the other members of a network that are up.
    pub fn network_members(&self, network: NetworkId) -> impl Iterator<Item = &Member> {
        let names = self.tables.network_members(network);
        names.filter_map(|name| self.roster.get(name).map(|entry| &entry.member))
    }

    /// Returns the networks that this member joined.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> {
        self.tables.joined_networks()
    }

    /// Returns a digest of the visible rows of a network: equal tables have equal digests.
    pub fn table_digest(&self, network: NetworkId) -> u64 {
        self.tables.digest(network)
    }

    fn with_keyring(
        &mut self,
        now: Instant,
        change: impl FnOnce(&mut Keyring) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        let ring = self.config.keyring.as_mut().ok_or(KeyError::Plain)?;
        change(ring)?;
        self.advance(now);
        Ok(())
    }

    /// Takes the time in. If it is much later than the next deadline, this process slept: nobody else is to blame for
    /// what did not arrive meanwhile, so suspicions and the probe under way get that much more time.
    fn advance(&mut self, now: Instant) {
        let now = now.max(self.now);
        if let Some(due) = self.deadline() {
            // What was counted before is not counted again while packets that waited are taken in.
            let gap = now.duration_since(due.max(self.now));
            if gap > self.config.timing.probe_timeout {
                self.stats.late_ticks += 1;
                self.roster.delay(gap);
                self.probing.delay(gap);
            }
        }
        self.now = now;
    }

    fn deadline(&self) -> Option<Instant> {
        let left = self.local.member.state == MemberState::Left;
        let timers = [
            self.probing.deadline(self.roster.up() > 0 && !left),
            self.timers.gossip_at,
            (self.roster.up() > 0).then_some(self.timers.push_pull_at),
            self.roster.next_deadline(),
            self.streams.deadline(),
            self.healing.deadline(),
            self.tables.poll_timeout(),
            self.local.leave_until,
        ];
        timers.into_iter().flatten().min()
    }

    /// Lets the tables say what they have to say.
    fn settle(&mut self) {
        while let Some(output) = self.tables.poll_output() {
            match output {
                TableOutput::Send { to, via, bytes } => {
                    let known = self.roster.get(&to).map(|entry| entry.member.address);
                    if let Some(address) = known.or(via) {
                        self.send_user(address, Some(&to), &bytes);
                    }
                }
                TableOutput::Broadcast {
                    owner,
                    network,
                    bytes,
                    own,
                } => {
                    let key = UserKey::Attachment(network, owner);
                    let message = Message::User(bytes).encode();
                    self.user_broadcasts.push(key, Bytes::from(message), own);
                    self.arm_gossip();
                }
                TableOutput::Event(event) => self.event(event),
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl Machine for Gossip {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.close_late_streams();
        self.probe_due();
        // After the probe, whose failure may be the confirmation that ends a suspicion.
        self.end_suspicions();
        self.push_pull_due();
        self.heal_due();
        self.tables.handle_timeout(self.now);
        self.settle();
        self.gossip_due();
        self.leave_due();
        self.settle();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() {
            self.deadline().map(|at| at.max(self.now))
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

fn check_message(bytes: &[u8], limit: usize) -> Result<(), SendError> {
    if bytes.len() > limit {
        return Err(SendError::TooLong {
            limit,
            found: bytes.len(),
        });
    }
    match bytes.first() {
        Some(&first) if first == MARK => Err(SendError::Reserved { first }),
        _ => Ok(()),
    }
}

/// An IPv4 address is one, in whatever clothes it comes.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
