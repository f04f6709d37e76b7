//! Octets that nobody shall see.

use std::fmt;

use overlay_core::Rng;
use serde::{Deserialize, Serialize};

/// Octets that are never printed and are overwritten when dropped. `N` is their number, 0 for any.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>")]
pub struct Secret<const N: usize>(Vec<u8>);

impl<const N: usize> TryFrom<Vec<u8>> for Secret<N> {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let found = bytes.len();
        Self::new(bytes).ok_or_else(|| format!("a secret of {found} octets where {N} are expected"))
    }
}

impl<const N: usize> Secret<N> {
    /// Takes octets in; `None` if their number is not `N`.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (N == 0 || bytes.len() == N).then_some(Self(bytes))
    }

    /// Draws `N` octets.
    pub fn random(rng: &mut Rng) -> Self {
        let mut bytes = vec![0; N];
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// Makes one of zeroes, which is no secret yet.
    pub fn zero() -> Self {
        Self(vec![0; N])
    }

    /// Shows the octets.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Secret<0> {
    /// Takes any number of octets in.
    pub const fn any(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the writes above from being left out as dead.
        std::hint::black_box(&self.0);
    }
}
