//! The bodies of memberlist's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    kind,
    msgpack::{Reader, Writer},
};
use crate::DecodeError;

/// One message of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Are you there?
    Ping(Ping),
    /// Ask somebody else whether they are there.
    IndirectPing(IndirectPing),
    /// I am, or they are.
    Ack(Ack),
    /// They did not answer me in time.
    Nack(Nack),
    /// A member does not answer.
    Suspect(Accusation),
    /// A member is there, with this address and meta data.
    Alive(Alive),
    /// A member is gone; if it says so itself, it left.
    Dead(Accusation),
    /// Octets of the application; to the end of the message.
    User(Vec<u8>),
}

/// Where an answer goes, if not to the source of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Address of the asking member.
    pub address: SocketAddr,
    /// Its name.
    pub node: String,
}

/// A ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Number that the answer carries.
    pub sequence: u32,
    /// Name of the member that shall answer; empty for anyone.
    pub node: String,
    /// Where the answer goes.
    pub origin: Option<Origin>,
}

/// A request to ping somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndirectPing {
    /// Number that the answer carries.
    pub sequence: u32,
    /// Address of the member to be pinged.
    pub target: SocketAddr,
    /// Its name.
    pub node: String,
    /// Whether a nack is wanted.
    pub nack: bool,
    /// Where the answer goes.
    pub origin: Option<Origin>,
}

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Number of the ping.
    pub sequence: u32,
    /// Octets of the application.
    pub payload: Vec<u8>,
}

/// The answer of a relay that heard nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Number of the request.
    pub sequence: u32,
}

/// Body of suspect and dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The incarnation that is accused.
    pub incarnation: u32,
    /// The accused.
    pub node: String,
    /// Who accuses.
    pub from: String,
}

/// Protocol and delegate versions: minimum, maximum and current of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions(pub [u8; 6]);

impl Versions {
    /// Returns minimum, maximum and current version of the protocol.
    pub const fn protocol(self) -> (u8, u8, u8) {
        let [min, max, current, ..] = self.0;
        (min, max, current)
    }

    /// Returns minimum, maximum and current version of the delegate, the application's protocol.
    pub const fn delegate(self) -> (u8, u8, u8) {
        let [_, _, _, min, max, current] = self.0;
        (min, max, current)
    }

    /// Returns false for versions with which an alive is ignored.
    pub const fn is_sound(self) -> bool {
        let (min, max, _) = self.protocol();
        max != 0 && min <= max
    }
}

/// A member is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Its incarnation.
    pub incarnation: u32,
    /// Its name.
    pub node: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its meta data, at most 512 octets.
    pub meta: Vec<u8>,
    /// What it speaks.
    pub versions: Versions,
}

/// One member as push/pull lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPullNode {
    /// What an alive would say of it.
    pub alive: Alive,
    /// 0 alive, 1 suspect, 2 dead, 3 left.
    pub state: u8,
}

/// A whole push/pull message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushPull {
    /// Whether the sender is joining.
    pub join: bool,
    /// All members that the sender knows.
    pub nodes: Vec<PushPullNode>,
    /// Octets of the application.
    pub user_state: Vec<u8>,
}

impl Message {
    /// Encodes the message, type octet first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Ping(ping) => ping.emit(&mut out),
            Self::IndirectPing(ping) => ping.emit(&mut out),
            Self::Ack(ack) => ack.emit(&mut out),
            Self::Nack(nack) => nack.emit(&mut out),
            Self::Suspect(accusation) => accusation.emit(kind::SUSPECT, &mut out),
            Self::Alive(alive) => alive.emit(&mut out),
            Self::Dead(accusation) => accusation.emit(kind::DEAD, &mut out),
            Self::User(bytes) => {
                out.push(kind::USER);
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// Decodes one message without wrappers, type octet first. Octets behind a msgpack body are ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Kind`] for wrappers, messages of streams and unknown types; otherwise what is malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&first, body) = bytes
            .split_first()
            .ok_or(DecodeError::Truncated { need: 1, have: 0 })?;
        let reader = &mut Reader::new(body, 0);
        Ok(match first {
            kind::PING => Self::Ping(Ping::parse(reader)?),
            kind::INDIRECT_PING => Self::IndirectPing(IndirectPing::parse(reader)?),
            kind::ACK => Self::Ack(Ack::parse(reader)?),
            kind::NACK => Self::Nack(Nack::parse(reader)?),
            kind::SUSPECT => Self::Suspect(Accusation::parse(reader)?),
            kind::ALIVE => Self::Alive(Alive::parse(reader)?),
            kind::DEAD => Self::Dead(Accusation::parse(reader)?),
            kind::USER => Self::User(body.to_vec()),
            found => return Err(DecodeError::Kind { found }),
        })
    }
}

