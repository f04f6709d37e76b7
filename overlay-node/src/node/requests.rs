//! Requests of local clients: sent to the leader until answered, retried over changes of leader.

use std::time::Duration;

use overlay_core::{EndpointId, Instant, NodeId};

use super::{Event, Node, Output, Reply, RequestToken};
use crate::{
    api::{self, AttachRequest, EndpointInfo, ErrorKind, Info, LocalState, Request, Response},
    manager::{Manager, Served},
    state::{AddNode, ClusterSeed, Command, NodeDescription, Proposal, RequestId, TokenId},
    wire::{Answer, Ask, Message},
};

/// A request that waits for the leader's answer.
#[derive(Debug)]
pub(super) struct Pending {
    token: Option<RequestToken>,
    ask: Ask,
    deadline: Instant,
    resend_at: Instant,
}

/// An endpoint that was attached and whose port is being made.
#[derive(Debug)]
pub(super) struct Attaching {
    token: RequestToken,
    info: EndpointInfo,
    deadline: Instant,
}

impl Node {
    /// Takes a request of a local client; the answer is an [`Output::Reply`] with the same token.
    pub fn request(&mut self, now: Instant, token: RequestToken, request: Request) {
        self.advance(now);
        match request {
            Request::Info => {
                let info = Response::Info(Box::new(self.info()));
                self.reply(token, Ok(Reply::Api(info)));
            }
            Request::EndpointList => {
                let endpoints = Response::Endpoints(self.agent.endpoints());
                self.reply(token, Ok(Reply::Api(endpoints)));
            }
            Request::Init(_) | Request::Join(_) => {
                let text = "this node is part of a cluster already: run `leave` first";
                self.reply(token, Err(api::Error::new(ErrorKind::AlreadyMember, text)));
            }
            Request::Attach(attach) => self.attach(token, attach),
            Request::NetworkInspect { network } if self.own_network(&network).is_some() => {
                let own = self.own_network(&network);
                let own = Response::Networks(own.into_iter().collect());
                self.reply(token, Ok(Reply::Api(own)));
            }
            request if self.needs_manager(&request) => {
                let text =
                    "this node is not a manager: run this on a manager, or promote this node there";
                self.reply(token, Err(api::Error::new(ErrorKind::NotManager, text)));
            }
            request => self.ask(Some(token), Ask::Api(request)),
        }
        self.settle();
    }

    /// Lets a node in that showed a valid token: that of its role, or the one that is named; the answer is
    /// [`Reply::Admitted`].
    pub fn admit(
        &mut self,
        now: Instant,
        token: RequestToken,
        node: AddNode,
        shown: Option<TokenId>,
    ) {
        self.advance(now);
        let ask = match shown {
            Some(token) => Ask::Admit { node, token },
            None => Ask::AddNode(node),
        };
        self.ask(Some(token), ask);
        self.settle();
    }

    /// Makes a new cluster; the answer is [`Reply::Admitted`]. Only for a node that was made with an empty log of its own.
    pub fn initialize(&mut self, now: Instant, token: RequestToken, seed: ClusterSeed) {
        self.advance(now);
        let request = RequestId::random(&mut self.rng);
        let ask = Ask::AddNode(seed.manager.clone());
        let command = Command::InitCluster(Box::new(seed));
        let proposal = Proposal::new(&self.config, self.now, self.config.node, request, command);
        match &mut self.manager {
            Some(manager) => manager.initialize(self.now, proposal),
            None => {
                let text = "this node has no log of its own to make a cluster in";
                return self.reply(token, Err(api::Error::new(ErrorKind::Invalid, text)));
            }
        }
        let deadline = self.now + self.config.request_timeout;
        let pending = Pending {
            token: Some(token),
            ask,
            deadline,
            resend_at: Instant::MAX,
        };
        self.pending.insert(request, pending);
        self.settle();
    }

