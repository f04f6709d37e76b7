//! What the records of a sealed file add up to, and whether what is wrong with them is a crash's doing.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use overlay_core::DiskError;

use super::{
    header::HEADER_BYTES,
    key::FileKey,
    record::{APPEND, CUT, Frame, Link, OVERHEAD_BYTES},
};

/// A file as far as its records are whole.
pub(super) struct Content {
    pub(super) text: Vec<u8>,
    /// The offset in the sealed file at which the last whole record ends.
    pub(super) end: usize,
    /// What the next record names the last one by.
    pub(super) link: Link,
    /// How many records there are.
    pub(super) records: u64,
}

/// Why a record does not continue a file.
enum Fault {
    /// A crash may have made it so.
    Torn(&'static str),
    /// It was sealed like this: no crash makes that.
    Foreign(&'static str),
}

impl Content {
    /// The state of a file that has a header and nothing else.
    pub(super) fn empty(key: &FileKey) -> Self {
        Self {
            text: Vec::new(),
            end: HEADER_BYTES,
            link: key.file.first_chunk().copied().unwrap_or_default(),
            records: 0,
        }
    }

    /// Reads the file `name`, which is `bytes`, up to its end or to a tail that a crash tore.
    pub(super) fn read(name: &str, key: &FileKey, bytes: &[u8]) -> Result<Self, DiskError> {
        let mut content = Self::empty(key);
        while let Some(rest) = bytes.get(content.end..).filter(|rest| !rest.is_empty()) {
            let reason = match content.take(key, rest) {
                Ok(()) => continue,
                Err(Fault::Torn(_)) if !was_durable(key, bytes, content.end) => break,
                Err(Fault::Torn(reason) | Fault::Foreign(reason)) => reason,
            };
            return Err(DiskError::Damaged {
                name: name.to_owned(),
                offset: offset(content.end),
                reason,
            });
        }
        Ok(content)
    }

    /// Continues with the record at the beginning of `rest`; nothing changes if it is torn.
    fn take(&mut self, key: &FileKey, rest: &[u8]) -> Result<(), Fault> {
        let frame = Frame::parse(offset(self.end), rest).map_err(Fault::Torn)?;
        let from = self.text.len();
        frame
            .open(key, &mut self.text)
            .map_err(|_| Fault::Torn("a record is not authentic"))?;
        self.apply(&frame, from).map_err(Fault::Foreign)?;
        self.end = self.end.saturating_add(frame.length());
        self.link = frame.link();
        self.records = self.records.saturating_add(1);
        Ok(())
    }

    /// Does what a record says, the text of which begins at `from`.
    fn apply(&mut self, frame: &Frame<'_>, from: usize) -> Result<(), &'static str> {
        if frame.place.link != self.link {
            return Err("a record follows another one than it was written after");
        }
        match frame.kind {
            APPEND => Ok(()),
            CUT => {
                let length = self
                    .text
                    .get(from..)
                    .and_then(|text| <[u8; 8]>::try_from(text).ok())
                    .and_then(|length| usize::try_from(u64::from_le_bytes(length)).ok())
                    .filter(|length| *length <= from)
                    .ok_or("a truncation makes the file longer")?;
                self.text.truncate(length);
                Ok(())
            }
            _ => Err("a later release wrote a record"),
        }
    }
}

/// Returns whether a later record proves that what begins at `position` was durable, so that no crash damaged it.
///
/// Headers of records are looked for at every offset, because a damaged length may have led astray. What would take
/// more than a few times the size of the file to check is refused: somebody made it so.
fn was_durable(key: &FileKey, bytes: &[u8], position: usize) -> bool {
    let mut effort = bytes.len().saturating_mul(EFFORT);
    let mut scratch = Vec::new();
    let mut at = position.saturating_add(1);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= OVERHEAD_BYTES) {
        let mut step = 1;
        if let Ok(frame) = Frame::parse(offset(at), rest) {
            match effort.checked_sub(frame.length()) {
                Some(left) => effort = left,
                None => return true,
            }
            scratch.clear();
            if frame.open(key, &mut scratch).is_ok() {
                if frame.durable() > offset(position) {
                    return true;
                }
                step = frame.length();
            }
        }
        at = at.saturating_add(step);
    }
    false
}

fn offset(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(u64::MAX)
}

/// How often over a file is decrypted, at most, in search of whole records.
const EFFORT: usize = 4;
