//! Unlock keys in Docker's format: `SWMKEY-1-` and 32 octets in base 64.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use overlay_core::Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::secret::Secret;

/// What a manager's data directory opens with, where the cluster locks its managers. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnlockKey(Secret<32>);

impl UnlockKey {
    /// Draws one.
    pub fn random(rng: &mut Rng) -> Self {
        Self(Secret::random(rng))
    }

    /// Returns its octets.
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// The text is no unlock key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnlockKeyError {
    /// It does not begin with `SWMKEY-1-`.
    #[error("an unlock key begins with `SWMKEY-1-`: copy the whole of what `unlock-key` printed")]
    Prefix,
    /// What follows has not the length of a key.
    #[error(
        "the unlock key has {found} characters behind `SWMKEY-1-` instead of {CHARACTERS}: copy it whole"
    )]
    Length {
        /// How many there are.
        found: usize,
    },
    /// What follows is no base 64.
    #[error("the unlock key has characters that none has: copy it whole")]
    Characters,
}

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;

    fn from_str(text: &str) -> Result<Self, UnlockKeyError> {
        let text = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(UnlockKeyError::Prefix)?;
        let found = text.chars().count();
        if found != CHARACTERS {
            return Err(UnlockKeyError::Length { found });
        }
        let bytes = STANDARD_NO_PAD.decode(text);
        let secret = bytes.ok().and_then(Secret::new);
        secret.map(Self).ok_or(UnlockKeyError::Characters)
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0.expose()))
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey(..)")
    }
}

const PREFIX: &str = "SWMKEY-1-";
const CHARACTERS: usize = 43;

#[cfg(test)]
mod tests {
    use overlay_core::Seed;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_reads_as_docker_writes_it() {
        let text = "SWMKEY-1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let key: UnlockKey = format!(" {text}\n").parse().unwrap();
        assert!(key.secret().expose().iter().copied().eq(0..32));
        assert_eq!(key.to_string(), text);
        assert_eq!(format!("{key:?}"), "UnlockKey(..)");
    }

    #[test]
    fn malformed_keys_say_what_is_wrong() {
        for (text, error) in [
            ("", UnlockKeyError::Prefix),
            ("SWMTKN-1-x", UnlockKeyError::Prefix),
            ("SWMKEY-1-AAEC", UnlockKeyError::Length { found: 4 }),
            (
                "SWMKEY-1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH!8",
                UnlockKeyError::Characters,
            ),
            // The last character has bits that no octet has.
            (
                "SWMKEY-1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
                UnlockKeyError::Characters,
            ),
        ] {
            assert_eq!(text.parse::<UnlockKey>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_key_reads_back(seed: u64) {
            let key = UnlockKey::random(&mut Seed::from_u64(seed).rng());
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = text.parse::<UnlockKey>();
            let _ = format!("SWMKEY-1-{text}").parse::<UnlockKey>();
        }
    }
}