impl Ping {
    fn emit(&self, out: &mut Vec<u8>) {
        out.push(kind::PING);
        let mut writer = Writer(out);
        writer.map(if self.origin.is_some() { 5 } else { 2 });
        writer.key("Node").raw(self.node.as_bytes());
        writer.key("SeqNo").uint(u64::from(self.sequence));
        emit_origin(self.origin.as_ref(), &mut writer);
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut sequence, mut node, mut source) = (0, "", Source::default());
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"SeqNo" => sequence = reader.number("SeqNo")?,
                b"Node" => node = reader.text("Node")?,
                key => source.field(key, reader)?,
            }
        }
        Ok(Self {
            sequence,
            node: node.to_owned(),
            origin: source.origin(),
        })
    }
}

impl IndirectPing {
    fn emit(&self, out: &mut Vec<u8>) {
        out.push(kind::INDIRECT_PING);
        let mut writer = Writer(out);
        writer.map(if self.origin.is_some() { 8 } else { 5 });
        writer.key("Nack").boolean(self.nack);
        writer.key("Node").raw(self.node.as_bytes());
        writer.key("Port").uint(u64::from(self.target.port()));
        writer.key("SeqNo").uint(u64::from(self.sequence));
        emit_origin(self.origin.as_ref(), &mut writer);
        emit_address("Target", self.target.ip(), &mut writer);
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut sequence, mut nack, mut node) = (0, false, "");
        let (mut target, mut port, mut source) = (None, 0, Source::default());
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"SeqNo" => sequence = reader.number("SeqNo")?,
                b"Node" => node = reader.text("Node")?,
                b"Nack" => nack = reader.boolean()?,
                b"Target" => target = address(reader.raw()?, "Target")?,
                b"Port" => port = reader.number("Port")?,
                key => source.field(key, reader)?,
            }
        }
        let target = target.ok_or(DecodeError::Value { field: "Target" })?;
        Ok(Self {
            sequence,
            target: SocketAddr::new(target, port),
            node: node.to_owned(),
            nack,
            origin: source.origin(),
        })
    }
}

impl Ack {
    fn emit(&self, out: &mut Vec<u8>) {
        out.push(kind::ACK);
        let mut writer = Writer(out);
        writer.map(2);
        writer.key("Payload").bytes(&self.payload);
        writer.key("SeqNo").uint(u64::from(self.sequence));
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut sequence, mut payload) = (0, &[][..]);
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"SeqNo" => sequence = reader.number("SeqNo")?,
                b"Payload" => payload = reader.raw()?,
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            sequence,
            payload: payload.to_vec(),
        })
    }
}

impl Nack {
    fn emit(self, out: &mut Vec<u8>) {
        out.push(kind::NACK);
        let mut writer = Writer(out);
        writer.map(1);
        writer.key("SeqNo").uint(u64::from(self.sequence));
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut sequence = 0;
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"SeqNo" => sequence = reader.number("SeqNo")?,
                _ => reader.skip()?,
            }
        }
        Ok(Self { sequence })
    }
}

impl Accusation {
    fn emit(&self, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        let mut writer = Writer(out);
        writer.map(3);
        writer.key("From").raw(self.from.as_bytes());
        writer.key("Incarnation").uint(u64::from(self.incarnation));
        writer.key("Node").raw(self.node.as_bytes());
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut incarnation, mut node, mut from) = (0, "", "");
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"Incarnation" => incarnation = reader.number("Incarnation")?,
                b"Node" => node = name(reader)?,
                b"From" => from = reader.text("From")?,
                _ => reader.skip()?,
            }
        }
        check_name(node)?;
        Ok(Self {
            incarnation,
            node: node.to_owned(),
            from: from.to_owned(),
        })
    }
}

impl Alive {
    fn emit(&self, out: &mut Vec<u8>) {
        out.push(kind::ALIVE);
        let mut writer = Writer(out);
        writer.map(6);
        emit_address("Addr", self.address.ip(), &mut writer);
        writer.key("Incarnation").uint(u64::from(self.incarnation));
        writer.key("Meta").bytes(&self.meta);
        writer.key("Node").raw(self.node.as_bytes());
        writer.key("Port").uint(u64::from(self.address.port()));
        writer.key("Vsn").raw(&self.versions.0);
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Described::parse(reader, b"Node").map(|described| described.alive)
    }
}

