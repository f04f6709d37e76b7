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
/// The protocol that an HTTP connection is upgraded to: [`Frame`]s in both directions.
pub(crate) const UPGRADE_PROTOCOL: &str = "overlay-stream";
