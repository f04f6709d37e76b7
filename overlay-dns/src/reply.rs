//! An upstream answer as it is kept: checked, without OPT, and written for each client as that one wants it.

use std::time::Duration;

use crate::{
    config::CacheConfig,
    query::Terms,
    wire::{
        Class, Compressor, HEADER_BYTES, Header, Message, Name, Owner, Rcode, RdataError, Record,
        RecordType, Section, Writer,
    },
};

/// An upstream answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Header, question, and all records but OPT, as the server sent them.
    bytes: Box<[u8]>,
    /// Where the TTLs stand.
    ttls_at: Box<[u16]>,
    rcode: Rcode,
    authentic_data: bool,
    /// For how long it may be kept; zero if it may not.
    pub(crate) lifetime: Duration,
}

/// For whom an answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader<'a> {
    /// The header of the query.
    pub(crate) header: Header,
    /// The question as it was asked.
    pub(crate) question: &'a [u8],
    pub(crate) terms: Terms,
    /// Aliases that lead from the question's name to the one that was asked upstream, which is the last.
    pub(crate) names: &'a [Name],
    pub(crate) alias_ttl: u32,
}

impl Reply {
    /// Takes over an upstream message.
    pub(crate) fn new(
        message: &Message<'_>,
        config: &CacheConfig,
        compressor: &mut Compressor,
    ) -> Result<Self, RdataError> {
        let mut bytes = Vec::with_capacity(message.bytes().len().min(usize::from(u16::MAX)));
        let mut writer = Writer::new(&mut bytes, compressor, usize::from(u16::MAX));
        if let Some(question) = message.question() {
            writer.question(question.wire);
            writer.remember_question();
        }
        for record in message.records().filter(is_kept) {
            copy(&mut writer, (message, None), &record, 0)?;
        }
        writer.finish(message.header(), None);
        let high = message.edns().map_or(0, |edns| edns.rcode_high);
        let mut reply = Self {
            rcode: Rcode(u16::from(high) << 4 | message.header().rcode.0),
            authentic_data: message.header().authentic_data,
            ttls_at: Box::default(),
            lifetime: Duration::ZERO,
            bytes: bytes.into_boxed_slice(),
        };
        reply.measure(config);
        Ok(reply)
    }

    /// Makes the answer for when all servers failed.
    pub(crate) fn failure(config: &CacheConfig) -> Self {
        Self {
            bytes: [0; HEADER_BYTES].into(),
            ttls_at: Box::default(),
            rcode: Rcode::SERVFAIL,
            authentic_data: false,
            lifetime: config.failure_ttl,
        }
    }

    /// Finds the TTLs, and from them for how long the whole may be kept (RFC 2308 §5, RFC 2181 §8).
    fn measure(&mut self, config: &CacheConfig) {
        let Ok(message) = Message::new_checked(&self.bytes) else {
            return;
        };
        let (mut ttls_at, mut least, mut soa) = (Vec::new(), u32::MAX, None);
        for record in message.records() {
            ttls_at.extend(u16::try_from(record.rdata_at - 6));
            let ttl = capped(record.ttl);
            least = least.min(ttl);
            if record.section == Section::Authority && record.kind == RecordType::SOA {
                let minimum = record.rdata.last_chunk::<4>().copied().unwrap_or_default();
                soa = Some(ttl.min(u32::from_be_bytes(minimum)));
            }
        }
        let positive = self.rcode == Rcode::NOERROR && message.record_count(Section::Answer) > 0;
        let negative = matches!(self.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) && !positive;
        let seconds = |ttl: u32| Duration::from_secs(u64::from(ttl));
        self.lifetime = match soa {
            _ if positive => seconds(least).min(config.ttl_max),
            Some(soa) if negative => seconds(soa.min(least)).min(config.negative_ttl_max),
            _ => Duration::ZERO,
        };
        self.ttls_at = ttls_at.into_boxed_slice();
    }

