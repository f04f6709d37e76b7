//! A client's query: what it asks, and what is wrong with it.

use crate::{
    Transport,
    config::Config,
    error::QueryError,
    wire::{
        Class, Compressor, Edns, HEADER_BYTES, Header, Message, OPT_BYTES, Opcode, Question, Rcode,
        RecordType, Writer,
    },
};

/// The least that every client takes over UDP (RFC 1035 §4.2.1).
const UDP_BYTES_MIN: u16 = 512;

/// A question that can be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) header: Header,
    pub(crate) question: Question<'a>,
    pub(crate) terms: Terms,
}

/// How the client wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) transport: Transport,
    /// What we say in our OPT record, if the client sent one.
    pub(crate) edns: Option<Edns>,
    /// Largest answer without the OPT record, in octets.
    pub(crate) limit: usize,
}

/// A query that is answered with an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rejected<'a> {
    pub(crate) header: Header,
    question: Option<&'a [u8]>,
    edns: Option<Edns>,
    rcode: Rcode,
}

/// Reads a query.
///
/// The outer error is for what is not answered at all, the inner one for what is answered with an error.
#[inline]
pub(crate) fn parse<'a>(
    config: &Config,
    transport: Transport,
    bytes: &'a [u8],
) -> Result<Result<Asked<'a>, Rejected<'a>>, QueryError> {
    let short = |_| QueryError::Truncated {
        need: HEADER_BYTES,
        have: bytes.len(),
    };
    let header = Header::parse(bytes).map_err(short)?;
    if header.response {
        return Err(QueryError::Response);
    }
    Ok(parse_checked(config, transport, header, bytes))
}

#[inline]
fn parse_checked<'a>(
    config: &Config,
    transport: Transport,
    header: Header,
    bytes: &'a [u8],
) -> Result<Asked<'a>, Rejected<'a>> {
    let mut rejected = Rejected {
        header,
        question: None,
        edns: None,
        rcode: Rcode::FORMERR,
    };
    if header.opcode != Opcode::QUERY {
        rejected.rcode = Rcode::NOTIMP;
    }
    let message = Message::new_checked(bytes).map_err(|_| rejected)?;
    let payload_bytes = config.udp_payload_bytes_max.max(UDP_BYTES_MIN);
    let theirs = message.edns();
    rejected.edns = theirs.map(|edns| Edns::new(payload_bytes, edns.dnssec_ok));
    if header.opcode != Opcode::QUERY {
        return Err(rejected);
    }
    let question = message.question().ok_or(rejected)?;
    if message.question_count() != 1 {
        return Err(rejected);
    }
    rejected.question = Some(question.wire);
    if theirs.is_some_and(|edns| edns.version > 0) {
        rejected.rcode = Rcode::BADVERS;
        return Err(rejected);
    }
    let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
    if question.class != Class::IN || transfer {
        rejected.rcode = Rcode::REFUSED;
        return Err(rejected);
    }
    let limit = match (transport, theirs) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_BYTES_MIN,
        (Transport::Udp, Some(edns)) => edns.payload_bytes.clamp(UDP_BYTES_MIN, payload_bytes),
    };
    let reserved = theirs.map_or(0, |_| OPT_BYTES);
    Ok(Asked {
        header,
        question,
        terms: Terms {
            transport,
            edns: rejected.edns,
            limit: usize::from(limit) - reserved,
        },
    })
}

impl Rejected<'_> {
    /// Writes the answer that says what is wrong.
    pub(crate) fn emit(
        &self,
        recursion_available: bool,
        compressor: &mut Compressor,
        out: &mut Vec<u8>,
    ) {
        let mut writer = Writer::new(out, compressor, usize::from(u16::MAX));
        if let Some(question) = self.question {
            writer.question(question);
        }
        let mut header = self.header.reply(self.rcode);
        header.recursion_available = recursion_available;
        writer.finish(header, self.edns.map(|edns| edns.with_rcode(self.rcode)));
    }
}

impl<'a> Asked<'a> {
    /// Makes the answer that says that the question itself is fine, but is not answered.
    pub(crate) fn reject(&self, rcode: Rcode) -> Rejected<'a> {
        Rejected {
            header: self.header,
            question: Some(self.question.wire),
            edns: self.terms.edns,
            rcode,
        }
    }
}
