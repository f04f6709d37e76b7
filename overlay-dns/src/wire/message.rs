//! A checked view of a message.

use super::{
    Class, DecodeError, Edns, HEADER_BYTES, Header, Name, RecordType, read_u16, truncated,
};

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The records that answer.
    Answer,
    /// The records that name the authority.
    Authority,
    /// The records that spare the client a query.
    Additional,
}

/// A message of which every question, owner name and record boundary has been checked.
///
/// Octets behind the last record are ignored. Names within record data are not checked here.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    counts: [u16; 4],
    /// Where the first question ends.
    question_end: usize,
    records_at: usize,
    edns: Option<Edns>,
}

/// A question: what is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The type.
    pub kind: RecordType,
    /// The class.
    pub class: Class,
    /// The octets of the question, to be echoed.
    pub wire: &'a [u8],
}

/// A record, borrowed from its message.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Which part of the message it stands in.
    pub section: Section,
    /// Where its owner name begins.
    pub owner_at: usize,
    /// Its type.
    pub kind: RecordType,
    /// Its class.
    pub class: Class,
    /// Seconds for which it may be kept.
    pub ttl: u32,
    /// Where its data begins.
    pub rdata_at: usize,
    /// Its data; names in it may be compressed against the message.
    pub rdata: &'a [u8],
}

impl<'a> Question<'a> {
    /// Returns the name, as it was written.
    pub fn name(&self) -> Name {
        Name::from_wire(self.name_wire()).unwrap_or(Name::ROOT)
    }

    /// Returns the wire form of the name without the root's octet. The first name of a message has nothing to point to.
    #[inline]
    pub(crate) fn name_wire(&self) -> &'a [u8] {
        let end = self.wire.len().saturating_sub(5);
        self.wire.get(..end).unwrap_or_default()
    }
}

impl<'a> Message<'a> {
    /// Checks the whole message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] says what is wrong and where.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let header = Header::parse(bytes)?;
        let mut counts = [0; 4];
        for (count, at) in counts.iter_mut().zip([4, 6, 8, 10]) {
            *count = read_u16(bytes, at)?;
        }
        let [questions, ..] = counts;
        let (mut at, mut question_end) = (HEADER_BYTES, HEADER_BYTES);
        for number in 0..questions {
            let end = Name::skip(bytes, at)?.saturating_add(4);
            if bytes.len() < end {
                return Err(truncated(bytes, end.saturating_sub(4), 4));
            }
            at = end;
            if number == 0 {
                question_end = end;
            }
        }
        let mut message = Self {
            bytes,
            header,
            counts,
            question_end,
            records_at: at,
            edns: None,
        };
        message.edns = message.check_records()?;
        Ok(message)
    }

    #[inline]
    fn check_records(&self) -> Result<Option<Edns>, DecodeError> {
        let (mut at, mut edns) = (self.records_at, None);
        let [_, answer, authority, additional] = self.counts;
        let sections = [
            (Section::Answer, answer),
            (Section::Authority, authority),
            (Section::Additional, additional),
        ];
        for (section, count) in sections {
            for _ in 0..count {
                let (record, end) = read_record(self.bytes, at, section)?;
                if record.kind == RecordType::OPT {
                    let rooted = self.bytes.get(at) == Some(&0);
                    if section != Section::Additional || !rooted || edns.is_some() {
                        return Err(DecodeError::Opt { at });
                    }
                    edns = Some(Edns::parse(&record)?);
                }
                at = end;
            }
        }
        Ok(edns)
    }

    /// Returns the header.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Returns the octets.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns how many questions there are.
    #[inline]
    pub fn question_count(&self) -> u16 {
        let [questions, ..] = self.counts;
        questions
    }

    /// Returns how many records a section has.
    pub fn record_count(&self, section: Section) -> u16 {
        let [_, answer, authority, additional] = self.counts;
        match section {
            Section::Answer => answer,
            Section::Authority => authority,
            Section::Additional => additional,
        }
    }

    /// Returns the first question.
    #[inline]
    pub fn question(&self) -> Option<Question<'a>> {
        if self.question_count() == 0 {
            return None;
        }
        let wire = self.bytes.get(HEADER_BYTES..self.question_end)?;
        let [a, b, c, d] = *wire.last_chunk()?;
        Some(Question {
            kind: RecordType(u16::from_be_bytes([a, b])),
            class: Class(u16::from_be_bytes([c, d])),
            wire,
        })
    }

    /// Returns what the OPT record says, if there is one.
    #[inline]
    pub fn edns(&self) -> Option<Edns> {
        self.edns
    }

    /// Returns the records of all sections in order, the OPT record among them.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let (bytes, mut at) = (self.bytes, self.records_at);
        self.section_of_each().map_while(move |section| {
            let (record, end) = read_record(bytes, at, section).ok()?;
            at = end;
            Some(record)
        })
    }

    fn section_of_each(&self) -> impl Iterator<Item = Section> + use<> {
        let [_, answer, authority, additional] = self.counts.map(usize::from);
        std::iter::repeat_n(Section::Answer, answer)
            .chain(std::iter::repeat_n(Section::Authority, authority))
            .chain(std::iter::repeat_n(Section::Additional, additional))
    }
}

#[inline]
fn read_record(
    bytes: &[u8],
    at: usize,
    section: Section,
) -> Result<(Record<'_>, usize), DecodeError> {
    let fixed_at = Name::skip(bytes, at)?;
    let fixed = bytes.get(fixed_at..).and_then(<[u8]>::first_chunk);
    let [a, b, c, d, e, f, g, h, i, j] =
        *fixed.ok_or_else(|| truncated(bytes, fixed_at, FIXED_BYTES))?;
    let rdata_at = fixed_at.saturating_add(FIXED_BYTES);
    let length = usize::from(u16::from_be_bytes([i, j]));
    let end = rdata_at.saturating_add(length);
    let rdata = bytes
        .get(rdata_at..end)
        .ok_or_else(|| truncated(bytes, rdata_at, length))?;
    let record = Record {
        section,
        owner_at: at,
        kind: RecordType(u16::from_be_bytes([a, b])),
        class: Class(u16::from_be_bytes([c, d])),
        ttl: u32::from_be_bytes([e, f, g, h]),
        rdata_at,
        rdata,
    };
    Ok((record, end))
}

/// Length of type, class, TTL and length, in octets (RFC 1035 §4.1.3).
const FIXED_BYTES: usize = 10;
