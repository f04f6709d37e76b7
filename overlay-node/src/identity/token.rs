//! Join tokens in Docker's format: `SWMTKN-1-<digest of the CA certificate>-<secret>`.

use std::{fmt, str::FromStr};

use ring::digest::{SHA256, digest};
use thiserror::Error;

use crate::secret::Secret;

/// What a node needs in order to join: whom to trust, and what to show.
///
/// The digest pins the cluster's certificate authority, so that the secret is shown to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate's PEM text.
    pub ca_digest: [u8; 32],
    /// 128 random bits; which role they stand for, the cluster knows.
    pub secret: Secret<16>,
}

/// The text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It does not begin with `SWMTKN-1-`.
    #[error("a join token begins with `SWMTKN-1-`: copy the whole of what `join-token` printed")]
    Prefix,
    /// It does not have four parts.
    #[error("a join token has 4 parts separated by `-`, this one has {found}: copy it whole")]
    Parts {
        /// How many there are.
        found: usize,
    },
    /// A part has not its length.
    #[error("the token's {part} has {found} characters instead of {expected}: copy it whole")]
    Length {
        /// Which part.
        part: &'static str,
        /// What it should have.
        expected: usize,
        /// What it has.
        found: usize,
    },
    /// A part has a character that is neither digit nor small letter, or is too large a number.
    #[error("the token's {part} is no base-36 number of its size: copy it whole")]
    Digits {
        /// Which part.
        part: &'static str,
    },
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = to_base36(&self.ca_digest, DIGEST_CHARACTERS);
        let secret = to_base36(self.secret.expose(), SECRET_CHARACTERS);
        write!(f, "{PREFIX}-{VERSION}-{digest}-{secret}")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<_> = text.trim().split('-').collect();
        if parts.first() != Some(&PREFIX) || parts.get(1).is_some_and(|part| *part != VERSION) {
            return Err(TokenError::Prefix);
        }
        let [_, _, digest, secret] = parts[..] else {
            return Err(TokenError::Parts { found: parts.len() });
        };
        let ca_digest = from_base36::<32>(digest, "digest", DIGEST_CHARACTERS)?;
        let secret = from_base36::<16>(secret, "secret", SECRET_CHARACTERS)?;
        let secret = Secret::new(secret.to_vec()).expect("the array has 16 octets");
        Ok(Self { ca_digest, secret })
    }
}

/// Returns the digest of a CA certificate as tokens carry it: SHA-256 of its PEM text.
pub fn ca_digest(pem: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, pem.as_bytes()).as_ref());
    bytes
}

/// Writes a big-endian number in base 36, padded with zeroes to `width`.
fn to_base36(number: &[u8], width: usize) -> String {
    let mut digits = vec![0_u8; width];
    for octet in number {
        let mut carry = u32::from(*octet);
        for digit in digits.iter_mut().rev() {
            carry += u32::from(*digit) << 8;
            *digit = u8::try_from(carry % 36).unwrap_or_default();
            carry /= 36;
        }
    }
    digits
        .iter()
        .filter_map(|digit| char::from_digit(u32::from(*digit), 36))
        .collect()
}

/// Reads a big-endian number of `N` octets in base 36.
fn from_base36<const N: usize>(
    text: &str,
    part: &'static str,
    expected: usize,
) -> Result<[u8; N], TokenError> {
    let found = text.chars().count();
    if found != expected {
        return Err(TokenError::Length {
            part,
            expected,
            found,
        });
    }
    let mut number = [0_u8; N];
    for character in text.chars() {
        let digit = (!character.is_ascii_uppercase())
            .then(|| character.to_digit(36))
            .flatten();
        let mut carry = digit.ok_or(TokenError::Digits { part })?;
        for octet in number.iter_mut().rev() {
            carry += u32::from(*octet) * 36;
            *octet = u8::try_from(carry & 0xff).unwrap_or_default();
            carry >>= 8;
        }
        if carry != 0 {
            return Err(TokenError::Digits { part });
        }
    }
    Ok(number)
}

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
const DIGEST_CHARACTERS: usize = 50;
const SECRET_CHARACTERS: usize = 25;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(digest: [u8; 32], secret: [u8; 16]) -> JoinToken {
        JoinToken {
            ca_digest: digest,
            secret: Secret::new(secret.to_vec()).unwrap(),
        }
    }

    #[test]
    fn leading_zeroes_are_kept() {
        let text = token([0; 32], [0; 16]).to_string();
        assert_eq!(
            text,
            format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25))
        );
        assert_eq!(text.parse(), Ok(token([0; 32], [0; 16])));
    }

    #[test]
    fn the_largest_numbers_fit() {
        let largest = token([0xff; 32], [0xff; 16]);
        assert_eq!(largest.to_string().parse(), Ok(largest));
        let above = format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25));
        assert_eq!(
            above.parse::<JoinToken>(),
            Err(TokenError::Digits { part: "digest" })
        );
    }

    #[test]
    fn malformed_tokens_say_what_is_wrong() {
        let (digest, secret) = ("1".repeat(50), "2".repeat(25));
        let cases = [
            (String::new(), TokenError::Prefix),
            (format!("SWMTKX-1-{digest}-{secret}"), TokenError::Prefix),
            (format!("SWMTKN-3-{digest}-{secret}"), TokenError::Prefix),
            (format!("SWMTKN-1-{digest}"), TokenError::Parts { found: 3 }),
            (
                format!("SWMTKN-1-{digest}-{secret}-1"),
                TokenError::Parts { found: 5 },
            ),
            (
                format!("SWMTKN-1-{}-{secret}", "1".repeat(49)),
                TokenError::Length {
                    part: "digest",
                    expected: 50,
                    found: 49,
                },
            ),
            (
                format!("SWMTKN-1-{digest}-{}", "A".repeat(25)),
                TokenError::Digits { part: "secret" },
            ),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back(digest: [u8; 32], secret: [u8; 16]) {
            let token = token(digest, secret);
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = text.parse::<JoinToken>();
        }
    }
}
