//! Options of Docker's that there are no services for here: each is refused with the reason.
//!
//! They are known so that a command line which works elsewhere fails with an answer rather than a riddle.

use clap::Args;

/// Hidden, because there is nothing to be had; see the reasons.
#[derive(Debug, Args)]
pub(super) struct RefusedArgs {
    #[arg(long, hide = true, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    #[arg(long, hide = true, value_name = "CPUS", value_parser = limit)]
    limit_cpu: Option<String>,
    #[arg(long, hide = true, value_name = "OCTETS", value_parser = limit)]
    limit_memory: Option<String>,
    #[arg(long, hide = true, value_name = "NUMBER", value_parser = limit)]
    limit_pids: Option<String>,
    #[arg(long, hide = true, value_name = "COMMAND", value_parser = health)]
    health_cmd: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION", value_parser = health)]
    health_interval: Option<String>,
    #[arg(long, hide = true, value_name = "NUMBER", value_parser = health)]
    health_retries: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION", value_parser = health)]
    health_timeout: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION", value_parser = health)]
    health_start_period: Option<String>,
    #[arg(long, hide = true, value_name = "IP", value_parser = names)]
    dns: Option<String>,
    #[arg(long, hide = true, value_name = "NAME", value_parser = names)]
    dns_search: Option<String>,
    #[arg(long, hide = true, value_name = "OPTION", value_parser = names)]
    dns_option: Option<String>,
    #[arg(long, hide = true, value_name = "NAME:IP", value_parser = names)]
    host: Option<String>,
    #[arg(long, hide = true, value_name = "MOUNT", value_parser = files)]
    mount: Option<String>,
    #[arg(long, hide = true, value_name = "SECRET", value_parser = files)]
    secret: Option<String>,
    #[arg(long, hide = true, value_name = "CONFIG", value_parser = files)]
    config: Option<String>,
    #[arg(short, long, hide = true, value_name = "USER", value_parser = user)]
    user: Option<String>,
    #[arg(long, hide = true, value_name = "SIGNAL", value_parser = signal)]
    stop_signal: Option<String>,
    #[arg(long, hide = true, value_name = "IMAGE", value_parser = image)]
    image: Option<String>,
}

fn hostname(_: &str) -> Result<String, String> {
    Err("a task's host name is that of its service, slot and identity: leave it out".into())
}

fn limit(_: &str) -> Result<String, String> {
    Err(
        "tasks are processes without limits of their own: set something aside with --reserve-cpu and --reserve-memory, \
         or have the command limit itself"
            .into(),
    )
}

fn health(_: &str) -> Result<String, String> {
    Err("there are no health checks: a task is well as long as it runs, so have the command end if it is not".into())
}

fn names(_: &str) -> Result<String, String> {
    Err("names are found by the daemon, and those that it does not know by the resolvers of its host: leave it out".into())
}

fn files(_: &str) -> Result<String, String> {
    Err("tasks see the files of their host: put it there and name it in the command".into())
}

fn user(_: &str) -> Result<String, String> {
    Err("tasks run as the user of the daemon: have the command change it, as setpriv does".into())
}

fn signal(_: &str) -> Result<String, String> {
    Err("tasks are stopped with SIGTERM: leave it out".into())
}

fn image(_: &str) -> Result<String, String> {
    Err(
        "tasks are processes and have no image: change the command with --args, or after `--`"
            .into(),
    )
}
