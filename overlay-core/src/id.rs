//! Identities: 128 random bits, written as 25 base-36 characters as in Docker's lists.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::Rng;

/// The text was no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// An identity has exactly 25 characters.
    #[error("expected 25 characters, found {found}")]
    Length {
        /// How many there were.
        found: usize,
    },
    /// A character is neither a digit nor a small letter.
    #[error("expected digits and small letters, found {found:?} at {at}")]
    Character {
        /// The character.
        found: char,
        /// Its position, in octets.
        at: usize,
    },
    /// The number needs more than 128 bits.
    #[error("the number is larger than 128 bits")]
    Overflow,
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 25;

fn format(id: u128) -> String {
    let (mut rest, mut text) = (id, [b'0'; LENGTH]);
    for place in text.iter_mut().rev() {
        let digit = usize::try_from(rest % 36).unwrap_or_default();
        *place = DIGITS.get(digit).copied().unwrap_or(b'0');
        rest /= 36;
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn parse(text: &str) -> Result<u128, ParseIdError> {
    let found = text.chars().count();
    if found != LENGTH {
        return Err(ParseIdError::Length { found });
    }
    let mut id: u128 = 0;
    for (at, found) in text.char_indices() {
        let digit = match found {
            '0'..='9' | 'a'..='z' => found.to_digit(36),
            _ => None,
        };
        let digit = digit.ok_or(ParseIdError::Character { found, at })?;
        id = id
            .checked_mul(36)
            .and_then(|id| id.checked_add(u128::from(digit)))
            .ok_or(ParseIdError::Overflow)?;
    }
    Ok(id)
}

macro_rules! identity {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        ///
        /// 128 bits; its text form has 25 base-36 characters (digits, small letters). Text in human-readable
        /// serializations, 16 octets in binary ones.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Makes an identity from its 16 octets.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Draws a fresh identity.
            pub fn random(rng: &mut Rng) -> Self {
                Self(rng.bytes())
            }

            /// Returns the 16 octets.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Returns the first 12 characters of the text form, as lists show it.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(12);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format(u128::from_be_bytes(self.0)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text).map(|id| Self(id.to_be_bytes()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

identity!(
    NodeId,
    "A host of the cluster, bound to a key that was made on it."
);
identity!(NetworkId, "A network.");
identity!(EndpointId, "One attachment of something to one network.");
identity!(ServiceId, "A service.");
identity!(TaskId, "One run of a service.");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn text_is_25_characters_and_round_trips_at_the_edges() {
        for bytes in [[0; 16], [0xff; 16], [7; 16]] {
            let id = NodeId::from_bytes(bytes);
            let text = id.to_string();
            assert_eq!(text.len(), 25);
            assert_eq!(text.parse(), Ok(id));
        }
        assert_eq!(
            NodeId::from_bytes([0; 16]).to_string(),
            "0000000000000000000000000"
        );
        assert_eq!(
            NodeId::from_bytes([0xff; 16]).to_string(),
            "f5lxx1zz5pnorynqglhzmsp33"
        );
    }

    #[test]
    fn wrong_text_says_what_is_wrong() {
        assert_eq!(
            "abc".parse::<NodeId>(),
            Err(ParseIdError::Length { found: 3 })
        );
        assert_eq!(
            "zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<NodeId>(),
            Err(ParseIdError::Overflow)
        );
        let capital = "000000000000000000000000A".parse::<NodeId>();
        assert_eq!(capital, Err(ParseIdError::Character { found: 'A', at: 24 }));
    }

    #[test]
    fn random_identities_differ() {
        let mut rng = Seed::from_u64(1).rng();
        assert_ne!(TaskId::random(&mut rng), TaskId::random(&mut rng));
    }
}
