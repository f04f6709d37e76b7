use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn run(_: DemoArgs) -> ExitCode {
    ExitCode::FAILURE
}
