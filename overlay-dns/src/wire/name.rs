//! Domain names (RFC 1035 §3.1, §4.1.4): length-prefixed labels, at most 63 octets each and 255 together.

use std::fmt;

use thiserror::Error;

use super::{DecodeError, HEADER_BYTES, truncated};

/// Longest name without the root's octet.
const OCTETS_MAX: usize = 254;
/// Most labels that fit: 127 of one octet each.
const LABELS_MAX: usize = 127;
/// Longest label.
const LABEL_MAX: usize = 63;
/// The upper two bits of a compression pointer.
const POINTER: u8 = 0xc0;

/// The text is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseNameError {
    /// A label is empty or longer than 63 octets.
    #[error("expected labels of 1 to 63 octets, found one of {found}")]
    Label {
        /// Its length, in octets.
        found: usize,
    },
    /// The name needs more than 255 octets.
    #[error("the name is longer than 255 octets")]
    Length,
}

/// A domain name in wire form, without the octet of the root, held in place.
///
/// The root itself has no labels. Names compare octet by octet; [`lowercase`](Self::lowercase) both sides for a
/// comparison as RFC 4343 wants it.
#[derive(Clone, Copy)]
pub struct Name {
    octets: [u8; OCTETS_MAX],
    len: u8,
    starts: [u8; LABELS_MAX],
    count: u8,
}

impl Name {
    /// The root.
    pub const ROOT: Self = Self {
        octets: [0; OCTETS_MAX],
        len: 0,
        starts: [0; LABELS_MAX],
        count: 0,
    };

    /// Reads the name at `at`, following compression pointers; returns it and the offset behind it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: a label or the name is too long, a pointer does not lead backwards, the message ends.
    pub fn decode(message: &[u8], at: usize) -> Result<(Self, usize), DecodeError> {
        let mut name = Self::ROOT;
        let end = walk(message, at, |label| {
            let _ = name.push(label); // the walk bounds labels and length as `push` does
        })?;
        Ok((name, end))
    }

    /// Checks the name at `at` without keeping it; returns the offset behind it.
    #[inline]
    pub(crate) fn skip(message: &[u8], at: usize) -> Result<usize, DecodeError> {
        walk(message, at, |_| {})
    }

    /// Reads a name from text: labels separated by dots, one dot at the end allowed, no escapes.
    ///
    /// # Errors
    ///
    /// [`ParseNameError`]: an empty or too long label, or a name longer than 255 octets.
    pub fn from_text(text: &str) -> Result<Self, ParseNameError> {
        let mut name = Self::ROOT;
        let text = text.strip_suffix('.').unwrap_or(text);
        for label in text.split('.') {
            name.push(label.as_bytes())?;
        }
        Ok(name)
    }

    /// Makes it the lower-cased name that stands in `wire`, without the root's octet, in labels that have been checked.
    #[inline]
    pub(crate) fn assign_lowercase(&mut self, wire: &[u8]) {
        let (mut at, mut count) = (0_u8, 0_u8);
        for place in &mut self.starts {
            let Some(length) = wire.get(usize::from(at)) else {
                break;
            };
            *place = at;
            at = at.saturating_add(*length).saturating_add(1);
            count = count.saturating_add(1);
        }
        (self.len, self.count) = (0, 0);
        if let Some(octets) = self.octets.get_mut(..wire.len()) {
            octets.copy_from_slice(wire);
            octets.make_ascii_lowercase();
            (self.len, self.count) = (at, count);
        }
    }

