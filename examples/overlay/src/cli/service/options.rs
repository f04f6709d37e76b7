//! The options of `service create` and `update`, and what they make of a service.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{
    refused::RefusedArgs,
    values::{duration_ms, named, nano_cpus, octets, permille, published, target, words},
};
use crate::{
    api::{
        EndpointMode, FailureAction, Locality, NamedPort, NetworkChoice, Policy, PublishedPort,
        RestartCondition, ServiceMode, ServiceSpec, UpdateOrder, UpdatePolicy,
    },
    cli::{Failure, network::choice, pair, runnable},
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the service, by which its tasks are found [default: one that nobody has]
    #[arg(long)]
    name: Option<String>,
    /// A network that its tasks are on: its name, or name=NETWORK,alias=NAME,ip=IP with any of them, where IP is the virtual
    /// address to have; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = choice)]
    network: Vec<NetworkChoice>,
    /// How its tasks are counted
    #[arg(long, default_value = "replicated")]
    mode: ModeArg,
    /// Publish a port: 8080:80, 8080:80/udp, 192.0.2.1:8080:80, or published=8080,target=80,protocol=tcp,mode=ingress
    /// with ip=IP, nodes=CONSTRAINT for some nodes alone, and client=kept, proxy-v1, proxy-v2 or hidden: what a task learns
    /// of who connects; may be repeated
    #[arg(short, long, value_name = "PORT", value_parser = published)]
    publish: Vec<PublishedPort>,
    /// Find a port by a name (SRV): http=80 for _http._tcp.NAME, or dns=53/udp; may be repeated
    #[arg(long, value_name = "NAME=PORT", value_parser = named)]
    named_port: Vec<NamedPort>,
    /// A text of the service's name (TXT); may be repeated
    #[arg(long, value_name = "TEXT")]
    txt: Vec<String>,
    /// A condition on nodes, such as node.labels.zone==a; may be repeated
    #[arg(long, value_name = "CONSTRAINT")]
    constraint: Vec<String>,
    /// Spread tasks, such as spread=node.labels.zone; may be repeated
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref: Vec<String>,
    /// Set a variable of the environment; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Read variables from a file: a KEY=VALUE a line, or a KEY that is set here; may be repeated
    #[arg(long, value_name = "PATH")]
    env_file: Vec<PathBuf>,
    /// Free metadata; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
    /// The program that each task runs, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Be on one more network; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = choice)]
    network_add: Vec<NetworkChoice>,
    /// Leave a network; may be repeated
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Publish one more port; may be repeated
    #[arg(long, visible_alias = "publish", value_name = "PORT", value_parser = published)]
    publish_add: Vec<PublishedPort>,
    /// Publish a target port no more: 80, 80/tcp, or 8080:80; may be repeated
    #[arg(long, value_name = "TARGET", value_parser = target)]
    publish_rm: Vec<u16>,
    /// Find one more port by a name; may be repeated
    #[arg(long, value_name = "NAME=PORT", value_parser = named)]
    named_port_add: Vec<NamedPort>,
    /// Find a port by that name no more; may be repeated
    #[arg(long, value_name = "NAME")]
    named_port_rm: Vec<String>,
    /// One more text; may be repeated
    #[arg(long, value_name = "TEXT")]
    txt_add: Vec<String>,
    /// Drop a text; may be repeated
    #[arg(long, value_name = "TEXT")]
    txt_rm: Vec<String>,
    /// One more condition on nodes; may be repeated
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Drop a condition; may be repeated
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// One more way to spread tasks; may be repeated
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_add: Vec<String>,
    /// Drop one; may be repeated
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_rm: Vec<String>,
    /// Set a variable of the environment; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    env_add: Vec<String>,
    /// Drop a variable; may be repeated
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label_add: Vec<(String, String)>,
    /// Drop a label; may be repeated
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Another command, in one word
    #[arg(long, value_name = "COMMAND", value_parser = words_of, conflicts_with = "command")]
    args: Option<Words>,
    /// Change back to what the service was before its last change
    #[arg(long)]
    pub(super) rollback: bool,
    /// Refused: see the reason
    #[arg(long, hide = true)]
    force: bool,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
    /// Name or identity of the service
    pub(super) service: String,
    /// Another command
    #[arg(last = true)]
    command: Vec<String>,
}