impl PushPullNode {
    /// Appends the map of one node, without a type octet.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        let (mut writer, alive) = (Writer(out), &self.alive);
        writer.map(7);
        emit_address("Addr", alive.address.ip(), &mut writer);
        writer.key("Incarnation").uint(u64::from(alive.incarnation));
        writer.key("Meta").bytes(&alive.meta);
        writer.key("Name").raw(alive.node.as_bytes());
        writer.key("Port").uint(u64::from(alive.address.port()));
        writer.key("State").uint(u64::from(self.state));
        writer.key("Vsn").raw(&alive.versions.0);
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Described::parse(reader, b"Name").map(|Described { alive, state }| Self { alive, state })
    }
}

/// What alive and the nodes of push/pull have in common; they spell the name's key differently.
struct Described {
    alive: Alive,
    state: u8,
}

impl Described {
    fn parse(reader: &mut Reader<'_>, name_key: &[u8]) -> Result<Self, DecodeError> {
        let (mut incarnation, mut state, mut node, mut meta) = (0, 0, "", &[][..]);
        let (mut ip, mut port, mut versions) = (None, 0, Versions::default());
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"Incarnation" => incarnation = reader.number("Incarnation")?,
                b"Addr" => ip = address(reader.raw()?, "Addr")?,
                b"Port" => port = reader.number("Port")?,
                b"Meta" => meta = reader.raw()?,
                b"State" => state = reader.number("State")?,
                b"Vsn" => versions = parse_versions(reader.raw()?)?,
                key if key == name_key => node = name(reader)?,
                _ => reader.skip()?,
            }
        }
        check_name(node)?;
        if meta.len() > META_BYTES_MAX {
            return Err(DecodeError::TooLong {
                what: "Meta",
                limit: META_BYTES_MAX,
                found: meta.len(),
            });
        }
        let ip = ip.ok_or(DecodeError::Value { field: "Addr" })?;
        let alive = Alive {
            incarnation,
            node: node.to_owned(),
            address: SocketAddr::new(ip, port),
            meta: meta.to_vec(),
            versions,
        };
        Ok(Self { alive, state })
    }
}

/// The three optional fields of pings, as they arrive.
#[derive(Default)]
struct Source<'a> {
    address: Option<IpAddr>,
    port: u16,
    node: &'a str,
}

impl<'a> Source<'a> {
    fn field(&mut self, key: &[u8], reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        match key {
            b"SourceAddr" => self.address = address(reader.raw()?, "SourceAddr")?,
            b"SourcePort" => self.port = reader.number("SourcePort")?,
            b"SourceNode" => self.node = reader.text("SourceNode")?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    /// Answers go to the origin only if both address and port are there.
    fn origin(self) -> Option<Origin> {
        let address = self.address.filter(|_| self.port != 0)?;
        Some(Origin {
            address: SocketAddr::new(address, self.port),
            node: self.node.to_owned(),
        })
    }
}

fn emit_origin(origin: Option<&Origin>, writer: &mut Writer<'_>) {
    let Some(origin) = origin else { return };
    emit_address("SourceAddr", origin.address.ip(), writer);
    writer.key("SourceNode").raw(origin.node.as_bytes());
    writer
        .key("SourcePort")
        .uint(u64::from(origin.address.port()));
}

fn emit_address(key: &str, address: IpAddr, writer: &mut Writer<'_>) {
    match address.to_canonical() {
        IpAddr::V4(address) => writer.key(key).raw(&address.octets()),
        IpAddr::V6(address) => writer.key(key).raw(&address.octets()),
    }
}

fn address(bytes: &[u8], field: &'static str) -> Result<Option<IpAddr>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = || <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    let address = v4.or_else(|_| v6());
    address
        .map(|address| Some(address.to_canonical()))
        .map_err(|_| DecodeError::Value { field })
}

fn parse_versions(bytes: &[u8]) -> Result<Versions, DecodeError> {
    if bytes.is_empty() {
        return Ok(Versions::default());
    }
    let versions = bytes.try_into().map(Versions);
    versions.map_err(|_| DecodeError::Value { field: "Vsn" })
}

fn name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    reader.text("Node")
}

fn check_name(name: &str) -> Result<(), DecodeError> {
    match name.len() {
        0 => Err(DecodeError::Value { field: "Node" }),
        found if found > NAME_BYTES_MAX => Err(DecodeError::TooLong {
            what: "Node",
            limit: NAME_BYTES_MAX,
            found,
        }),
        _ => Ok(()),
    }
}

/// Largest meta data, in octets (memberlist).
pub(crate) const META_BYTES_MAX: usize = 512;
/// Largest name that is believed, in octets.
pub(crate) const NAME_BYTES_MAX: usize = 128;
