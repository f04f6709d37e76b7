//! A network to be on, and the addresses to have there.

use std::net::{IpAddr, Ipv6Addr};

use clap::Args;

use crate::api::NetworkChoice;

/// The addresses that something asks for.
#[derive(Debug, Default, Args)]
pub(crate) struct AddressArgs {
    /// The IPv4 address to have [default: any free one]
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// The IPv6 address to have [default: any free one]
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
}

impl AddressArgs {
    pub(crate) fn is_empty(&self) -> bool {
        self.ip.is_none() && self.ip6.is_none()
    }

    pub(crate) fn list(self) -> impl Iterator<Item = IpAddr> {
        self.ip.into_iter().chain(self.ip6.map(IpAddr::V6))
    }
}

/// Reads `my-net`, or `name=my-net,alias=web,ip=10.0.1.9`.
pub(crate) fn choice(text: &str) -> Result<NetworkChoice, String> {
    let mut choice = NetworkChoice::default();
    if !text.contains('=') {
        text.clone_into(&mut choice.network);
    } else {
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("name", name)) if choice.network.is_empty() => {
                    name.clone_into(&mut choice.network);
                }
                Some(("alias", alias)) if !alias.is_empty() => choice.aliases.push(alias.into()),
                Some(("ip" | "ip6", address)) if choice.addresses.len() < 2 => {
                    let parsed = address.parse();
                    choice
                        .addresses
                        .push(parsed.map_err(|_| format!("{address} is no address"))?);
                }
                _ => {
                    return Err(format!(
                        "expected name=NETWORK once, ip=IP at most once a family and alias=NAME any number of times, found `{field}`"
                    ));
                }
            }
        }
    }
    if choice.network.is_empty() || choice.network.contains(',') {
        return Err(format!(
            "expected the name of one network, found `{text}`: repeat --network for more"
        ));
    }
    Ok(choice)
}
