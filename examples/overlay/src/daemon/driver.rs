use super::{
    DaemonArgs,
    node::{Node, Soon},
};
use crate::api::{Error, ErrorKind, Request, Response};
pub(super) struct Local;
pub(super) async fn start(
    _: &DaemonArgs,
    _: String,
    _: std::path::PathBuf,
    _: overlay_linux::Linux,
) -> anyhow::Result<Local> {
    Ok(Local)
}
impl Local {
    pub(super) async fn shutdown(&self) {}
}
impl Node for Local {
    fn request(&self, _: Request) -> Soon<Result<Response, Error>> {
        Box::pin(async { Err(Error::new(ErrorKind::NotMember, "later")) })
    }
}
