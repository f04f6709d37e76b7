//! Copies record data from one message into another, names decompressed and compressed again where that is allowed.
//!
//! Names are compressed within the data of the types of RFC 1035 only (RFC 3597 §4); in the older types that came
//! later a receiver has to expect compressed names all the same. Every other type is opaque.

use thiserror::Error;

use super::{Class, DecodeError, Full, Message, Name, Record, RecordType, Writer};

/// Record data could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RdataError {
    /// A name in it is malformed, or it ends too early or too late.
    #[error("the data of the record at {at} is malformed")]
    Malformed {
        /// Where the record begins.
        at: usize,
    },
    /// The message that is written is full.
    #[error(transparent)]
    Full(#[from] Full),
}

impl RdataError {
    pub(crate) fn malformed(record: &Record<'_>) -> Self {
        Self::Malformed {
            at: record.owner_at,
        }
    }
}

/// What the data of a type looks like.
struct Layout {
    /// Octets before the first name.
    head: Head,
    names: usize,
    /// Octets behind the last name.
    tail: Tail,
    /// Names may be compressed when written.
    compress: bool,
}

enum Head {
    Octets(usize),
    /// NAPTR: four octets and three character-strings.
    Naptr,
    /// Nothing but character-strings, at least one.
    Strings,
}

enum Tail {
    Octets(usize),
    Rest,
}

impl Layout {
    const fn new(head: usize, names: usize, tail: usize, compress: bool) -> Self {
        Self {
            head: Head::Octets(head),
            names,
            tail: Tail::Octets(tail),
            compress,
        }
    }

    fn of(kind: RecordType, class: Class) -> Option<Self> {
        Some(match kind.0 {
            1 if class == Class::IN => Self::new(4, 0, 0, false), // A
            28 if class == Class::IN => Self::new(16, 0, 0, false), // AAAA
            // HINFO, TXT
            13 | 16 => Self {
                head: Head::Strings,
                ..Self::new(0, 0, 0, false)
            },
            // NS, MD, MF, CNAME, MB, MG, MR, PTR
            2..=5 | 7..=9 | 12 => Self::new(0, 1, 0, true),
            6 => Self::new(0, 2, 20, true),            // SOA
            14 => Self::new(0, 2, 0, true),            // MINFO
            15 => Self::new(2, 1, 0, true),            // MX
            17 => Self::new(0, 2, 0, false),           // RP
            18 | 21 | 36 => Self::new(2, 1, 0, false), // AFSDB, RT, KX
            26 => Self::new(2, 2, 0, false),           // PX
            33 => Self::new(6, 1, 0, false),           // SRV
            39 => Self::new(0, 1, 0, false),           // DNAME
            // SIG, NXT
            24 | 30 => Self {
                head: Head::Octets(if kind.0 == 24 { 18 } else { 0 }),
                names: 1,
                tail: Tail::Rest,
                compress: false,
            },
            35 => Self {
                head: Head::Naptr,
                names: 1,
                tail: Tail::Octets(0),
                compress: false,
            },
            _ => return None,
        })
    }
}

impl Writer<'_> {
    /// Writes the data of `record`, which stands in `message`.
    ///
    /// # Errors
    ///
    /// [`RdataError`]; a part may have been written.
    pub fn rdata(&mut self, message: &Message<'_>, record: &Record<'_>) -> Result<(), RdataError> {
        let malformed = RdataError::malformed(record);
        let Some(layout) = Layout::of(record.kind, record.class) else {
            return Ok(self.bytes(record.rdata)?);
        };
        let head = match layout.head {
            Head::Octets(octets) => octets,
            Head::Naptr => strings_end(record.rdata, 4, 3).ok_or(malformed.clone())?,
            Head::Strings => strings_end(record.rdata, 0, usize::MAX).ok_or(malformed.clone())?,
        };
        self.bytes(record.rdata.get(..head).ok_or(malformed.clone())?)?;
        let end = record.rdata_at.saturating_add(record.rdata.len());
        // Names are read against the message up to the end of this record: nothing behind it belongs to it.
        let bytes = message.bytes().get(..end).unwrap_or_default();
        let mut at = record.rdata_at.saturating_add(head);
        for _ in 0..layout.names {
            let (name, behind) =
                Name::decode(bytes, at).map_err(|_: DecodeError| malformed.clone())?;
            self.name(&name, layout.compress)?;
            at = behind;
        }
        let rest = bytes.get(at..).ok_or(malformed.clone())?;
        if matches!(layout.tail, Tail::Octets(octets) if octets != rest.len()) {
            return Err(malformed);
        }
        Ok(self.bytes(rest)?)
    }
}

/// Returns where `count` character-strings that begin at `at` end; `usize::MAX` takes all there are, at least one.
/// The part of a NAPTR before its name holds three (RFC 3403 §4.1).
fn strings_end(rdata: &[u8], at: usize, count: usize) -> Option<usize> {
    let (mut at, mut read) = (at, 0_usize);
    while read < count && (at < rdata.len() || count < usize::MAX || read == 0) {
        let length = usize::from(*rdata.get(at)?);
        at = at.checked_add(length)?.checked_add(1)?;
        read = read.saturating_add(1);
    }
    (at <= rdata.len()).then_some(at)
}
