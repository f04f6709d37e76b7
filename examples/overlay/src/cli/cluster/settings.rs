//! `cluster inspect`, `cluster update`.

use clap::{Args, Subcommand};
use overlay_core::NodeId;
use serde::Serialize;

use crate::{
    api::{ClusterInfo, ClusterUpdate, Request, Response},
    cli::{
        Failure, Report, cluster::locking::autolock, listing::FormatArgs, service::duration_ms,
        unexpected,
    },
    client::Client,
    time,
};

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Describe the cluster as a whole, as JSON
    Inspect(InspectArgs),
    /// Change what holds for the cluster as a whole
    Update(UpdateArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    format: FormatArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct UpdateArgs {
    /// Whether the data directories of managers are locked: one that is restarted waits for `unlock`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    autolock: Option<bool>,
    /// How many tasks of a slot are remembered after they have ended
    #[arg(long, value_name = "NUMBER")]
    task_history_limit: Option<u32>,
    /// How often an agent says that it is there; a node that misses three counts as down
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    dispatcher_heartbeat: Option<u64>,
    /// How long the certificates of nodes are valid, such as 2160h; they are renewed at half of it
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    cert_expiry: Option<u64>,
    /// How long a key that all nodes share is in use, such as 12h
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    key_rotation: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClusterJson {
    #[serde(rename = "ID")]
    id: NodeId,
    created_at: String,
    /// How often it was rebuilt from a survivor.
    epoch: u64,
    spec: SpecJson,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsJson,
    root_rotation_in_progress: bool,
    shared_keys: KeysJson,
    nodes: usize,
    managers: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SpecJson {
    orchestration: OrchestrationJson,
    dispatcher: DispatcherJson,
    #[serde(rename = "CAConfig")]
    ca_config: CaJson,
    /// In nanoseconds.
    key_rotation_period: u64,
    encryption_config: EncryptionJson,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptionJson {
    auto_lock_managers: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OrchestrationJson {
    task_history_retention_limit: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DispatcherJson {
    /// In nanoseconds; each node's own setting if `null`.
    heartbeat_period: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CaJson {
    /// In nanoseconds.
    node_cert_expiry: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TlsJson {
    trust_root: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KeysJson {
    /// The number of the newest key.
    generation: u64,
    rotated_at: String,
}

impl ClusterJson {
    fn new(info: ClusterInfo) -> Self {
        let settings = info.settings;
        let period = settings.heartbeat_ms.map(|ms| ms.saturating_mul(1_000_000));
        Self {
            id: info.id,
            created_at: time::rfc3339(info.created_unix_ms),
            epoch: info.epoch,
            spec: SpecJson {
                orchestration: OrchestrationJson {
                    task_history_retention_limit: settings.task_history_limit,
                },
                dispatcher: DispatcherJson {
                    heartbeat_period: period,
                },
                ca_config: CaJson {
                    node_cert_expiry: settings.certificate_ms.saturating_mul(1_000_000),
                },
                key_rotation_period: settings.key_rotation_ms.saturating_mul(1_000_000),
                encryption_config: EncryptionJson {
                    auto_lock_managers: info.autolock,
                },
            },
            tls_info: TlsJson {
                trust_root: info.ca_certificate,
            },
            root_rotation_in_progress: info.next_authority.is_some(),
            shared_keys: KeysJson {
                generation: info.key_generation,
                rotated_at: time::rfc3339(info.keys_rotated_unix_ms),
            },
            nodes: info.nodes,
            managers: info.managers,
        }
    }
}

pub(crate) async fn run(client: &Client, command: ClusterCommand) -> Result<Report, Failure> {
    match command {
        ClusterCommand::Inspect(args) => match client.request(&Request::ClusterInspect).await? {
            Response::Cluster(info) => {
                Ok(Report::text(args.format.print(&[ClusterJson::new(*info)])?))
            }
            other => Err(unexpected(&other)),
        },
        ClusterCommand::Update(args) => {
            let update = Request::ClusterUpdate(ClusterUpdate {
                task_history_limit: args.task_history_limit,
                heartbeat_ms: args.dispatcher_heartbeat,
                certificate_ms: args.cert_expiry,
                key_rotation_ms: args.key_rotation,
            });
            match client.request(&update).await? {
                Response::Done => {}
                other => return Err(unexpected(&other)),
            }
            let mut text = "Cluster updated.\n".to_owned();
            if let Some(on) = args.autolock {
                text.push_str(&autolock(client, on).await?);
            }
            Ok(Report::text(text))
        }
    }
}
