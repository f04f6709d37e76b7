//! Reading and writing fields at named offsets, without a way to panic.
//!
//! A view's `new_checked` proves the bounds once; here an octet outside reads as zero and is not written, so that a wrong
//! proof is a wrong number and never a crash.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeFrom,
};

use overlay_core::MacAddr;

pub(super) fn read<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = tail(bytes, at..).first_chunk::<N>();
    debug_assert!(field.is_some(), "the view proved its bounds");
    field.copied().unwrap_or([0; N])
}

pub(super) fn read_u8(bytes: &[u8], at: usize) -> u8 {
    let [octet] = read(bytes, at);
    octet
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(read(bytes, at))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(read(bytes, at))
}

pub(super) fn read_mac(bytes: &[u8], at: usize) -> MacAddr {
    MacAddr::new(read(bytes, at))
}

pub(super) fn read_ipv4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(read::<4>(bytes, at))
}

pub(super) fn read_ipv6(bytes: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(read::<16>(bytes, at))
}

pub(super) fn write<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    let slot = bytes
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<N>());
    debug_assert!(slot.is_some(), "the writer proved its bounds");
    if let Some(slot) = slot {
        *slot = field;
    }
}

pub(super) fn write_u8(bytes: &mut [u8], at: usize, octet: u8) {
    write(bytes, at, [octet]);
}

pub(super) fn write_u16(bytes: &mut [u8], at: usize, number: u16) {
    write(bytes, at, number.to_be_bytes());
}

pub(super) fn write_u32(bytes: &mut [u8], at: usize, number: u32) {
    write(bytes, at, number.to_be_bytes());
}

/// Returns what follows; nothing if the range begins behind the end.
pub(super) fn tail(bytes: &[u8], range: RangeFrom<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}
