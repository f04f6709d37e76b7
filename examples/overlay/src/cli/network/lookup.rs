//! `network lookup`: where the tables of this node's frame path lead.

use std::str::FromStr;

use clap::Args;
use overlay_core::MacAddr;
use overlay_node::{
    driver::LookupOptions,
    plane::{Address, Found, Place},
};

use super::{Failure, Report};
use crate::client::Client;

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LookupArgs {
    /// The network
    network: String,
    /// IP or MAC addresses
    #[arg(required = true, value_name = "ADDRESS", value_parser = address)]
    addresses: Vec<Address>,
}

fn address(text: &str) -> Result<Address, String> {
    let mac = || MacAddr::from_str(text).map(Address::Mac);
    let found = text.parse().map(Address::Ip);
    found.or_else(|_| mac()).map_err(|_| {
        "expected an address such as 10.0.1.3, fd00:1::3 or 02:42:0a:00:01:03".to_owned()
    })
}

pub(super) async fn run(client: &Client, args: LookupArgs) -> Result<Report, Failure> {
    let LookupArgs { network, addresses } = args;
    let options = LookupOptions { network, addresses };
    let found = client.lookup(&options).await?;
    let mut report = Report::default();
    for (address, found) in options.addresses.iter().zip(&found) {
        report.add(Ok(line(*address, *found)));
    }
    Ok(report)
}

fn line(address: Address, found: Found) -> String {
    let asked = match address {
        Address::Mac(mac) => mac.to_string(),
        Address::Ip(address) => address.to_string(),
    };
    match (found.mac, found.place) {
        (None, _) => format!("{asked} unknown"),
        (Some(mac), None) => format!("{asked} {mac} virtual"),
        (Some(mac), Some(Place::Endpoint(endpoint))) => {
            format!("{asked} {mac} endpoint {endpoint}")
        }
        (Some(mac), Some(Place::Vtep(vtep))) => format!("{asked} {mac} vtep {vtep}"),
    }
}