/// The words of a command that was given as one.
#[derive(Clone, Debug)]
struct Words(Vec<String>);

fn words_of(text: &str) -> Result<Words, String> {
    words(text).map(Words)
}

/// How long to stay.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Do not wait until the tasks run
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// What can be set at the creation and changed later on.
#[derive(Debug, Args)]
struct CommonArgs {
    /// How many tasks
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<u32>,
    /// How many tasks a node has at the most; 0 for any number
    #[arg(long, value_name = "NUMBER")]
    replicas_max_per_node: Option<u32>,
    /// What the name of the service resolves to: one address, or those of the tasks
    #[arg(long, value_name = "MODE")]
    endpoint_mode: Option<EndpointModeArg>,
    /// How the task of a new connection is chosen
    #[arg(long, value_name = "POLICY")]
    lb_policy: Option<PolicyArg>,
    /// For how long the next connection of a client goes to the task of its last one; 0 for not at all [default: 0]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    lb_affinity: Option<u64>,
    /// Whether near tasks come first: any, those of the zone (the nodes' label `zone`), those of the node, or only those
    #[arg(long, value_name = "LOCALITY")]
    lb_locality: Option<LocalityArg>,
    /// How long connections to a task may go on before it is told to stop; 0 to wait for nothing [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    drain_period: Option<u64>,
    /// How long a task may take to stop before it is killed [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    stop_grace_period: Option<u64>,
    /// The directory that tasks start in
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// After which ends of a task there is another one [default: any]
    #[arg(long, value_name = "CONDITION")]
    restart_condition: Option<RestartConditionArg>,
    /// How long to wait before [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    restart_delay: Option<u64>,
    /// How often, within the window; 0 for any number
    #[arg(long, value_name = "NUMBER")]
    restart_max_attempts: Option<u32>,
    /// How far back attempts are counted; 0 for ever
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    restart_window: Option<u64>,
    /// Processors that are set aside for a task, such as 0.5; nodes do not say yet how many they have
    #[arg(long, value_name = "CPUS", value_parser = nano_cpus)]
    reserve_cpu: Option<u64>,
    /// Memory that is set aside for a task, such as 64m; nodes do not say yet how much they have
    #[arg(long, value_name = "OCTETS", value_parser = octets)]
    reserve_memory: Option<u64>,
    #[command(flatten)]
    update: UpdatePolicyArgs,
    #[command(flatten)]
    rollback: RollbackPolicyArgs,
    #[command(flatten)]
    _refused: RefusedArgs,
}

/// How tasks are replaced; forward and back have the same options under two names.
macro_rules! policy_args {
    ($name:ident, $prefix:literal) => {
        #[derive(Debug, Args)]
        struct $name {
            /// How many tasks are replaced at a time; 0 for all [default: 1]
            #[arg(id = concat!($prefix, "-parallelism"), long, value_name = "NUMBER")]
            parallelism: Option<u32>,
            /// How long to wait between two rounds
            #[arg(id = concat!($prefix, "-delay"), long, value_name = "DURATION", value_parser = duration_ms)]
            delay: Option<u64>,
            /// Whether the old task stops first or the new one starts first
            #[arg(id = concat!($prefix, "-order"), long, value_name = "ORDER")]
            order: Option<OrderArg>,
            /// What happens when too many tasks fail
            #[arg(id = concat!($prefix, "-failure-action"), long, value_name = "ACTION")]
            failure_action: Option<FailureActionArg>,
            /// How long a new task is watched for failures [default: 5s]
            #[arg(id = concat!($prefix, "-monitor"), long, value_name = "DURATION", value_parser = duration_ms)]
            monitor: Option<u64>,
            /// Which part of the tasks may fail, from 0 to 1 [default: 0]
            #[arg(id = concat!($prefix, "-max-failure-ratio"), long, value_name = "RATIO", value_parser = permille)]
            max_failure_ratio: Option<u16>,
        }

        impl $name {
            fn apply(&self, policy: &mut UpdatePolicy) {
                set(&mut policy.parallelism, self.parallelism);
                set(&mut policy.delay_ms, self.delay);
                set(&mut policy.order, self.order.map(Into::into));
                set(&mut policy.failure_action, self.failure_action.map(Into::into));
                set(&mut policy.monitor_ms, self.monitor);
                set(&mut policy.failures_max_permille, self.max_failure_ratio);
            }
        }
    };
}

