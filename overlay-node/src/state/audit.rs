//! What changed, when and on whose behalf: the last [`EVENTS_MAX`] changes.

use std::borrow::Cow;

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    ClusterState, Command, Outcome,
    digest::{Hasher, Octets},
    ring::Ring,
};
use crate::api::{EventInfo, Role};

/// The last changes, oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Audit {
    events: Ring<Event, EVENTS_MAX>,
    /// Who is acting, while a command is applied.
    #[serde(skip)]
    present: Option<(u64, u64, NodeId)>,
    #[serde(skip)]
    hasher: Hasher,
}

/// A change as it is kept: its words are spelled out when somebody asks. Stored as [`EventInfo`].
#[derive(Clone, Debug)]
struct Event {
    index: u64,
    at_unix_ms: u64,
    actor: NodeId,
    kind: Cow<'static, str>,
    action: Cow<'static, str>,
    id: Id,
    name: String,
}

/// The identity of what changed.
#[derive(Clone, Debug)]
enum Id {
    Octets([u8; 16]),
    /// One that is none, as of the cluster, which has no other.
    Text(String),
}

impl Audit {
    pub(super) fn begin(&mut self, index: u64, at_unix_ms: u64, actor: NodeId) {
        self.present = Some((index, at_unix_ms, actor));
    }

    pub(super) fn note(
        &mut self,
        kind: &'static str,
        action: impl Into<Cow<'static, str>>,
        id: &[u8; 16],
        name: String,
    ) {
        self.add(kind.into(), action.into(), Id::Octets(*id), name);
    }

    /// Returns a hash of all that is remembered, in order.
    pub(super) fn sum(&self) -> u128 {
        self.events.sum()
    }

    fn add(&mut self, kind: Cow<'static, str>, action: Cow<'static, str>, id: Id, name: String) {
        let Some((index, at_unix_ms, actor)) = self.present else {
            return;
        };
        self.push(Event {
            index,
            at_unix_ms,
            actor,
            kind,
            action,
            id,
            name,
        });
    }

    fn push(&mut self, event: Event) {
        let Event {
            index,
            at_unix_ms,
            actor,
            kind,
            action,
            id,
            name,
        } = &event;
        let id = match id {
            Id::Octets(octets) => (Octets(octets), ""),
            Id::Text(text) => (Octets(&[]), text.as_str()),
        };
        let actor = Octets(actor.as_bytes());
        let form = (index, at_unix_ms, actor, kind, action, id, name);
        let hash = self.hasher.hash(&form);
        self.events.push(event, hash);
    }
}

impl Event {
    fn info(&self) -> EventInfo {
        EventInfo {
            index: self.index,
            at_unix_ms: self.at_unix_ms,
            actor: self.actor,
            kind: self.kind.clone().into_owned(),
            action: self.action.clone().into_owned(),
            id: match &self.id {
                // All identities are written alike.
                Id::Octets(octets) => EndpointId::from_bytes(*octets).to_string(),
                Id::Text(text) => text.clone(),
            },
            name: self.name.clone(),
        }
    }
}

impl From<EventInfo> for Event {
    fn from(info: EventInfo) -> Self {
        Self {
            index: info.index,
            at_unix_ms: info.at_unix_ms,
            actor: info.actor,
            kind: info.kind.into(),
            action: info.action.into(),
            id: match info.id.parse::<EndpointId>() {
                Ok(id) => Id::Octets(*id.as_bytes()),
                Err(_) => Id::Text(info.id),
            },
            name: info.name,
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.info().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Audit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Audit")]
        struct Stored {
            events: Vec<EventInfo>,
        }
        let mut audit = Self::default();
        for event in Stored::deserialize(deserializer)?.events {
            audit.push(event.into());
        }
        Ok(audit)
    }
}

impl ClusterState {
    /// Returns what changed after `index`, oldest first, as far as it is remembered.
    pub fn events_after(&self, index: u64) -> impl Iterator<Item = EventInfo> {
        let events = self.audit.events.iter();
        events
            .filter(move |event| event.index > index)
            .map(Event::info)
    }

