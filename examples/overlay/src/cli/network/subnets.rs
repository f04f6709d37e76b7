//! Subnets, and what belongs to each.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{api::SubnetSpec, cli::Failure};

/// What belongs to subnets.
#[derive(Clone, Copy, Default)]
pub(super) struct Parts<'a> {
    pub(super) gateways: &'a [IpAddr],
    pub(super) ranges: &'a [IpNet],
    pub(super) aux: &'a [(String, IpAddr)],
}

impl Parts<'_> {
    /// Gives each gateway, range and address to the subnet that contains it.
    pub(super) fn of(self, prefixes: &[IpNet]) -> Result<Vec<SubnetSpec>, Failure> {
        let spec = |prefix: &IpNet| SubnetSpec {
            subnet: Some(*prefix),
            ..SubnetSpec::default()
        };
        let mut specs: Vec<SubnetSpec> = prefixes.iter().map(spec).collect();
        for gateway in self.gateways {
            let spec = specs.iter_mut().find(|spec| {
                spec.gateway.is_none() && spec.subnet.is_some_and(|subnet| subnet.contains(gateway))
            });
            let spec = spec.ok_or_else(|| orphan("gateway", gateway, prefixes))?;
            spec.gateway = Some(*gateway);
        }
        for range in self.ranges {
            let spec = specs.iter_mut().find(|spec| {
                spec.ip_range.is_none() && spec.subnet.is_some_and(|subnet| subnet.contains(range))
            });
            let spec = spec.ok_or_else(|| orphan("ip-range", range, prefixes))?;
            spec.ip_range = Some(*range);
        }
        for (name, address) in self.aux {
            let spec = specs
                .iter_mut()
                .find(|spec| spec.subnet.is_some_and(|subnet| subnet.contains(address)));
            let spec = spec.ok_or_else(|| orphan("aux-address", address, prefixes))?;
            spec.aux_addresses.insert(name.clone(), *address);
        }
        Ok(specs)
    }
}

fn orphan(what: &str, value: &impl std::fmt::Display, prefixes: &[IpNet]) -> Failure {
    let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    let among = match prefixes.as_slice() {
        [] => "there is none: add --subnet".to_owned(),
        _ => format!("found {}", prefixes.join(", ")),
    };
    Failure::new(format_args!(
        "every gateway, ip-range and aux-address needs a subnet that contains it, the first two one of their own: {what} {value}, {among}"
    ))
    .with_code(2)
}

/// Reads `NAME=IP`.
pub(super) fn aux(text: &str) -> Result<(String, IpAddr), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
    parsed
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("expected NAME=IP, found `{text}`"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_that_contains_them() {
        let parts = Parts {
            gateways: &["fd00::1".parse().unwrap(), "10.1.0.9".parse().unwrap()],
            ranges: &[net("10.1.2.0/26")],
            aux: &[("router".to_owned(), "fd00::5".parse().unwrap())],
        };
        let specs = parts.of(&[net("10.1.0.0/16"), net("fd00::/64")]).unwrap();
        assert_eq!(
            specs,
            [
                SubnetSpec {
                    subnet: Some(net("10.1.0.0/16")),
                    gateway: Some("10.1.0.9".parse().unwrap()),
                    ip_range: Some(net("10.1.2.0/26")),
                    ..SubnetSpec::default()
                },
                SubnetSpec {
                    subnet: Some(net("fd00::/64")),
                    gateway: Some("fd00::1".parse().unwrap()),
                    aux_addresses: BTreeMap::from([(
                        "router".to_owned(),
                        "fd00::5".parse().unwrap()
                    )]),
                    ..SubnetSpec::default()
                },
            ]
        );
    }

    #[test]
    fn a_gateway_without_its_subnet_is_a_usage_error() {
        for (prefixes, gateways) in [
            (vec![], vec!["10.1.0.1"]),
            (vec![net("10.2.0.0/16")], vec!["10.1.0.1"]),
            (vec![net("10.1.0.0/16")], vec!["10.1.0.1", "10.1.0.2"]),
        ] {
            let gateways: Vec<IpAddr> = gateways.iter().map(|text| text.parse().unwrap()).collect();
            let parts = Parts {
                gateways: &gateways,
                ..Parts::default()
            };
            let failure = parts.of(&prefixes).unwrap_err();
            assert_eq!(failure.code, 2, "{failure}");
        }
    }
}
