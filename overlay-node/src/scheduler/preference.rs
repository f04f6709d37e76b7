//! What tasks are spread over: `spread=node.labels.zone`.

use thiserror::Error;

/// Reads one of [`Placement::preferences`](crate::api::Placement::preferences) and returns the label whose values tasks
/// are spread over. Nodes without it count as one more value.
///
/// # Errors
///
/// What was found instead of `spread=node.labels.…`.
pub fn parse(text: &str) -> Result<String, PreferenceError> {
    let label = text
        .split_once('=')
        .filter(|(strategy, _)| strategy.trim().eq_ignore_ascii_case("spread"))
        .and_then(|(_, over)| over.trim().strip_prefix("node.labels."))
        .filter(|label| !label.is_empty() && !label.contains(['=', '!']));
    label
        .map(str::to_owned)
        .ok_or_else(|| PreferenceError::Malformed {
            text: text.chars().take(80).collect(),
        })
}

/// Why a text is no preference.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PreferenceError {
    /// It is none at all.
    #[error("expected a preference like spread=node.labels.zone, found {text:?}")]
    Malformed {
        /// The text, shortened.
        text: String,
    },
}