    /// Returns how much memory it takes, about.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + 2 * self.ttls_at.len()
    }

    /// Writes the answer for a client, `age` seconds after it came. Returns whether something was left out that the client needs.
    pub(crate) fn emit(
        &self,
        reader: &Reader<'_>,
        age: u32,
        compressor: &mut Compressor,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut header = reader.header.reply(self.rcode);
        header.recursion_available = true;
        let wanted =
            reader.header.authentic_data || reader.terms.edns.is_some_and(|edns| edns.dnssec_ok);
        header.authentic_data = self.authentic_data && wanted;
        let edns = reader.terms.edns.map(|edns| edns.with_rcode(self.rcode));
        let mut writer = Writer::new(out, compressor, reader.terms.limit);
        writer.question(reader.question);
        if let Ok(message) = Message::new_checked(&self.bytes) {
            writer.remember_question();
            header.truncated = self.copy_all(&mut writer, reader, &message, age);
        }
        writer.finish(header, edns);
        header.truncated
    }

    /// Copies whole record sets as long as they fit. Returns true if one was left out that the client needs.
    fn copy_all(
        &self,
        writer: &mut Writer<'_>,
        reader: &Reader<'_>,
        message: &Message<'_>,
        age: u32,
    ) -> bool {
        for (hop, pair) in reader.names.windows(2).enumerate() {
            let [from, to] = pair else { continue };
            let fixed = (RecordType::CNAME, Class::IN, reader.alias_ttl);
            let owner = if hop == 0 {
                Owner::At(QUESTION_AT)
            } else {
                Owner::Name(from)
            };
            let alias = writer.record(Section::Answer, owner, fixed, |w| w.name(to, true));
            if alias.is_err() {
                return true;
            }
        }
        let asked = message
            .question()
            .map(|question| question.name().lowercase());
        let asked = asked.filter(|_| reader.names.len() < 2);
        let mut mark = writer.mark();
        let mut set: Option<(Name, RecordType, Section)> = None;
        for record in message.records() {
            let owner = Name::decode(message.bytes(), record.owner_at);
            let next = owner
                .ok()
                .map(|(name, _)| (name, record.kind, record.section));
            if next != set {
                (mark, set) = (writer.mark(), next);
            }
            if copy(writer, (message, asked.as_ref()), &record, age).is_ok() {
                continue;
            }
            let required = match record.section {
                Section::Answer => true,
                // Without an answer the SOA record is what tells absence (RFC 2308 §2).
                Section::Authority => message.record_count(Section::Answer) == 0,
                Section::Additional => false,
            };
            writer.rollback(mark);
            return required;
        }
        false
    }
}

/// OPT and the signatures of transactions belong to the hop.
fn is_kept(record: &Record<'_>) -> bool {
    const TSIG: RecordType = RecordType(250);
    !matches!(record.kind, RecordType::OPT | TSIG)
}

/// Writes a record of `message`. One whose owner is the name that was asked points to the question, whatever its case.
fn copy(
    writer: &mut Writer<'_>,
    (message, asked): (&Message<'_>, Option<&Name>),
    record: &Record<'_>,
    age: u32,
) -> Result<(), RdataError> {
    let (owner, _) = Name::decode(message.bytes(), record.owner_at)
        .map_err(|_| RdataError::malformed(record))?;
    let fixed = (
        record.kind,
        record.class,
        capped(record.ttl).saturating_sub(age),
    );
    let same = asked.is_some_and(|asked| *asked == owner.lowercase());
    let owner = if same {
        Owner::At(QUESTION_AT)
    } else {
        Owner::Name(&owner)
    };
    let mut failed = None;
    let written = writer.record(record.section, owner, fixed, |w| {
        w.rdata(message, record).map_err(|error| {
            failed = Some(error);
            crate::wire::Full
        })
    });
    match (failed, written) {
        (Some(error), _) => Err(error),
        (None, written) => Ok(written?),
    }
}

/// Where the question's name stands.
const QUESTION_AT: u16 = 12;

/// A TTL with the highest bit set counts as zero (RFC 2181 §8).
fn capped(ttl: u32) -> u32 {
    if ttl > u32::MAX >> 1 { 0 } else { ttl }
}
