//! What changed, when and on whose behalf: the last [`EVENTS_MAX`] changes.

use overlay_core::{NodeId, ServiceId};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ClusterState, Command, Outcome, digest::Hasher, ring::Ring};
use crate::api::{EventInfo, Role};

/// The last changes, oldest first.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Audit {
    events: Ring<EventInfo, EVENTS_MAX>,
    /// Who is acting, while a command is applied.
    #[serde(skip)]
    present: Option<(u64, u64, NodeId)>,
    #[serde(skip)]
    hasher: Hasher,
}

impl Audit {
    pub(super) fn begin(&mut self, index: u64, at_unix_ms: u64, actor: NodeId) {
        self.present = Some((index, at_unix_ms, actor));
    }

    pub(super) fn note(&mut self, kind: &str, action: &str, id: String, name: String) {
        let Some((index, at_unix_ms, actor)) = self.present else {
            return;
        };
        self.push(EventInfo {
            index,
            at_unix_ms,
            actor,
            kind: kind.to_owned(),
            action: action.to_owned(),
            id,
            name,
        });
    }

    /// Returns a hash of all that is remembered, in order.
    pub(super) fn sum(&self) -> u128 {
        self.events.sum()
    }

    fn push(&mut self, event: EventInfo) {
        let hash = self.hasher.hash(&event);
        self.events.push(event, hash);
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
            audit.push(event);
        }
        Ok(audit)
    }
}

impl ClusterState {
    /// Returns what changed after `index`, oldest first, as far as it is remembered.
    pub fn events_after(&self, index: u64) -> impl Iterator<Item = &EventInfo> {
        self.audit
            .events
            .iter()
            .filter(move |event| event.index > index)
    }

    /// Describes what a command is about before it is applied, while what it removes is still there.
    pub(super) fn subject(&self, command: &Command) -> Option<Subject> {
        let (kind, action, (id, name)) = match command {
            Command::InitCluster(seed) => {
                ("cluster", "create", (seed.id.to_string(), String::new()))
            }
            Command::AddNode(added) => (
                "node",
                "create",
                (added.id.to_string(), added.hostname.clone()),
            ),
            Command::SetAddress { node: id, .. } => ("node", "update", self.named_node(*id)),
            Command::SetRole { node: id, role } => {
                let action = match role {
                    Role::Manager => "promote",
                    Role::Worker => "demote",
                };
                ("node", action, self.named_node(*id))
            }
            Command::RemoveNode { node: id } => ("node", "remove", self.named_node(*id)),
            Command::UpdateNode { node: id, .. } => ("node", "update", self.named_node(*id)),
            Command::RotateToken { role, .. } => (
                "cluster",
                "rotate",
                (String::new(), format!("{role} join token")),
            ),
            Command::CreateNetwork { id, spec } => {
                ("network", "create", (id.to_string(), spec.name.clone()))
            }
            Command::RemoveNetwork { network } => {
                let name = self.networks.get(*network).map(|record| record.name.clone());
                (
                    "network",
                    "remove",
                    (network.to_string(), name.unwrap_or_default()),
                )
            }
            Command::AttachEndpoint(attach) => (
                "endpoint",
                "create",
                (attach.id.to_string(), attach.name.clone()),
            ),
            Command::DetachEndpoint { endpoint, .. } => {
                let name = self
                    .endpoints
                    .get(*endpoint)
                    .map(|record| record.name.clone());
                (
                    "endpoint",
                    "remove",
                    (endpoint.to_string(), name.unwrap_or_default()),
                )
            }
            Command::CreateService { id, spec } => {
                ("service", "create", (id.to_string(), spec.name.clone()))
            }
            Command::UpdateService { id, .. } => ("service", "update", self.named_service(*id)),
            Command::RollBackService { id } => ("service", "rollback", self.named_service(*id)),
            Command::RemoveService { id } => ("service", "remove", self.named_service(*id)),
            // Tasks note their own changes; retired parts are nobody's business.
            Command::RetireParts { .. }
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

    fn named_node(&self, node: NodeId) -> (String, String) {
        let name = self.nodes.get(node).map(|record| record.hostname.clone());
        (node.to_string(), name.unwrap_or_default())
    }

    fn named_service(&self, id: ServiceId) -> (String, String) {
        let record = self.services.get(id);
        let name = record.map(|record| record.spec().name.clone());
        (id.to_string(), name.unwrap_or_default())
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
            self.audit.note(kind, action, id, name);
        }
    }
}

/// What a command is about.
pub(super) struct Subject {
    kind: &'static str,
    action: &'static str,
    id: String,
    name: String,
}

/// How many changes are remembered.
pub(super) const EVENTS_MAX: usize = 1_024;