    /// Adds a label at the end.
    ///
    /// # Errors
    ///
    /// [`ParseNameError`]; the name is unchanged.
    pub fn push(&mut self, label: &[u8]) -> Result<(), ParseNameError> {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=LABEL_MAX).contains(&usize::from(*length)))
            .ok_or(ParseNameError::Label { found: label.len() })?;
        let start = usize::from(self.len);
        let body = start.saturating_add(1);
        let end = body.saturating_add(label.len());
        let place = self.octets.get_mut(body..end);
        place.ok_or(ParseNameError::Length)?.copy_from_slice(label);
        if let Some(octet) = self.octets.get_mut(start) {
            *octet = length;
        }
        if let Some(place) = self.starts.get_mut(usize::from(self.count)) {
            *place = self.len;
        }
        self.len = self.len.saturating_add(length).saturating_add(1);
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Adds all labels of `other` at the end.
    ///
    /// # Errors
    ///
    /// [`ParseNameError::Length`]; the name is unchanged.
    pub fn append(&mut self, other: &Self) -> Result<(), ParseNameError> {
        let whole = *self;
        for label in other.labels() {
            if let Err(error) = self.push(label) {
                *self = whole;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the name with its ASCII letters made small (RFC 4343).
    #[must_use]
    pub fn lowercase(mut self) -> Self {
        // Lengths are below 64, and the capital letters begin at 65: the whole can be changed at once.
        self.octets.make_ascii_lowercase();
        self
    }

    /// Returns the wire form without the root's octet.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Returns how many labels it has.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Returns the label at `index`, counted from the left.
    #[inline]
    pub fn label(&self, index: usize) -> Option<&[u8]> {
        let rest = self.suffix(index);
        let (length, rest) = rest.split_first()?;
        rest.get(..usize::from(*length))
    }

    /// Returns the labels from left to right.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count()).map_while(|index| self.label(index))
    }

    /// Returns the wire form of what is left without the first `skipped` labels.
    #[inline]
    pub fn suffix(&self, skipped: usize) -> &[u8] {
        self.as_bytes()
            .get(self.offset(skipped)..)
            .unwrap_or_default()
    }

    /// Returns the wire form of the first `kept` labels.
    #[inline]
    pub fn prefix(&self, kept: usize) -> &[u8] {
        self.as_bytes().get(..self.offset(kept)).unwrap_or_default()
    }

    /// Returns the wire form of the labels `from..to`.
    #[inline]
    pub fn middle(&self, from: usize, to: usize) -> &[u8] {
        let range = self.offset(from)..self.offset(to);
        self.as_bytes().get(range).unwrap_or_default()
    }

    /// Returns true if the last labels are those of `zone`, or if both are equal. Case matters.
    pub fn is_within(&self, zone: &Self) -> bool {
        self.count()
            .checked_sub(zone.count())
            .is_some_and(|skipped| self.suffix(skipped) == zone.as_bytes())
    }

    /// Returns where the label at `index` begins; the length for the one behind the last.
    #[inline]
    pub(crate) fn offset(&self, index: usize) -> usize {
        if index >= self.count() {
            return usize::from(self.len);
        }
        self.starts
            .get(index)
            .map_or(0, |start| usize::from(*start))
    }

    /// Makes a name from its wire form without the root's octet.
    pub(crate) fn from_wire(wire: &[u8]) -> Option<Self> {
        let (mut name, mut rest) = (Self::ROOT, wire);
        while let Some((length, tail)) = rest.split_first() {
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            name.push(label).ok()?;
            rest = tail;
        }
        Some(name)
    }
}

/// Walks the labels of the name at `at`. Bounded: at most 127 labels and as many pointers, each further back.
#[inline]
fn walk(message: &[u8], at: usize, mut label: impl FnMut(&[u8])) -> Result<usize, DecodeError> {
    let (mut here, mut run, mut end) = (at, at, None);
    let (mut length, mut pointers) = (0_usize, 0_usize);
    loop {
        let octet = *message
            .get(here)
            .ok_or_else(|| truncated(message, here, 1))?;
        let next = here.saturating_add(1);
        match octet & POINTER {
            0 if octet == 0 => return Ok(end.unwrap_or(next)),
            0 => {
                let need = usize::from(octet);
                let behind = next.saturating_add(need);
                let octets = message
                    .get(next..behind)
                    .ok_or_else(|| truncated(message, next, need))?;
                length = length.saturating_add(need).saturating_add(1);
                if length > OCTETS_MAX {
                    return Err(DecodeError::NameLength { at });
                }
                label(octets);
                here = behind;
            }
            POINTER => {
                let low = *message
                    .get(next)
                    .ok_or_else(|| truncated(message, next, 1))?;
                let target = usize::from(u16::from_be_bytes([octet & !POINTER, low]));
                pointers = pointers.saturating_add(1);
                if target >= run || target < HEADER_BYTES || pointers > LABELS_MAX {
                    return Err(DecodeError::Pointer { at: here });
                }
                end = end.or(Some(next.saturating_add(1)));
                (here, run) = (target, target);
            }
            _ => return Err(DecodeError::Label { at: here }),
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    /// Writes the presentation form with a dot at the end; octets that are no visible ASCII as `\DDD` (RFC 1035 §5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(*octet))?;
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(*octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}
