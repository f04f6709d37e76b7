//! Conditions on a node: `node.labels.zone==a`.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use overlay_core::{NodeId, ParseIdError};
use thiserror::Error;

use crate::{api::Role, state::NodeRecord};

/// Reads one condition of [`Placement::constraints`](crate::api::Placement::constraints).
///
/// `node.id`, `node.hostname`, `node.role`, `node.ip` (an address or a prefix) or `node.labels.…`, then `==` or `!=`,
/// then a value. Values are compared without regard to case. A node without the label has none of its values.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Constraint, ConstraintError> {
    let missing = || ConstraintError::Operator {
        text: text.chars().take(SHOWN_MAX).collect(),
    };
    let (key, value, equal) = match (text.find("=="), text.find("!=")) {
        (Some(at), other) if other.is_none_or(|other| at < other) => {
            (&text[..at], &text[at + 2..], true)
        }
        (_, Some(at)) => (&text[..at], &text[at + 2..], false),
        _ => return Err(missing()),
    };
    let (key, value) = (key.trim(), value.trim());
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(ConstraintError::Value {
            key: key.chars().take(SHOWN_MAX).collect(),
        });
    }
    Ok(Constraint {
        subject: subject(key, value)?,
        equal,
    })
}

fn subject(key: &str, value: &str) -> Result<Subject, ConstraintError> {
    let shown = || value.chars().take(SHOWN_MAX).collect::<String>();
    let lower = key.to_ascii_lowercase();
    match lower.as_str() {
        "node.id" => match value.to_ascii_lowercase().parse() {
            Ok(id) => Ok(Subject::Id(id)),
            Err(error) => Err(ConstraintError::Id {
                value: shown(),
                error,
            }),
        },
        "node.hostname" => Ok(Subject::Hostname(value.to_owned())),
        "node.role" => [Role::Worker, Role::Manager]
            .into_iter()
            .find(|role| role.as_str().eq_ignore_ascii_case(value))
            .map(Subject::Role)
            .ok_or_else(|| ConstraintError::Role { value: shown() }),
        "node.ip" => value
            .parse::<IpNet>()
            .or_else(|_| value.parse::<IpAddr>().map(IpNet::from))
            .map(Subject::Address)
            .map_err(|_| ConstraintError::Address { value: shown() }),
        _ => match key.get(LABELS.len()..) {
            Some(label) if !label.is_empty() && lower.starts_with(LABELS) => {
                Ok(Subject::Label(label.to_owned(), value.to_owned()))
            }
            _ => Err(ConstraintError::Key {
                key: key.chars().take(SHOWN_MAX).collect(),
            }),
        },
    }
}

/// A condition on a node; made by [`parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    subject: Subject,
    equal: bool,
}

impl Constraint {
    /// Returns whether it holds for `node`.
    pub fn holds(&self, node: &NodeRecord) -> bool {
        let same = match &self.subject {
            Subject::Id(id) => node.id == *id,
            Subject::Hostname(name) => same(&node.hostname, name),
            Subject::Role(role) => node.role == *role,
            Subject::Address(prefix) => prefix.contains(&node.address),
            Subject::Label(label, value) => {
                node.labels.get(label).is_some_and(|has| same(has, value))
            }
        };
        same == self.equal
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        parse(text)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Id(NodeId),
    Hostname(String),
    Role(Role),
    Address(IpNet),
    Label(String, String),
}

/// Why a text is no constraint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// It compares nothing.
    #[error("expected a constraint like node.labels.zone==a or node.role!=manager, found {text:?}")]
    Operator {
        /// The text, shortened.
        text: String,
    },
    /// There is no such property.
    #[error("expected node.id, node.hostname, node.role, node.ip or node.labels.…, found {key:?}")]
    Key {
        /// The property, shortened.
        key: String,
    },
    /// It compares with nothing.
    #[error("expected a value without control characters to compare {key:?} with")]
    Value {
        /// The property, shortened.
        key: String,
    },
    /// There is no such role.
    #[error("expected the role worker or manager, found {value:?}")]
    Role {
        /// The value, shortened.
        value: String,
    },
    /// It is neither an address nor a prefix.
    #[error("expected an address or a prefix like 10.0.0.0/8, found {value:?}")]
    Address {
        /// The value, shortened.
        value: String,
    },
    /// It is no identity of a node.
    #[error("expected the whole identity of a node, found {value:?}: {error}")]
    Id {
        /// The value, shortened.
        value: String,
        /// What is wrong with it.
        error: ParseIdError,
    },
}

const LABELS: &str = "node.labels.";
const SHOWN_MAX: usize = 80;
