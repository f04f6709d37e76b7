//! What client and daemon say to each other beside `overlay_node::api`: programs, and the frames of their streams.

mod frame;
mod program;

pub(crate) use frame::{Frame, FrameReader, encode};
pub(crate) use program::{
    ExecRequest, LogItem, LogsOf, LogsRequest, ProgramInfo, ProgramRequest, ProgramResponse,
    ProgramState, Refusal, RunRequest, Started, Stdio, TaskProgram, WindowSize,
};

/// Where one `overlay_node::api::Request` is posted.
pub(crate) const REQUEST_PATH: &str = "/v1/request";
/// Where one [`ProgramRequest`] is posted.
pub(crate) const PROGRAMS_PATH: &str = "/v1/programs";
/// Where a [`RunRequest`] is posted; answers with an upgrade unless it is detached.
pub(crate) const RUN_PATH: &str = "/v1/run";
/// Where an [`ExecRequest`] is posted; answers with an upgrade unless it is detached.
pub(crate) const EXEC_PATH: &str = "/v1/exec";
/// Where a [`LogsRequest`] is posted; answers with a [`LogItem`] a line, as long as there are any.
pub(crate) const LOGS_PATH: &str = "/v1/logs";
/// Where `overlay_node::driver::CaptureOptions` are posted; answers with a pcapng file that goes on for as long as it is read.
pub(crate) const CAPTURE_PATH: &str = "/v1/capture";
/// Where it is asked what would be done for the system to hold what it shall; answers with a list of lines.
pub(crate) const PLAN_PATH: &str = "/v1/plan";
/// Where a diagnosis is asked for; answers with a list of `overlay_node::driver::Finding`.
pub(crate) const DIAGNOSE_PATH: &str = "/v1/diagnose";
/// Where `overlay_node::driver::LookupOptions` are posted; answers with a list of `overlay_node::plane::Found`.
pub(crate) const LOOKUP_PATH: &str = "/v1/lookup";
/// The protocol that an HTTP connection is upgraded to: [`Frame`]s in both directions.
pub(crate) const UPGRADE_PROTOCOL: &str = "overlay-stream";