    pub(super) fn on_answer(&mut self, request: RequestId, result: Result<Answer, api::Error>) {
        let Some(pending) = self.pending.remove(&request) else {
            return;
        };
        if self.reporting == Some(request) {
            self.reporting = None;
        }
        let attach = match &pending.ask {
            Ask::Api(Request::Attach(attach)) => attach.endpoint,
            _ => None,
        };
        let (Some(token), result) = (pending.token, result) else {
            return;
        };
        match (attach, result) {
            (Some(endpoint), Err(error)) => {
                self.agent.forget(endpoint);
                self.reply(token, Err(error));
            }
            (Some(endpoint), Ok(Answer::Api(Response::Endpoints(endpoints)))) => {
                if let Some(info) = endpoints.into_iter().next() {
                    let deadline = self.now + self.config.request_timeout;
                    self.attaching.insert(
                        endpoint,
                        Attaching {
                            token,
                            info,
                            deadline,
                        },
                    );
                }
            }
            (_, result) => self.reply(
                token,
                result.map(|answer| match answer {
                    Answer::Api(response) => Reply::Api(self.localize(&pending.ask, response)),
                    Answer::Admitted(assignment) => Reply::Admitted(assignment),
                    Answer::Taken => Reply::Api(Response::Done),
                }),
            ),
        }
    }

    /// Answers those that waited for a port which is ready, or failed.
    pub(super) fn settle_attaching(&mut self) {
        let now = self.now;
        let done: Vec<_> = self
            .attaching
            .iter()
            .filter_map(|(endpoint, waiting)| match self.agent.port(*endpoint) {
                Some(result) => Some((*endpoint, result.map_err(|error| error.to_string()))),
                None if waiting.deadline <= now => {
                    let text = "the port was not ready in time".to_owned();
                    Some((*endpoint, Err(text)))
                }
                None => None,
            })
            .collect();
        for (endpoint, result) in done {
            let Some(waiting) = self.attaching.remove(&endpoint) else {
                continue;
            };
            match result {
                Ok(()) => {
                    let own = self
                        .agent
                        .endpoints()
                        .into_iter()
                        .find(|own| own.id == endpoint);
                    let info = own.unwrap_or(waiting.info);
                    self.reply(
                        waiting.token,
                        Ok(Reply::Api(Response::Endpoints(vec![info]))),
                    );
                }
                Err(reason) => {
                    // Nothing half done is left behind: the address goes back.
                    let endpoint = endpoint.to_string();
                    self.ask(None, Ask::Api(Request::Detach { endpoint }));
                    let text = format!("the endpoint's port could not be made: {reason}");
                    self.reply(
                        waiting.token,
                        Err(api::Error::new(ErrorKind::Platform, text)),
                    );
                }
            }
        }
    }

