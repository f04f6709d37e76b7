//! The node behind the local API.

use std::{future::Future, pin::Pin};

use overlay_core::{TaskId, plane::Change};
use overlay_node::{
    driver::{CaptureOptions, Captured, Finding, LogOptions, Logs, LookupOptions},
    plane::Found,
};

use crate::api::{Error, Request, Response};

/// Something that will happen.
pub(crate) type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A node that answers requests: the real one, or a test's.
pub(crate) trait Node: Send + Sync + 'static {
    /// Asks it.
    fn request(&self, request: Request) -> Soon<Result<Response, Error>>;

    /// Captures the frames of a network.
    fn capture(&self, options: CaptureOptions) -> Soon<Result<Captured, Error>>;

    /// Says what would be done for the system to hold what it shall.
    fn plan(&self) -> Soon<Result<Vec<Change>, Error>>;

    /// Looks for what is amiss.
    fn diagnose(&self) -> Soon<Result<Vec<Finding>, Error>>;

    /// Looks addresses up in the tables of the frame path.
    fn lookup(&self, options: LookupOptions) -> Soon<Result<Vec<Found>, Error>>;

    /// Reads what a task has written.
    fn logs(&self, task: TaskId, options: LogOptions) -> Soon<Result<Logs, Error>>;
}
