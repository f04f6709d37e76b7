//! Version 1: a line of text (spec §2.1).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{DecodeError, Header, Parsed, Relayed, V1_BYTES_MAX, Version, begins};
use crate::Protocol;

pub(super) const PREFIX: &[u8] = b"PROXY ";

pub(super) fn emit(header: &Header) -> Vec<u8> {
    match header {
        Header::Relayed(relayed) if relayed.proto == Protocol::Tcp => {
            let (from, to) = (relayed.source, relayed.destination);
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let [source, destination] = [from, to].map(|end| address(end.ip()));
            let [source_port, destination_port] = [from, to].map(|end| end.port());
            format!("PROXY {family} {source} {destination} {source_port} {destination_port}\r\n")
        }
        Header::Relayed(_) | Header::Local | Header::Unknown => "PROXY UNKNOWN\r\n".to_owned(),
    }
    .into_bytes()
}

/// Writes an address; an IPv4-mapped one as IPv6 without dots, which the format does not have.
fn address(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        _ => address.to_string(),
    }
}

/// Reads what begins with as much of [`PREFIX`] as there is.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, DecodeError> {
    let line = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = line.windows(CRLF.len()).position(|pair| pair == CRLF) else {
        check_beginning(line)?;
        return match bytes.len() {
            ..V1_BYTES_MAX => Ok(None),
            _ => Err(DecodeError::TooLong { max: V1_BYTES_MAX }),
        };
    };
    let mut words = Words {
        bytes: line.get(..end).unwrap_or_default(),
        offset: PREFIX.len(),
    };
    let family = words.offset;
    let header = match words.next() {
        Some(b"UNKNOWN") => Header::Unknown,
        Some(b"TCP4") => Header::Relayed(words.relayed::<Ipv4Addr>()?),
        Some(b"TCP6") => Header::Relayed(words.relayed::<Ipv6Addr>()?),
        _ => return Err(DecodeError::Line { offset: family }),
    };
    Ok(Some(Parsed {
        header,
        version: Version::V1,
        length: end.saturating_add(CRLF.len()),
    }))
}

/// Refuses a line that is not whole and cannot become one.
fn check_beginning(line: &[u8]) -> Result<(), DecodeError> {
    if begins(line, b"PROXY UNKNOWN") {
        let rest = line.get(UNKNOWN_BYTES..).unwrap_or_default();
        return match rest {
            [] | [b'\r'] | [b' ', ..] => Ok(()),
            _ => Err(DecodeError::Line {
                offset: PREFIX.len(),
            }),
        };
    }
    if !begins(line, b"PROXY TCP4 ") && !begins(line, b"PROXY TCP6 ") {
        return Err(DecodeError::Line {
            offset: PREFIX.len(),
        });
    }
    let rest = line.get(TCP_BYTES..).unwrap_or_default();
    let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    let stranger = rest
        .iter()
        .position(|byte| !(byte.is_ascii_hexdigit() || b" .:".contains(byte)));
    match stranger {
        None => Ok(()),
        Some(at) => Err(DecodeError::Line {
            offset: TCP_BYTES.saturating_add(at),
        }),
    }
}

/// The words of a line, with exactly one space between them.
struct Words<'a> {
    /// The line without its CR LF.
    bytes: &'a [u8],
    /// Where the next word begins; behind the line if there is none.
    offset: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.offset..)?;
        let end = rest.iter().position(|byte| *byte == b' ');
        let word = rest.get(..end.unwrap_or(rest.len()))?;
        self.offset = self.offset.saturating_add(word.len()).saturating_add(1);
        Some(word)
    }

    /// Reads a word as what is written that way in this format.
    fn read<T: FromStr>(&mut self, is_form: impl Fn(&[u8]) -> bool) -> Result<T, DecodeError> {
        let offset = self.offset;
        let word = self.next().filter(|word| is_form(word));
        let word = word.and_then(|word| std::str::from_utf8(word).ok());
        word.and_then(|word| word.parse().ok())
            .ok_or(DecodeError::Line { offset })
    }

    /// Reads both ends, which have to be all that is left.
    fn relayed<A: FromStr + Into<IpAddr>>(&mut self) -> Result<Relayed, DecodeError> {
        let (source, destination) = (self.read::<A>(|_| true)?, self.read::<A>(|_| true)?);
        let (from, to) = (self.read(is_number)?, self.read(is_number)?);
        if self.offset <= self.bytes.len() {
            return Err(DecodeError::Line {
                offset: self.offset,
            });
        }
        Ok(Relayed {
            proto: Protocol::Tcp,
            source: SocketAddr::new(source.into(), from),
            destination: SocketAddr::new(destination.into(), to),
        })
    }
}

/// Whether a word is a number without sign and leading zeroes.
fn is_number(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit) && (word.first() != Some(&b'0') || word.len() == 1)
}

const CRLF: &[u8] = b"\r\n";
const UNKNOWN_BYTES: usize = "PROXY UNKNOWN".len();
const TCP_BYTES: usize = "PROXY TCP4 ".len();