policy_args!(UpdatePolicyArgs, "update");
policy_args!(RollbackPolicyArgs, "rollback");

/// Words of the command line for those of the API.
macro_rules! words_for {
    ($name:ident => $target:ty { $($word:ident),* }) => {
        #[derive(Clone, Copy, Debug, ValueEnum)]
        enum $name { $($word),* }

        impl From<$name> for $target {
            fn from(word: $name) -> Self {
                match word { $($name::$word => Self::$word),* }
            }
        }
    };
}

words_for!(EndpointModeArg => EndpointMode { Vip, Dnsrr });
words_for!(PolicyArg => Policy { Maglev, WeightedRoundRobin, LeastConnections });
words_for!(LocalityArg => Locality { Any, Zone, Node, NodeOnly });
words_for!(RestartConditionArg => RestartCondition { None, OnFailure, Any });
words_for!(OrderArg => UpdateOrder { StopFirst, StartFirst });
words_for!(FailureActionArg => FailureAction { Pause, Continue, Rollback });

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Replicated,
    Global,
}

impl CreateArgs {
    /// Makes the service.
    pub(super) fn spec(self) -> Result<ServiceSpec, Failure> {
        let mut spec = ServiceSpec {
            name: self.name.unwrap_or_else(fresh_name),
            labels: BTreeMap::from_iter(self.label),
            networks: self.network,
            ports: self.publish,
            named_ports: self.named_port,
            texts: self.txt,
            ..ServiceSpec::default()
        };
        if self.mode == ModeArg::Global {
            spec.mode = ServiceMode::Global;
        }
        spec.task.command = runnable(self.command, "service create")?;
        // What is said on the command line comes last, and so counts.
        for file in &self.env_file {
            spec.task.environment.extend(variables_of(file)?);
        }
        spec.task.environment.extend(self.env);
        spec.placement.constraints = self.constraint;
        spec.placement.preferences = self.placement_pref;
        self.common.apply(&mut spec)?;
        Ok(spec)
    }
}

impl UpdateArgs {
    /// Changes the service.
    pub(super) fn change(self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        if self.force {
            let text = "tasks are replaced when what they run changes, and --force changes nothing: \
                        try --env-add RESTARTED=\"$(date)\"";
            return Err(Failure::new(text).with_code(2));
        }
        let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
        let added: Vec<String> = self.env_add.iter().map(name).collect();
        spec.task.environment.retain(|variable| {
            let name = name(variable);
            !added.contains(&name) && !self.env_rm.contains(&name)
        });
        spec.task.environment.extend(self.env_add);
        for (list, added, removed) in [
            (
                &mut spec.placement.constraints,
                self.constraint_add,
                self.constraint_rm,
            ),
            (
                &mut spec.placement.preferences,
                self.placement_pref_add,
                self.placement_pref_rm,
            ),
        ] {
            let squeeze = |text: &String| text.split_whitespace().collect::<String>();
            list.retain(|one| !removed.iter().any(|other| squeeze(other) == squeeze(one)));
            for one in added {
                if !list.contains(&one) {
                    list.push(one);
                }
            }
        }
        let list = &mut spec.networks;
        list.retain(|on| {
            let added = self
                .network_add
                .iter()
                .any(|other| other.network == on.network);
            !added && !self.network_rm.contains(&on.network)
        });
        list.extend(self.network_add);
        let list = &mut spec.named_ports;
        list.retain(|port| {
            let added = self
                .named_port_add
                .iter()
                .any(|other| other.name == port.name);
            !added && !self.named_port_rm.contains(&port.name)
        });
        list.extend(self.named_port_add);
        spec.texts.retain(|text| !self.txt_rm.contains(text));
        spec.texts.extend(self.txt_add);
        let same =
            |a: &PublishedPort, b: &PublishedPort| (a.target, a.protocol) == (b.target, b.protocol);
        spec.ports.retain(|port| {
            !self.publish_rm.contains(&port.target)
                && !self.publish_add.iter().any(|added| same(added, port))
        });
        spec.ports.extend(self.publish_add);
        spec.labels.retain(|key, _| !self.label_rm.contains(key));
        spec.labels.extend(self.label_add);
        let command = self.args.map_or(self.command, |words| words.0);
        if !command.is_empty() {
            spec.task.command = command;
        }
        self.common.apply(spec)
    }
}

