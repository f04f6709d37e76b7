//! Netlink attributes: the trees of type, length and value that nf_tables speaks in.
//!
//! ```text
//! 0         2         4                length
//! +---------+---------+----------------+---------
//! | length  | type    | value          | padding to 4
//! +---------+---------+----------------+---------
//! ```
//! Length and type are in the host's octet order, numbers in nf_tables' values are big-endian.

/// Attributes in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_octets(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn value(mut self, kind: u16, value: &[u8]) -> Self {
        // The kernel refuses what is longer; nothing here comes near.
        let length = u16::try_from(HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    pub(crate) fn number(self, kind: u16, number: u32) -> Self {
        self.value(kind, &number.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        self.value(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// As the kernel itself writes it, without the flag that says that there is more inside.
    pub(crate) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.value(kind, &inner.0)
    }
}

/// Attributes as they came; what is cut off ends them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<'a>(pub(crate) &'a [u8]);

impl<'a> Parsed<'a> {
    /// The value of the first attribute of a type.
    pub(crate) fn value(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        let value = self.value(kind)?.try_into().ok()?;
        Some(u32::from_be_bytes(value))
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let value = self.value(kind)?;
        let end = value.iter().position(|octet| *octet == 0);
        let text = value.get(..end.unwrap_or(value.len()))?;
        String::from_utf8(text.to_vec()).ok()
    }

    pub(crate) fn nested(self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self)
    }
}

impl<'a> Iterator for Parsed<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d] = *self.0.first_chunk::<HEADER_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(HEADER_BYTES..length)?;
        self.0 = self
            .0
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value))
    }
}

pub(crate) const HEADER_BYTES: usize = 4;
const ALIGNMENT: usize = 4;
/// Without the flags for nested and big-endian values.
const TYPE_MASK: u16 = 0x3fff;
