//! The node behind the local API.

use std::{future::Future, pin::Pin};

use overlay_core::TaskId;
use overlay_node::driver::{LogOptions, Logs};

use crate::api::{Error, Request, Response};

/// Something that will happen.
pub(crate) type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A node that answers requests: the real one, or a test's.
pub(crate) trait Node: Send + Sync + 'static {
    /// Asks it.
    fn request(&self, request: Request) -> Soon<Result<Response, Error>>;

    /// Reads what a task has written.
    fn logs(&self, task: TaskId, options: LogOptions) -> Soon<Result<Logs, Error>>;
}
