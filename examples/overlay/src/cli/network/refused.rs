//! Options of Docker's that make no sense here, or not yet: each is refused with the reason.

use clap::Args;

/// Hidden, because there is nothing to be had; see the reasons.
#[derive(Debug, Args)]
pub(super) struct RefusedArgs {
    #[arg(long, hide = true, value_name = "SCOPE", value_parser = scope)]
    scope: Option<String>,
    #[arg(long, hide = true, value_name = "DRIVER", value_parser = ipam)]
    ipam_driver: Option<String>,
    #[arg(long, hide = true, value_name = "KEY=VALUE", value_parser = ipam_option)]
    ipam_opt: Option<String>,
    #[arg(long, hide = true, value_name = "NETWORK", value_parser = config)]
    config_from: Option<String>,
}

fn scope(text: &str) -> Result<String, String> {
    match text {
        "swarm" | "global" => Ok(text.to_owned()),
        _ => Err("networks span the cluster: the scope is `swarm`, or leave it out".into()),
    }
}

fn ipam(text: &str) -> Result<String, String> {
    match text {
        "default" => Ok(text.to_owned()),
        _ => {
            Err("the cluster gives addresses out by itself: leave it out, or say `default`".into())
        }
    }
}

fn ipam_option(_: &str) -> Result<String, String> {
    Err(
        "the cluster gives addresses out by itself and has no options for that: leave it out"
            .into(),
    )
}

fn config(_: &str) -> Result<String, String> {
    Err("there are no networks of configuration alone: give the options themselves".into())
}
