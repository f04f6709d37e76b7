//! Version 2: binary (spec §2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{DecodeError, Header, Parsed, Relayed, V2_BYTES_MAX, Version};
use crate::{
    Protocol,
    wire::{read, read_u16},
};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub(super) fn emit(header: &Header) -> Vec<u8> {
    let (command, kind, relayed) = match header {
        Header::Local => (LOCAL, UNSPEC, None),
        Header::Unknown => (PROXY, UNSPEC, None),
        Header::Relayed(relayed) => {
            let family = if relayed.source.is_ipv4() {
                INET
            } else {
                INET6
            };
            let transport = match relayed.proto {
                Protocol::Tcp => STREAM,
                Protocol::Udp => DGRAM,
            };
            (PROXY, family << 4 | transport, Some(relayed))
        }
    };
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([VERSION << 4 | command, kind]);
    let Some(relayed) = relayed else {
        bytes.extend([0, 0]);
        return bytes;
    };
    let ends = [relayed.source, relayed.destination];
    let length = if relayed.source.is_ipv4() {
        INET_BYTES
    } else {
        INET6_BYTES
    };
    bytes.extend(length.to_be_bytes());
    for end in ends {
        match end.ip() {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(ends.map(|end| end.port().to_be_bytes()).as_flattened());
    bytes
}

/// Reads what begins with as much of [`SIGNATURE`] as there is.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Parsed>, DecodeError> {
    let Some(octet) = bytes.get(COMMAND_AT).copied() else {
        return Ok(None);
    };
    if octet >> 4 != VERSION {
        return Err(DecodeError::Version { found: octet >> 4 });
    }
    let command = octet & 0xf;
    if ![LOCAL, PROXY].contains(&command) {
        return Err(DecodeError::Command { found: command });
    }
    let Some(kind) = bytes.get(KIND_AT).copied() else {
        return Ok(None);
    };
    let (family, transport) = (kind >> 4, kind & 0xf);
    // The family of a LOCAL header is ignored.
    if command == PROXY && family > UNIX {
        return Err(DecodeError::Family { found: family });
    }
    if command == PROXY && transport > DGRAM {
        return Err(DecodeError::Transport { found: transport });
    }
    let Some(have) = read_u16(bytes, LENGTH_AT).map(usize::from) else {
        return Ok(None);
    };
    let length = ADDRESSES_AT.saturating_add(have);
    if length > V2_BYTES_MAX {
        return Err(DecodeError::TooLong { max: V2_BYTES_MAX });
    }
    let is_known = command == PROXY && transport != 0;
    let need = usize::from(match family {
        INET if is_known => INET_BYTES,
        INET6 if is_known => INET6_BYTES,
        UNIX if is_known => UNIX_BYTES,
        _ => 0,
    });
    if have < need {
        return Err(DecodeError::Addresses { need, have });
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let header = match (command, family) {
        (LOCAL, _) => Header::Local,
        (_, INET) if is_known => relayed::<4, Ipv4Addr>(transport, bytes),
        (_, INET6) if is_known => relayed::<16, Ipv6Addr>(transport, bytes),
        _ => Header::Unknown,
    };
    Ok(Some(Parsed {
        header,
        version: Version::V2,
        length,
    }))
}

/// Reads both ends, which are within.
fn relayed<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(transport: u8, bytes: &[u8]) -> Header {
    let end = |nth: usize| {
        let port_at = nth.saturating_add(N).saturating_mul(2);
        let address = read::<N>(bytes, ADDRESSES_AT.saturating_add(nth.saturating_mul(N)))?;
        let port = read_u16(bytes, ADDRESSES_AT.saturating_add(port_at))?;
        Some(SocketAddr::new(A::from(address).into(), port))
    };
    let (Some(source), Some(destination)) = (end(0), end(1)) else {
        return Header::Unknown;
    };
    Header::Relayed(Relayed {
        proto: if transport == DGRAM {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        source,
        destination,
    })
}

const COMMAND_AT: usize = 12;
const KIND_AT: usize = 13;
const LENGTH_AT: usize = 14;
const ADDRESSES_AT: usize = 16;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

const UNSPEC: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;

const STREAM: u8 = 1;
const DGRAM: u8 = 2;

const INET_BYTES: u16 = 12;
const INET6_BYTES: u16 = 36;
const UNIX_BYTES: u16 = 216;
