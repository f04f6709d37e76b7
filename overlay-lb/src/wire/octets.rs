//! Fields at offsets, without a way to panic.

/// Reads a field; `None` if it is not within.
#[inline(always)]
pub(crate) fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

#[inline(always)]
pub(crate) fn read_u8(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

#[inline(always)]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    read(bytes, at).map(u16::from_be_bytes)
}

#[inline(always)]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    read(bytes, at).map(u32::from_be_bytes)
}

/// Writes a field that was read before; one that is not within is left out.
#[inline(always)]
pub(crate) fn write<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    let place = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<N>);
    debug_assert!(place.is_some(), "the field was read before");
    if let Some(place) = place {
        *place = field;
    }
}
