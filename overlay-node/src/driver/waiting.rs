//! Who waits for the answer to a request, and gets it.

use overlay_core::NodeId;
use tokio::sync::oneshot;

use super::{
    active::{Active, Admitted},
    bootstrap::Admission,
};
use crate::{
    Reply, RequestToken,
    agent::Assignment,
    api::{self, ErrorKind, Role},
};

/// Who waits for the answer to a request.
pub(super) enum Waiting {
    Local(oneshot::Sender<Result<api::Response, api::Error>>),
    Join {
        request: String,
        role: Role,
        node: NodeId,
        reply: oneshot::Sender<Admitted>,
    },
    Init(oneshot::Sender<Result<Box<Assignment>, api::Error>>),
}

impl Active {
    pub(super) fn token(&mut self, waiting: Waiting) -> RequestToken {
        self.next += 1;
        let token = RequestToken(self.next);
        self.waiting.insert(token, waiting);
        token
    }

    pub(super) fn on_reply(&mut self, token: RequestToken, result: Result<Reply, api::Error>) {
        // Whoever asked may have gone away meanwhile: then there is nobody to tell.
        match (self.waiting.remove(&token), result) {
            (Some(Waiting::Local(reply)), Ok(Reply::Api(mut response))) => {
                if let api::Response::Info(info) = &mut response {
                    info.warnings.extend(self.clock_warning());
                }
                let _ = reply.send(Ok(response));
            }
            (Some(Waiting::Local(reply)), Ok(Reply::Admitted(_))) => {
                let _ = reply.send(Ok(api::Response::Done));
            }
            (Some(Waiting::Local(reply)), Err(error)) => {
                let _ = reply.send(Err(error));
            }
            (Some(Waiting::Init(reply)), result) => {
                let _ = reply.send(result.and_then(admitted));
            }
            (
                Some(Waiting::Join {
                    request,
                    role,
                    node,
                    reply,
                }),
                result,
            ) => {
                let admission = result.and_then(admitted).and_then(|assignment| {
                    let issued = self.issue(&request, node, role)?;
                    Ok(Admission {
                        assignment: Some(assignment),
                        ..issued
                    })
                });
                let _ = reply.send(admission);
            }
            (None, _) => {}
        }
    }
}

fn admitted(reply: Reply) -> Result<Box<Assignment>, api::Error> {
    match reply {
        Reply::Admitted(assignment) => Ok(assignment),
        Reply::Api(_) => {
            let text = "the leader answered something else than was asked";
            Err(api::Error::new(ErrorKind::Invalid, text))
        }
    }
}
