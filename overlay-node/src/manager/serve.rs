//! Requests that the leader takes: turned into commands or reads, and answered once applied.

use overlay_core::{EndpointId, Instant, NetworkId, NodeId};
use overlay_raft::{ReadId, ReadMode};

use super::{Action, Manager, Read, Served, allowed_for_worker};
use crate::{
    api::{self, ErrorKind, Request, Response, Role},
    state::{AttachEndpoint, Command, CommandError, Outcome, Proposal, RequestId, Secret},
    wire::{Answer, Ask, Message},
};

/// What a request becomes.
enum Job {
    /// It is so already.
    Taken,
    Read,
    Write(Command),
}

impl Manager {
    /// Takes a request of `origin`. It is answered by an [`Action::Answer`], or not at all if leadership is lost.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        origin: NodeId,
        request: RequestId,
        ask: Ask,
    ) -> Served {
        if !self.leads() {
            return Served::NotLeader;
        }
        if self.keeps_silent(origin) {
            return Served::Taken;
        }
        // A certificate outlives a role.
        let role = self.state.nodes().get(&origin).map(|node| node.role);
        if role != Some(Role::Manager)
            && self.state.cluster().is_some()
            && !allowed_for_worker(&ask)
        {
            // What made it a manager may be in an entry that is not applied yet: it is asked again.
            if self.is_current() {
                let text = "this node is not a manager any more: run this on a manager";
                let error = api::Error::new(ErrorKind::NotManager, text);
                self.answer(origin, request, Err(error));
            }
            return Served::Taken;
        }
        if let Some(outcome) = self.state.outcome(request).cloned() {
            let result = self.respond(outcome);
            self.answer(origin, request, result);
            return Served::Taken;
        }
        if self.proposals.contains_key(&request) {
            return Served::Taken;
        }
        match self.job(now, origin, &ask) {
            Ok(Job::Taken) => self.answer(origin, request, Ok(Answer::Taken)),
            // Two that were looked at by themselves could together leave nobody who has the state: it is asked again.
            Ok(Job::Write(command)) if self.takes_manager(&command) && self.is_parting() => {}
            Ok(Job::Write(command)) => {
                if self.takes_manager(&command) {
                    self.parting = Some(request);
                }
                self.write(now, origin, request, command);
            }
            Ok(Job::Read) => {
                if let Ask::Api(body) = ask {
                    self.read(
                        now,
                        Read::Question {
                            origin,
                            request,
                            body,
                        },
                    );
                }
            }
            // What was not found may be in an entry that is not applied yet: it is asked again.
            Err(_) if !self.is_current() => {}
            Err(error) => self.answer(origin, request, Err(error)),
        }
        self.settle(now);
        Served::Taken
    }

    /// Whether a leader has applied all that its predecessors committed: an entry of its own term is applied.
    pub(super) fn is_current(&self) -> bool {
        self.raft.term_at(self.raft.applied()) == Some(self.raft.term())
    }

    /// Answers a question from what was applied, without asking whether it is the latest.
    pub(crate) fn read_stale(&self, now: Instant, body: &Request) -> Option<Response> {
        is_question(body)
            .then(|| self.query(now, body).ok())
            .flatten()
    }

    pub(super) fn answer(
        &mut self,
        to: NodeId,
        request: RequestId,
        result: Result<Answer, api::Error>,
    ) {
        self.actions.push_back(Action::Answer {
            to,
            request,
            result,
        });
    }

    pub(super) fn respond(
        &mut self,
        outcome: Result<Outcome, CommandError>,
    ) -> Result<Answer, api::Error> {
        let response = match outcome? {
            Outcome::Done => Response::Done,
            Outcome::Taken => return Ok(Answer::Taken),
            Outcome::Service(service) => {
                let record = self.state.services().get(&service);
                let record = record.ok_or(CommandError::UnknownService { service })?;
                Response::Services(vec![self.describe_service(record)])
            }
            Outcome::Token(role) => Response::Token(self.token(role)?),
            Outcome::UnlockKey => self.unlock_key()?,
            Outcome::Issued(id) => Response::Tokens(vec![self.describe_token(id)?]),
            Outcome::Node(node, _) => {
                let assignment = self
                    .assignment(node)
                    .ok_or(CommandError::UnknownNode { node })?;
                return Ok(Answer::Admitted(Box::new(assignment)));
            }
            Outcome::Network(network) => {
                let record = self.state.networks().get(&network);
                let record = record.ok_or(CommandError::UnknownNetwork { network })?;
                Response::Networks(vec![self.describe_network(record, false)])
            }
            Outcome::Endpoint(endpoint) => {
                let record = self.state.endpoints().get(&endpoint);
                let record = record.ok_or(CommandError::UnknownEndpoint { endpoint })?;
                Response::Endpoints(vec![self.describe_endpoint(record)])
            }
        };
        Ok(Answer::Api(response))
    }

    /// Finds a network that `origin` may remove: a worker its own ones of scope local.
    fn removable_network(&self, origin: NodeId, text: &str) -> Result<NetworkId, api::Error> {
        let network = self.find_network(text)?;
        let role = self.state.nodes().get(&origin).map(|node| node.role);
        let record = self.state.networks().get(&network);
        let own = record.is_some_and(|record| record.node == Some(origin));
        if role == Some(Role::Manager) || own {
            return Ok(network);
        }
        let text = "this node is not a manager: run this on a manager, or promote this node there";
        Err(api::Error::new(ErrorKind::NotManager, text))
    }

    /// Answers a read from what was applied.
    pub(super) fn answer_read(&mut self, now: Instant, read: ReadId) {
        match self.reads.remove(&read) {
            Some(Read::Question {
                origin,
                request,
                body,
            }) => {
                let result = self.query(now, &body).map(Answer::Api);
                self.answer(origin, request, result);
            }
            Some(Read::Membership { node })
                if !self.state.nodes().contains_key(&node) && !self.is_awaited(node) =>
            {
                let (to, message) = (node, Message::Removed);
                self.actions.push_back(Action::Send { to, message });
            }
            Some(Read::Membership { .. }) | None => {}
        }
    }

    fn write(&mut self, now: Instant, origin: NodeId, request: RequestId, command: Command) {
        let proposal = Proposal::new(&self.config, now, origin, request, command);
        // A refusal is not answered: whoever asked asks again.
        self.propose(now, &proposal);
    }

    pub(super) fn read(&mut self, now: Instant, read: Read) {
        if self.reads.values().any(|other| other.is_for_same(&read)) {
            return;
        }
        if let Ok(id) = self.raft.read_index(now, ReadMode::Quorum) {
            self.reads.insert(id, read);
        }
    }

    fn job(&mut self, now: Instant, origin: NodeId, ask: &Ask) -> Result<Job, api::Error> {
        Ok(match ask {
            Ask::AddNode(node) => Job::Write(Command::AddNode(node.clone())),
            Ask::Admit { node, token } => Job::Write(Command::Admit {
                node: node.clone(),
                token: *token,
            }),
            Ask::Report(reports) => Job::Write(Command::ReportTasks {
                node: origin,
                reports: reports.clone(),
            }),
            Ask::Describe(description) => {
                let record = self.state.nodes().get(&origin);
                if record.is_some_and(|record| description.matches(record)) {
                    return Ok(Job::Taken);
                }
                Job::Write(Command::DescribeNode {
                    node: origin,
                    description: description.clone(),
                })
            }
            Ask::Api(request) => return self.api_job(now, origin, request),
        })
    }

    fn api_job(
        &mut self,
        now: Instant,
        origin: NodeId,
        request: &Request,
    ) -> Result<Job, api::Error> {
        let command = match request {
            Request::NodeList
            | Request::NodeInspect { .. }
            | Request::NetworkList
            | Request::NetworkInspect { .. }
            | Request::ServiceList
            | Request::ServiceInspect { .. }
            | Request::TaskList { .. }
            | Request::Events { .. }
            | Request::ClusterInspect
            | Request::TokenList
            | Request::UnlockKey { rotate: false }
            | Request::PolicyInspect { .. }
            | Request::PolicyExplain(_)
            | Request::JoinToken { rotate: false, .. } => return Ok(Job::Read),
            Request::Info
            | Request::Init(_)
            | Request::Join(_)
            | Request::Unlock { .. }
            | Request::EndpointList => {
                let text = "this request is for the local node, not for the leader";
                return Err(api::Error::new(ErrorKind::Invalid, text));
            }
            Request::JoinToken { role, rotate: true } => Command::RotateToken {
                role: *role,
                secret: Secret::random(&mut self.rng),
            },
            Request::ClusterUpdate(change) => Command::UpdateCluster { change: *change },
            Request::Autolock { .. }
            | Request::UnlockKey { rotate: true }
            | Request::TokenCreate(_)
            | Request::TokenRemove { .. }
            | Request::AuthorityRotate { .. } => self.admission_command(now, request)?,
            Request::Leave { force } => self.leave(origin, *force)?,
            Request::NodeSetRole { node, role } => {
                let (node, role) = (self.find_node(node)?, *role);
                if role == Role::Worker {
                    self.keeps_quorum(now, node)?;
                }
                Command::SetRole { node, role }
            }
            Request::NodeRemove { node, force } => self.remove(now, node, *force)?,
            Request::NodeUpdate(change) => {
                let node = self.find_node(&change.node)?;
                if change.role == Some(Role::Worker) {
                    self.keeps_quorum(now, node)?;
                }
                Command::UpdateNode {
                    node,
                    change: change.clone(),
                }
            }
            Request::ServiceCreate(_)
            | Request::ServiceUpdate { .. }
            | Request::ServiceScale { .. }
            | Request::ServiceRollback { .. }
            | Request::ServiceRemove { .. } => self.service_command(request)?,
            Request::NetworkCreate(_)
            | Request::NetworkExtend { .. }
            | Request::NetworkRemove { .. }
            | Request::PolicyChange { .. } => self.network_command(origin, request)?,
            Request::Attach(_) | Request::Detach { .. } => {
                self.endpoint_command(origin, request)?
            }
        };
        Ok(Job::Write(command))
    }

    fn network_command(
        &mut self,
        origin: NodeId,
        request: &Request,
    ) -> Result<Command, api::Error> {
        Ok(match request {
            Request::NetworkCreate(spec) => {
                let id = NetworkId::random(&mut self.rng);
                Command::CreateNetwork {
                    id,
                    spec: spec.clone(),
                }
            }
            Request::NetworkExtend { network, subnets } => Command::ExtendNetwork {
                network: self.find_network(network)?,
                subnets: subnets.clone(),
            },
            Request::PolicyChange { network, change } => Command::ChangePolicy {
                network: self.find_network(network)?,
                change: change.clone(),
            },
            Request::NetworkRemove { network } => {
                let network = self.removable_network(origin, network)?;
                Command::RemoveNetwork { network }
            }
            _ => {
                let text = "this request is about no network";
                return Err(api::Error::new(ErrorKind::Invalid, text));
            }
        })
    }

    fn endpoint_command(
        &mut self,
        origin: NodeId,
        request: &Request,
    ) -> Result<Command, api::Error> {
        Ok(match request {
            Request::Attach(attach) => Command::AttachEndpoint(AttachEndpoint {
                id: attach
                    .endpoint
                    .unwrap_or_else(|| EndpointId::random(&mut self.rng)),
                node: origin,
                network: self.find_network(&attach.network)?,
                name: attach.name.clone(),
                aliases: attach.aliases.clone(),
                addresses: attach.addresses.clone(),
            }),
            Request::Detach { endpoint } => {
                let endpoint = self.find_endpoint(origin, endpoint)?;
                Command::DetachEndpoint {
                    endpoint,
                    node: Some(origin),
                }
            }
            _ => {
                let text = "this request is about no endpoint";
                return Err(api::Error::new(ErrorKind::Invalid, text));
            }
        })
    }
}

/// Whether a request changes nothing, so that the state alone answers it.
pub(crate) fn is_question(request: &Request) -> bool {
    matches!(
        request,
        Request::JoinToken { rotate: false, .. }
            | Request::NodeList
            | Request::NodeInspect { .. }
            | Request::NetworkList
            | Request::NetworkInspect { .. }
            | Request::ServiceList
            | Request::ServiceInspect { .. }
            | Request::TaskList { .. }
            | Request::Events { .. }
            | Request::ClusterInspect
            | Request::TokenList
            | Request::UnlockKey { rotate: false }
            | Request::PolicyInspect { .. }
            | Request::PolicyExplain(_)
    )
}
