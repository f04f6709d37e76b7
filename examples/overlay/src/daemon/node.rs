//! The node behind the local API.

use std::{future::Future, pin::Pin};

use crate::api::{Error, Request, Response};

/// Something that will happen.
pub(crate) type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A node that answers requests: the real one, or a test's.
pub(crate) trait Node: Send + Sync + 'static {
    /// Asks it.
    fn request(&self, request: Request) -> Soon<Result<Response, Error>>;
}