impl CommonArgs {
    fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        if let Some(replicas) = self.replicas {
            if spec.mode == ServiceMode::Global {
                let text = "replicas can only be used with replicated mode: a global service has one task on each node";
                return Err(Failure::new(text).with_code(2));
            }
            spec.mode = ServiceMode::Replicated(replicas);
        }
        set(
            &mut spec.placement.replicas_per_node_max,
            self.replicas_max_per_node,
        );
        set(
            &mut spec.endpoint_mode,
            self.endpoint_mode.map(EndpointMode::from),
        );
        let balance = &mut spec.balance;
        set(&mut balance.policy, self.lb_policy.map(Policy::from));
        set(&mut balance.affinity_ms, self.lb_affinity);
        set(&mut balance.locality, self.lb_locality.map(Locality::from));
        set(&mut spec.task.drain_ms, self.drain_period);
        set(&mut spec.task.stop_grace_ms, self.stop_grace_period);
        set(&mut spec.task.directory, self.workdir.clone());
        set(&mut spec.task.resources.nano_cpus, self.reserve_cpu);
        set(&mut spec.task.resources.memory_bytes, self.reserve_memory);
        let restart = &mut spec.restart;
        let condition = self.restart_condition.map(RestartCondition::from);
        set(&mut restart.condition, condition);
        set(&mut restart.delay_ms, self.restart_delay);
        set(&mut restart.attempts_max, self.restart_max_attempts);
        set(&mut restart.window_ms, self.restart_window);
        self.update.apply(&mut spec.update);
        self.rollback.apply(&mut spec.rollback);
        Ok(())
    }
}

/// A name that no service has, or hardly any.
fn fresh_name() -> String {
    let number = RandomState::new().hash_one(std::process::id());
    format!("service-{number:016x}").chars().take(16).collect()
}

/// Reads the variables in a file, as Docker does: blank lines and those that begin with `#` say nothing.
fn variables_of(file: &Path) -> Result<Vec<String>, Failure> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::new(format_args!(
            "cannot read the variables in {shown}: {error}"
        ))
        .with_code(2)
    })?;
    let lines = text.lines().zip(1..).filter(|(line, _)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let mut variables = Vec::new();
    for (line, number) in lines {
        let line = line.trim_start();
        match variable(line) {
            Ok(variable) => variables.push(variable),
            // As with Docker: one that is not set here is left out.
            Err(_) if !line.contains('=') => {}
            Err(error) => {
                let text = format!("{shown}, line {number}: {error}");
                return Err(Failure::new(text).with_code(2));
            }
        }
    }
    Ok(variables)
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Reads `KEY=VALUE`, or `KEY` for the value that it has here.
fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("expected KEY=VALUE, found `{text}`")),
        Some(_) => Ok(text.to_owned()),
        None => std::env::var(text)
            .map(|value| format!("{text}={value}"))
            .map_err(|_| format!("expected KEY=VALUE, or a variable that is set: `{text}` is not")),
    }
}
