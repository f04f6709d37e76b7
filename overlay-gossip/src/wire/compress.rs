//! LZW as in GIF, inside a msgpack map `{Algo: 0, Buf}`.

use weezl::{BitOrder, LzwStatus, decode, encode};

use super::{
    kind,
    msgpack::{Reader, Writer},
};
use crate::DecodeError;

/// Wraps `bytes` in a compress message, type octet included.
pub(crate) fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let squeezed = encode::Encoder::new(BitOrder::Lsb, LITERAL_BITS)
        .encode(bytes)
        .ok()?;
    let mut out = vec![kind::COMPRESS];
    let mut writer = Writer(&mut out);
    writer.map(2);
    writer.key("Algo").uint(0);
    writer.key("Buf").raw(&squeezed);
    Some(out)
}

/// Undoes [`compress`]: `body` begins behind the type octet. Returns the content and the octets of `body` used.
pub(crate) fn decompress(body: &[u8], limit: usize) -> Result<(Vec<u8>, usize), DecodeError> {
    let mut reader = Reader::new(body, 0);
    let (mut algorithm, mut squeezed): (u8, &[u8]) = (0, &[]);
    for _ in 0..reader.map()? {
        match reader.raw()? {
            b"Algo" => algorithm = reader.number("Algo")?,
            b"Buf" => squeezed = reader.raw()?,
            _ => reader.skip()?,
        }
    }
    if algorithm != 0 {
        return Err(DecodeError::Value { field: "Algo" });
    }
    Ok((expand(squeezed, limit)?, reader.offset()))
}

fn expand(mut squeezed: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = decode::Decoder::new(BitOrder::Lsb, LITERAL_BITS);
    let (mut content, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let step = decoder.decode_bytes(squeezed, &mut piece);
        squeezed = squeezed
            .get(step.consumed_in..)
            .ok_or(DecodeError::Compression)?;
        let new = piece
            .get(..step.consumed_out)
            .ok_or(DecodeError::Compression)?;
        if content.len().saturating_add(new.len()) > limit {
            return Err(DecodeError::Compression);
        }
        content.extend_from_slice(new);
        match step.status {
            Ok(LzwStatus::Done) => return Ok(content),
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::NoProgress) | Err(_) => return Err(DecodeError::Compression),
        }
    }
}

const LITERAL_BITS: u8 = 8;