    pub(super) fn retry_requests(&mut self) {
        let now = self.now;
        let due = |pending: &Pending| pending.deadline <= now || pending.resend_at <= now;
        let requests: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| due(pending))
            .map(|(request, _)| *request)
            .collect();
        for request in requests {
            let expired = self
                .pending
                .get(&request)
                .is_some_and(|pending| pending.deadline <= now);
            if expired {
                self.give_up(request)
            } else {
                self.send_ask(request)
            }
        }
    }

    /// Sends what is pending at once: somebody new leads.
    pub(super) fn hasten_requests(&mut self) {
        let now = self.now;
        for pending in self
            .pending
            .values_mut()
            .filter(|pending| pending.resend_at < Instant::MAX)
        {
            pending.resend_at = now;
        }
    }

    /// Tells the leader how the tasks here are: one report at a time, until it has taken it.
    pub(super) fn report_tasks(&mut self) {
        if self.reporting.is_some() {
            return;
        }
        let reports = self.agent.take_reports();
        if reports.is_empty() {
            return;
        }
        self.reporting = Some(self.insist(Ask::Report(reports)));
    }

    /// Tells the leader once in each life what this node is and where it is reached: that may have changed.
    pub(super) fn describe_self(&mut self) {
        if !self.described && self.agent.assignment().is_some() {
            self.described = true;
            // What was said before and not heard yet must not be heard after this.
            let outdated = |pending: &Pending| matches!(pending.ask, Ask::Describe(_));
            self.pending.retain(|_, pending| !outdated(pending));
            self.insist(Ask::Describe(NodeDescription::new(&self.config)));
        }
    }

    /// Asks the leader for something until it answers, however long that takes.
    fn insist(&mut self, ask: Ask) -> RequestId {
        let request = RequestId::random(&mut self.rng);
        let pending = Pending {
            token: None,
            ask,
            deadline: Instant::MAX,
            resend_at: self.now,
        };
        self.pending.insert(request, pending);
        self.send_ask(request);
        request
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        let pending = self
            .pending
            .values()
            .map(|pending| pending.deadline.min(pending.resend_at));
        pending
            .chain(self.attaching.values().map(|waiting| waiting.deadline))
            .min()
    }

    /// Gives back the addresses of endpoints that nobody here knows of.
    pub(super) fn return_orphans(&mut self) {
        for endpoint in self.agent.take_orphans(self.now) {
            let endpoint = endpoint.to_string();
            self.ask(None, Ask::Api(Request::Detach { endpoint }));
        }
    }

    fn attach(&mut self, token: RequestToken, mut attach: AttachRequest) {
        let drawn = EndpointId::random(&mut self.rng);
        let endpoint = *attach.endpoint.get_or_insert(drawn);
        let (name, interface) = (
            attach.namespace.name(endpoint),
            attach.namespace.interface(),
        );
        let other = self.agent.holder_of(name, interface);
        if let Some(other) = other.filter(|other| *other != endpoint) {
            let text = format!(
                "eth{interface} in that namespace is the interface of endpoint {other}: detach it first, or take another number"
            );
            return self.reply(token, Err(api::Error::new(ErrorKind::Conflict, text)));
        }
        self.agent.expect(endpoint, attach.namespace.clone());
        self.ask(Some(token), Ask::Api(Request::Attach(attach)));
    }

    fn ask(&mut self, token: Option<RequestToken>, ask: Ask) {
        if self.pending.len() >= self.config.requests_max {
            if let Some(token) = token {
                let text = format!(
                    "{} requests wait for a leader already: try again later",
                    self.pending.len()
                );
                self.reply(token, Err(api::Error::new(ErrorKind::Limit, text)));
            }
            return;
        }
        let request = RequestId::random(&mut self.rng);
        let patience = match &ask {
            Ask::Api(request) if crate::manager::is_question(request) => {
                self.config.request_timeout.min(READ_PATIENCE)
            }
            _ => self.config.request_timeout,
        };
        let deadline = self.now + patience;
        let resend_at = self.now;
        self.pending.insert(
            request,
            Pending {
                token,
                ask,
                deadline,
                resend_at,
            },
        );
        self.send_ask(request);
    }

    fn send_ask(&mut self, request: RequestId) {
        let now = self.now;
        let Some(pending) = self.pending.get_mut(&request) else {
            return;
        };
        pending.resend_at = now + RESEND;
        let ask = pending.ask.clone();
        let own = self.config.node;
        if let Some(manager) = &mut self.manager
            && manager.serve(now, own, request, ask.clone()) == Served::Taken
        {
            return;
        }
        let leader = self
            .manager
            .as_ref()
            .map_or(self.session.target(), Manager::leader);
        if let Some(leader) = leader.filter(|leader| *leader != own) {
            self.send(leader, Message::Ask { request, ask });
        }
    }

    fn give_up(&mut self, request: RequestId) {
        let Some(pending) = self.pending.remove(&request) else {
            return;
        };
        if let Ask::Api(Request::Attach(AttachRequest {
            endpoint: Some(endpoint),
            ..
        })) = &pending.ask
        {
            self.agent.forget(*endpoint);
        }
        let Some(token) = pending.token else { return };
        if let (Ask::Api(request), Some(manager)) = (&pending.ask, &self.manager) {
            // Without a quorum, questions are answered from what this manager applied last.
            if let Some(response) = manager.read_stale(self.now, request) {
                let stale = Response::Stale(Box::new(self.localize(&pending.ask, response)));
                return self.reply(token, Ok(Reply::Api(stale)));
            }
        }
        let managers = self.session.managers();
        let silent: Vec<_> = managers
            .iter()
            .filter(|manager| !self.is_alive(manager.node))
            .map(|manager| format!("{} ({})", self.name_of(manager.node), manager.management))
            .collect();
        let missing = if silent.is_empty() {
            "all of them seem to be up".to_owned()
        } else {
            format!("missing: {}", silent.join(", "))
        };
        let text = format!(
            "no leader answered within {:?}: more than half of the {} managers must be up and reach each other; {missing}. \
             It is unknown whether the request was carried out{}",
            self.config.request_timeout,
            managers.len(),
            if self.manager.is_some() && !silent.is_empty() {
                LOST
            } else {
                ""
            },
        );
        self.reply(token, Err(api::Error::new(ErrorKind::Unavailable, text)));
    }

    /// Returns a node's hostname, where this node knows it, or its short identity.
    fn name_of(&self, node: NodeId) -> String {
        let record = self.state().and_then(|state| state.nodes().get(&node));
        record.map_or_else(|| node.short(), |record| record.hostname.clone())
    }

    /// Returns whether gossip holds a node alive.
    fn is_alive(&self, node: NodeId) -> bool {
        let member = |gossip: &overlay_gossip::Gossip| {
            let member = gossip.member(&node.to_string());
            member.is_some_and(|member| member.state == overlay_gossip::MemberState::Alive)
        };
        node == self.config.node || self.gossip.as_ref().is_some_and(member)
    }

    fn needs_manager(&self, request: &Request) -> bool {
        self.manager.is_none() && !crate::manager::allowed_for_worker(&Ask::Api(request.clone()))
    }

    fn reply(&mut self, token: RequestToken, result: Result<Reply, api::Error>) {
        self.outputs.push_back(Output::Reply { token, result });
    }

    /// Fills in what only the answering node knows.
    fn localize(&self, ask: &Ask, response: Response) -> Response {
        match response {
            Response::Networks(mut networks) if *ask == Ask::Api(Request::NetworkList) => {
                let own = self.config.node;
                networks.retain(|network| network.node.is_none_or(|node| node == own));
                networks.extend(self.own_networks());
                networks.sort_by(|a, b| a.name.cmp(&b.name));
                Response::Networks(networks)
            }
            Response::Nodes(mut nodes) => {
                for node in &mut nodes {
                    node.is_self = node.id == self.config.node;
                }
                Response::Nodes(nodes)
            }
            Response::Token(mut token) => {
                token.remote = (self.config.address, self.config.management_port).into();
                Response::Token(token)
            }
            other => other,
        }
    }

    /// Describes this node.
    pub(crate) fn info(&self) -> Info {
        let assignment = self.agent.assignment();
        let mut warnings = Vec::new();
        if self.removed {
            warnings.push("this node was removed from the cluster: run `leave`".to_owned());
        }
        if self.manager.is_some() && self.leader().is_none() {
            warnings.push("no leader is known: nothing can be changed".to_owned());
        }
        let alive = self.gossip.as_ref().map_or(1, |gossip| {
            gossip
                .members()
                .filter(|member| member.state == overlay_gossip::MemberState::Alive)
                .count()
        });
        Info {
            state: LocalState::Active,
            name: self.config.hostname.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: Some(self.config.node),
            cluster: assignment.map(|assignment| assignment.cluster),
            role: Some(self.role()),
            address: Some(self.config.address),
            leader: self.leader(),
            managers: self
                .session
                .managers()
                .iter()
                .map(|manager| api::ManagerInfo {
                    node: manager.node,
                    address: manager.management,
                })
                .collect(),
            nodes_alive: alive,
            endpoints: self.agent.len(),
            applied: self.state().map(crate::state::ClusterState::applied),
            warnings,
        }
    }

    pub(super) fn note_removed(&mut self) {
        if !self.removed {
            self.removed = true;
            self.outputs.push_back(Output::Event(Event::Removed));
        }
    }
}

/// What a manager says whose fellows may be gone for good.
const LOST: &str =
    ". If they are lost for good, `init --force-new-cluster` goes on with this manager alone";
/// How long a question waits for a leader before it is answered from what this manager knows.
const READ_PATIENCE: Duration = Duration::from_secs(3);
/// How long a request waits for an answer before it is sent again.
const RESEND: Duration = Duration::from_millis(250);