    /// Describes what a command is about before it is applied, while what it removes is still there.
    pub(super) fn subject(&self, command: &Command) -> Option<Subject> {
        let (kind, action, (id, name)) = match command {
            Command::InitCluster(seed) => (
                "cluster",
                "create",
                (octets(seed.id.as_bytes()), String::new()),
            ),
            Command::AddNode(added) => (
                "node",
                "create",
                (octets(added.id.as_bytes()), added.hostname.clone()),
            ),
            Command::DescribeNode { node: id, .. } => ("node", "update", self.named_node(*id)),
            Command::SetRole { node: id, role } => {
                let action = match role {
                    Role::Manager => "promote",
                    Role::Worker => "demote",
                };
                ("node", action, self.named_node(*id))
            }
            Command::RemoveNode { node: id } => ("node", "remove", self.named_node(*id)),
            Command::UpdateNode { node: id, .. } => ("node", "update", self.named_node(*id)),
            Command::IssueToken { .. }
            | Command::RevokeToken { .. }
            | Command::Admit { .. }
            | Command::BeginAuthority(_)
            | Command::FinishAuthority { .. }
            | Command::LockManagers { .. }
            | Command::RotateToken { .. }
            | Command::RotateKeys { .. } => return security(command),
            Command::CreateNetwork { id, spec } => (
                "network",
                "create",
                (octets(id.as_bytes()), spec.name.clone()),
            ),
            Command::RemoveNetwork { network } => {
                ("network", "remove", self.named_network(*network))
            }
            Command::ExtendNetwork { network, .. } | Command::ChangePolicy { network, .. } => {
                ("network", "update", self.named_network(*network))
            }
            Command::AttachEndpoint(attach) => (
                "endpoint",
                "create",
                (octets(attach.id.as_bytes()), attach.name.clone()),
            ),
            Command::CreateService { id, spec } => (
                "service",
                "create",
                (octets(id.as_bytes()), spec.name.clone()),
            ),
            Command::UpdateService { id, .. } => ("service", "update", self.named_service(*id)),
            Command::RollBackService { id } => ("service", "rollback", self.named_service(*id)),
            Command::RemoveService { id } => ("service", "remove", self.named_service(*id)),
            Command::UpdateCluster { .. } => ("cluster", "update", unnamed()),
            Command::Recover { manager, .. } => ("cluster", "recover", self.named_node(*manager)),
            // Tasks and endpoints note their own changes; retired parts are nobody's business.
            Command::DetachEndpoint { .. }
            | Command::RetireParts { .. }
            | Command::ChangeTasks { .. }
            | Command::ReportTasks { .. } => return None,
        };
        Some(Subject {
            kind,
            action,
            id,
            name,
        })
    }

    fn named_node(&self, node: NodeId) -> (Id, String) {
        let name = self.nodes.get(node).map(|record| record.hostname.clone());
        (octets(node.as_bytes()), name.unwrap_or_default())
    }

    fn named_network(&self, id: NetworkId) -> (Id, String) {
        let name = self.networks.get(id).map(|record| record.name.clone());
        (octets(id.as_bytes()), name.unwrap_or_default())
    }

    fn named_service(&self, id: ServiceId) -> (Id, String) {
        let record = self.services.get(id);
        let name = record.map(|record| record.spec().name.clone());
        (octets(id.as_bytes()), name.unwrap_or_default())
    }

    /// Notes that a command was carried out.
    pub(super) fn note_done(&mut self, subject: Option<Subject>, outcome: &Outcome) {
        // A node that has its new role already was not changed.
        let idle = |subject: &Subject| {
            matches!(subject.action, "promote" | "demote") && *outcome == Outcome::Done
        };
        let subject = subject.filter(|subject| !idle(subject));
        if let Some(Subject {
            kind,
            action,
            id,
            name,
        }) = subject
        {
            self.audit.add(kind.into(), action.into(), id, name);
        }
    }
}

/// Describes a command about who may join, and with which keys.
fn security(command: &Command) -> Option<Subject> {
    let (kind, action, (id, name)) = match command {
        Command::RotateToken { role, .. } => (
            "cluster",
            "rotate",
            (Id::Text(String::new()), format!("{role} join token")),
        ),
        Command::IssueToken { id, token } => (
            "token",
            "create",
            (
                Id::Text(id.to_string()),
                format!("{} join token", token.role),
            ),
        ),
        Command::RevokeToken { id } => {
            ("token", "remove", (Id::Text(id.to_string()), String::new()))
        }
        Command::Admit { node, .. } => (
            "node",
            "create",
            (octets(node.id.as_bytes()), node.hostname.clone()),
        ),
        Command::BeginAuthority(_) => ("cluster", "rotate", authority()),
        Command::FinishAuthority { .. } => ("cluster", "rotated", authority()),
        Command::RotateKeys { .. } => (
            "cluster",
            "rotate",
            (Id::Text(String::new()), "shared keys".to_owned()),
        ),
        Command::LockManagers { unlock, .. } => {
            let action = if unlock.is_some() { "lock" } else { "unlock" };
            (
                "cluster",
                action,
                (Id::Text(String::new()), "managers".to_owned()),
            )
        }
        _ => return None,
    };
    Some(Subject {
        kind,
        action,
        id,
        name,
    })
}

/// The cluster itself: there is no other.
fn unnamed() -> (Id, String) {
    (Id::Text(String::new()), String::new())
}

/// The certificate authority: there is one.
fn authority() -> (Id, String) {
    (Id::Text(String::new()), "certificate authority".to_owned())
}

/// What a command is about.
pub(super) struct Subject {
    kind: &'static str,
    action: &'static str,
    id: Id,
    name: String,
}

fn octets(id: &[u8; 16]) -> Id {
    Id::Octets(*id)
}

/// How many changes are remembered.
pub(super) const EVENTS_MAX: usize = 1_024;
