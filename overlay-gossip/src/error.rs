//! Errors, one enum for each family of operations.

use thiserror::Error;

/// Octets from outside were no message that memberlist could have sent, or not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The octets end too early.
    #[error("expected {need} octets, found {have}")]
    Truncated {
        /// Octets that the part needs.
        need: usize,
        /// Octets that were there.
        have: usize,
    },
    /// A msgpack code of the wrong kind.
    #[error("expected {expected} at octet {offset}, found code {found:#04x}")]
    Code {
        /// What was expected.
        expected: &'static str,
        /// The code that was found.
        found: u8,
        /// Where.
        offset: usize,
    },
    /// A number, a text or an address has a value that the field cannot have.
    #[error("field {field} has a value that it cannot have")]
    Value {
        /// The field.
        field: &'static str,
    },
    /// Something is longer than its limit.
    #[error("{what} has {found} octets, at most {limit} are allowed")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// Its length.
        found: usize,
    },
    /// A message type that nobody knows, or that has no place here.
    #[error("message type {found} has no place here")]
    Kind {
        /// The type.
        found: u8,
    },
    /// The checksum does not fit.
    #[error("checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What the sender claims.
        expected: u32,
        /// What the octets give.
        found: u32,
    },
    /// The compressed octets are damaged or expand beyond the limit.
    #[error("compressed octets are damaged or too long")]
    Compression,
    /// Wrappers lie in one another too deeply.
    #[error("more than {limit} wrappers in one another")]
    Nested {
        /// The limit.
        limit: usize,
    },
    /// The label is missing or another cluster's.
    #[error("label of another cluster")]
    Label,
    /// No installed key opens it, or it is in the clear although keys are installed.
    #[error("no installed key opens it")]
    Sealed,
    /// A format version of a table message that is newer than this code.
    #[error("format version {found} is not known")]
    Version {
        /// The version.
        found: u8,
    },
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The name is empty or too long.
    #[error("name has {found} octets, expected 1 to {limit}")]
    Name {
        /// The limit.
        limit: usize,
        /// Octets of the name.
        found: usize,
    },
    /// The advertised address cannot be reached by others.
    #[error("the advertised address has port 0 or is unspecified")]
    Advertise,
    /// The label is too long.
    #[error("label has {found} octets, at most {limit} are allowed")]
    Label {
        /// The limit.
        limit: usize,
        /// Octets of the label.
        found: usize,
    },
    /// The meta data is too long.
    #[error("meta has {found} octets, at most {limit} are allowed")]
    Meta {
        /// The limit.
        limit: usize,
        /// Octets of the meta data.
        found: usize,
    },
    /// The largest message would not fit a packet.
    #[error("packets of {found} octets are too small, the largest message needs {need}")]
    PacketTooSmall {
        /// Octets needed.
        need: usize,
        /// The configured size.
        found: usize,
    },
    /// A field that must not be zero is.
    #[error("{field} must not be zero")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// The time-out of a probe must be shorter than the interval between probes.
    #[error("probe_timeout must be shorter than probe_interval")]
    ProbeTimeout,
}

/// A row was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// The network was not joined.
    #[error("the network was not joined")]
    NotJoined,
    /// The row is too long.
    #[error("row has {found} octets, at most {limit} are allowed")]
    TooLong {
        /// The limit.
        limit: usize,
        /// Octets of the encoded row.
        found: usize,
    },
    /// The lease speaks of another network, endpoint, MAC address or other addresses than the row.
    #[error("lease and row differ in {field}")]
    Mismatch {
        /// The field that differs.
        field: &'static str,
    },
    /// The verifier does not accept the lease.
    #[error("the signature of the lease does not verify")]
    Lease,
    /// The tables hold as many rows as allowed.
    #[error("tables hold {limit} rows already")]
    Full {
        /// The limit.
        limit: usize,
    },
}

/// A key ring did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key has 16, 24 or 32 octets.
    #[error("expected a key of 16, 24 or 32 octets, found {found}")]
    Length {
        /// Octets of the key.
        found: usize,
    },
    /// The key is not on the ring, or the primary one not among those that shall be on it.
    #[error("the key is not installed")]
    Unknown,
    /// The primary key cannot be removed: make another one primary first.
    #[error("the primary key cannot be removed")]
    Primary,
    /// The ring is full.
    #[error("the ring holds {limit} keys already")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The cluster runs without keys; they are chosen when the machine is made.
    #[error("this cluster runs without keys")]
    Plain,
}

/// A command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such member.
    #[error("no member {name:?}")]
    UnknownMember {
        /// The name.
        name: String,
    },
    /// The message is too long.
    #[error("message has {found} octets, at most {limit} are allowed")]
    TooLong {
        /// The limit.
        limit: usize,
        /// Octets of the message.
        found: usize,
    },
    /// The message begins like a table message.
    #[error("messages that begin with octet {first:#04x} are kept for tables")]
    Reserved {
        /// The first octet.
        first: u8,
    },
    /// As many streams are open as allowed.
    #[error("{limit} streams are open already")]
    Busy {
        /// The limit.
        limit: usize,
    },
}
