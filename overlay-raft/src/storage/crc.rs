//! CRC-32C (Castagnoli; RFC 3720 §B.4): polynomial 0x1EDC6F41, reflected.

/// Continues a checksum over `bytes`; zero starts one.
pub(super) fn crc32c(checksum: u32, bytes: &[u8]) -> u32 {
    let mut state = !checksum;
    for octet in bytes {
        let [low, ..] = state.to_le_bytes();
        state = TABLE[usize::from(low ^ octet)] ^ (state >> 8);
    }
    !state
}

const TABLE: [u32; 256] = {
    const REFLECTED: u32 = 0x82f6_3b78;
    let (mut table, mut octet) = ([0; 256], 0_u32);
    while octet < 256 {
        let (mut state, mut bit) = (octet, 0);
        while bit < 8 {
            state = if state & 1 == 1 {
                (state >> 1) ^ REFLECTED
            } else {
                state >> 1
            };
            bit += 1;
        }
        table[octet as usize] = state;
        octet += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_sums_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(0, &ascending), 0x46dd_794e);
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn continues_where_it_stopped() {
        assert_eq!(
            crc32c(crc32c(0, b"1234"), b"56789"),
            crc32c(0, b"123456789")
        );
        assert_eq!(crc32c(0, b""), 0);
    }
}
