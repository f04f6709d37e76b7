//! Names with a meaning of their own (RFC 6761, RFC 6762, RFC 7686, RFC 9462): answered here, never forwarded.

use crate::wire::Name;

/// What is special about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// `localhost` and what is below it: the loopback addresses (RFC 6761 §6.3).
    Localhost,
    /// `invalid`, `local`, `onion`: no server knows them. With the number of labels before the zone's.
    Absent { apex: usize },
    /// `resolver.arpa`: exists, and we designate no resolver (RFC 9462 §6.4).
    Empty { apex: usize },
}

/// Classifies a lower-cased name.
#[inline]
pub(crate) fn classify(name: &Name) -> Option<Special> {
    let apex = name.count().checked_sub(1)?;
    match name.label(apex)? {
        b"localhost" => Some(Special::Localhost),
        b"invalid" | b"local" | b"onion" => Some(Special::Absent { apex }),
        b"arpa" if apex >= 1 && name.label(apex - 1) == Some(b"resolver") => {
            Some(Special::Empty { apex: apex - 1 })
        }
        _ => None,
    }
}
