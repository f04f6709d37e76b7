//! The msgpack dialect of memberlist: maps with string keys, the old raw family, both integer families.

use crate::DecodeError;

/// Appends values to a buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    /// Begins a map of at most 15 entries; memberlist has no larger one.
    pub(crate) fn map(&mut self, entries: u8) {
        debug_assert!(entries <= 15, "a fixmap has at most 15 entries");
        self.0.push(0x80 | (entries & 0x0f));
    }

    /// Writes a key of the map.
    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        self.raw(key.as_bytes());
        self
    }

    /// Writes octets or text in the old raw family.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        match (u8::try_from(bytes.len()), u16::try_from(bytes.len())) {
            (Ok(length @ 0..=31), _) => self.0.push(0xa0 | length),
            (_, Ok(length)) => {
                self.0.push(0xda);
                self.0.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.0.push(0xdb);
                self.0.extend_from_slice(&length.to_be_bytes());
            }
        }
        self.0.extend_from_slice(bytes);
    }

    /// Writes octets; none at all is nil, as Go writes it.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.0.push(0xc0);
        } else {
            self.raw(bytes);
        }
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.0.push(if value { 0xc3 } else { 0xc2 });
    }

    /// Writes a number in the shortest form of the unsigned family.
    pub(crate) fn uint(&mut self, value: u64) {
        if let Ok(value) = u8::try_from(value) {
            if value >= 0x80 {
                self.0.push(0xcc);
            }
            self.0.push(value);
        } else if let Ok(value) = u16::try_from(value) {
            self.0.push(0xcd);
            self.0.extend_from_slice(&value.to_be_bytes());
        } else if let Ok(value) = u32::try_from(value) {
            self.0.push(0xce);
            self.0.extend_from_slice(&value.to_be_bytes());
        } else {
            self.0.push(0xcf);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Reads values from the front of some octets.
///
/// [`DecodeError::Truncated`] and nothing else means that more octets could help.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Takes `count` octets as they are.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let need = self.offset.saturating_add(count);
        let taken = self
            .bytes
            .get(self.offset..need)
            .ok_or(DecodeError::Truncated {
                need,
                have: self.bytes.len(),
            })?;
        self.offset = need;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| DecodeError::Truncated {
            need: N,
            have: taken.len(),
        })
    }

    fn octet(&mut self) -> Result<u8, DecodeError> {
        let [octet] = self.array()?;
        Ok(octet)
    }

    fn length(&mut self, octets: u8) -> Result<usize, DecodeError> {
        let length = match octets {
            1 => u32::from(self.octet()?),
            2 => u32::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?),
        };
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn wrong(&self, expected: &'static str, found: u8) -> DecodeError {
        DecodeError::Code {
            expected,
            found,
            offset: self.offset.saturating_sub(1),
        }
    }

    /// Reads the head of a map; returns its number of entries.
    pub(crate) fn map(&mut self) -> Result<usize, DecodeError> {
        match self.octet()? {
            code @ 0x80..=0x8f => Ok(usize::from(code & 0x0f)),
            0xde => self.length(2),
            0xdf => self.length(4),
            0xc0 => Ok(0),
            found => Err(self.wrong("a map", found)),
        }
    }

    /// Reads text or octets of any family; nil is empty.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = match self.octet()? {
            code @ 0xa0..=0xbf => usize::from(code & 0x1f),
            0xd9 | 0xc4 => self.length(1)?,
            0xda | 0xc5 => self.length(2)?,
            0xdb | 0xc6 => self.length(4)?,
            0xc0 => 0,
            found => return Err(self.wrong("octets", found)),
        };
        self.take(length)
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.raw()?).map_err(|_| DecodeError::Value { field })
    }

    /// Reads a number that is not negative, of either family.
    pub(crate) fn uint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let not_negative =
            |number: i64| u64::try_from(number).map_err(|_| DecodeError::Value { field });
        match self.octet()? {
            code @ 0x00..=0x7f => Ok(u64::from(code)),
            0xcc => Ok(u64::from(self.octet()?)),
            0xcd => Ok(u64::from(u16::from_be_bytes(self.array()?))),
            0xce => Ok(u64::from(u32::from_be_bytes(self.array()?))),
            0xcf => Ok(u64::from_be_bytes(self.array()?)),
            0xd0 => not_negative(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => not_negative(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => not_negative(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => not_negative(i64::from_be_bytes(self.array()?)),
            0xc0 => Ok(0),
            0xe0..=0xff => Err(DecodeError::Value { field }),
            found => Err(self.wrong("a number", found)),
        }
    }

    /// Reads a number that fits the field's type.
    pub(crate) fn number<N: TryFrom<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<N, DecodeError> {
        N::try_from(self.uint(field)?).map_err(|_| DecodeError::Value { field })
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.octet()? {
            0xc2 | 0xc0 => Ok(false),
            0xc3 => Ok(true),
            found => Err(self.wrong("a boolean", found)),
        }
    }

    /// Passes over one value of any kind, without recursion.
    pub(crate) fn skip(&mut self) -> Result<(), DecodeError> {
        let mut pending: usize = 1;
        while let Some(rest) = pending.checked_sub(1) {
            pending = rest;
            let (octets, values) = match self.octet()? {
                0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
                code @ 0x80..=0x8f => (0, usize::from(code & 0x0f).saturating_mul(2)),
                code @ 0x90..=0x9f => (0, usize::from(code & 0x0f)),
                code @ 0xa0..=0xbf => (usize::from(code & 0x1f), 0),
                0xd9 | 0xc4 => (self.length(1)?, 0),
                0xda | 0xc5 => (self.length(2)?, 0),
                0xdb | 0xc6 => (self.length(4)?, 0),
                0xcc | 0xd0 => (1, 0),
                0xcd | 0xd1 | 0xd4 => (2, 0),
                0xd5 => (3, 0),
                0xce | 0xd2 | 0xca => (4, 0),
                0xd6 => (5, 0),
                0xcf | 0xd3 | 0xcb => (8, 0),
                0xd7 => (9, 0),
                0xd8 => (17, 0),
                0xc7 => (self.length(1)?.saturating_add(1), 0),
                0xc8 => (self.length(2)?.saturating_add(1), 0),
                0xc9 => (self.length(4)?.saturating_add(1), 0),
                0xdc => (0, self.length(2)?),
                0xdd => (0, self.length(4)?),
                0xde => (0, self.length(2)?.saturating_mul(2)),
                0xdf => (0, self.length(4)?.saturating_mul(2)),
                found => return Err(self.wrong("a value", found)),
            };
            self.take(octets)?;
            pending = pending.saturating_add(values);
        }
        Ok(())
    }
}
