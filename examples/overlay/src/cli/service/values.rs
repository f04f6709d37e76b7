//! Values of options as Docker's command line writes them: durations, ports, ratios, words.

use std::net::IpAddr;

use crate::api::{ClientAddress, NamedPort, Protocol, PublishMode, PublishedPort};

/// Reads `1m30s`, `500ms`, `1.5h` or `0`; the result is in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a duration such as 10s, 1m30s or 500ms, found `{text}`");
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total_ns) = (text, 0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(digits.ok_or_else(expected)?);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(letters.unwrap_or(tail.len()));
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3_600e9,
            _ => return Err(expected()),
        };
        let number: f64 = number.parse().map_err(|_| expected())?;
        total_ns += number * unit_ns;
        rest = tail;
    }
    let total_ms = (total_ns / 1e6).round();
    if text.is_empty() || total_ms > MS_MAX {
        return Err(expected());
    }
    // Ten years are far below what is exact.
    format!("{total_ms:.0}").parse().map_err(|_| expected())
}

/// The longest duration, in milliseconds: ten years.
const MS_MAX: f64 = 10.0 * 365.0 * 86_400e3;

/// Writes a duration as it is read: `1m30s`.
pub(crate) fn duration(ms: u64) -> String {
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, rest) = (ms / 1_000 % 60, ms % 1_000);
    if ms < 1_000 {
        return if ms == 0 {
            "0s".into()
        } else {
            format!("{ms}ms")
        };
    }
    let mut text = String::new();
    for (number, unit) in [(hours, "h"), (minutes, "m")] {
        if number > 0 || !text.is_empty() {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    let fraction = if rest == 0 {
        String::new()
    } else {
        format!(".{rest:03}").trim_end_matches('0').to_owned()
    };
    text + &format!("{seconds}{fraction}s")
}

/// Reads `80`, `8080:80`, `8080:80/udp`, `192.0.2.1:8080:80`, `[2001:db8::1]:8080:80`, or
/// `published=8080,target=80,protocol=tcp,mode=host,ip=192.0.2.1,nodes=node.labels.edge==yes,client=proxy-v2`.
pub(crate) fn published(text: &str) -> Result<PublishedPort, String> {
    if text.contains('=') {
        return published_long(text);
    }
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, name)) => (ports, protocol(name)?),
        None => (text, Protocol::Tcp),
    };
    let (ports, target) = match ports.rsplit_once(':') {
        Some((ports, target)) => (Some(ports), port(target)?),
        None => (None, port(ports)?),
    };
    let (address, published) = match ports {
        None => (None, 0),
        Some(ports) => match ports.rsplit_once(':') {
            Some((host, published)) => {
                let published = if published.is_empty() {
                    0
                } else {
                    port(published)?
                };
                (Some(address(host)?), published)
            }
            None => (None, port(ports)?),
        },
    };
    Ok(PublishedPort {
        published,
        target,
        protocol,
        address,
        ..PublishedPort::default()
    })
}

/// Reads the target of a published port: `80`, `80/tcp`, or `8080:80` as it was published.
pub(crate) fn target(text: &str) -> Result<u16, String> {
    published(text).map(|port| port.target)
}

/// Reads a number of processors, such as `0.5`; the result is in billionths.
pub(crate) fn nano_cpus(text: &str) -> Result<u64, String> {
    let number = text.parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=65_536.0).contains(number));
    number
        .and_then(|number| format!("{:.0}", number * 1e9).parse().ok())
        .ok_or_else(|| format!("expected a number of processors such as 0.5, found `{text}`"))
}

/// Reads a number of octets, such as `512`, `64k`, `64m`, `1.5g` or `64MiB`.
pub(crate) fn octets(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 64m or 1.5g, found `{text}`");
    let letters = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(letters.unwrap_or(text.len()));
    let power = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(expected()),
    };
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    let octets = number * 1_024_f64.powi(power);
    if !(0.0..=OCTETS_MAX).contains(&octets) {
        return Err(expected());
    }
    format!("{octets:.0}").parse().map_err(|_| expected())
}

/// The largest size: a petabyte, far below what is exact.
const OCTETS_MAX: f64 = 1_024.0 * 1_024.0 * 1_024.0 * 1_024.0 * 1_024.0;

fn published_long(text: &str) -> Result<PublishedPort, String> {
    let mut found = PublishedPort::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "published" => found.published = port(value)?,
            "target" => found.target = port(value)?,
            "protocol" => found.protocol = protocol(value)?,
            "mode" => {
                found.mode = match value {
                    "ingress" => PublishMode::Ingress,
                    "host" => PublishMode::Host,
                    _ => {
                        return Err(format!(
                            "expected mode=ingress or mode=host, found `{value}`"
                        ));
                    }
                }
            }
            "ip" | "host_ip" => found.address = Some(address(value)?),
            "nodes" => found.nodes.push(value.to_owned()),
            "client" => {
                found.client = match value {
                    "kept" => ClientAddress::Kept,
                    "proxy" | "proxy-v2" => ClientAddress::ProxyV2,
                    "proxy-v1" => ClientAddress::ProxyV1,
                    "hidden" => ClientAddress::Hidden,
                    _ => {
                        return Err(format!(
                            "expected client=kept, client=proxy-v1, client=proxy-v2 or client=hidden, found `{value}`"
                        ));
                    }
                }
            }
            _ => {
                return Err(format!(
                    "expected published=, target=, protocol=, mode=, ip=, nodes= or client=, found `{field}`"
                ));
            }
        }
    }
    if found.target == 0 {
        return Err(format!("the target port is missing in `{text}`"));
    }
    Ok(found)
}

fn address(text: &str) -> Result<IpAddr, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let parsed = inner.unwrap_or(text).parse();
    parsed.map_err(|_| format!("expected an IP address, IPv6 in brackets, found `{text}`"))
}

/// Reads `http=80` or `dns=53/udp`.
pub(crate) fn named(text: &str) -> Result<NamedPort, String> {
    let (name, rest) = text.split_once('=').ok_or_else(|| {
        format!("expected NAME=PORT, such as http=80 or dns=53/udp, found `{text}`")
    })?;
    let (target, protocol) = match rest.split_once('/') {
        Some((target, name)) => (port(target)?, protocol(name)?),
        None => (port(rest)?, Protocol::Tcp),
    };
    Ok(NamedPort {
        name: name.to_owned(),
        target,
        protocol,
    })
}

fn port(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("expected a port from 1 to 65535, found `{text}`"))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("expected tcp or udp, found `{text}`")),
    }
}

/// Writes a published port as lists show it: `*:8080->80/tcp`.
pub(crate) fn shown(port: &PublishedPort) -> String {
    let PublishedPort {
        published,
        target,
        protocol,
        address,
        ..
    } = port;
    let host = match address {
        None => "*".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("[{address}]"),
    };
    format!("{host}:{published}->{target}/{protocol}")
}

/// Reads a ratio from 0 to 1; the result is in thousandths.
pub(crate) fn permille(text: &str) -> Result<u16, String> {
    let ratio = text.parse::<f64>().ok();
    let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio
        .and_then(|ratio| format!("{:.0}", ratio * 1_000.0).parse().ok())
        .ok_or_else(|| format!("expected a ratio from 0 to 1, found `{text}`"))
}

/// Splits a command into words as a shell does, with quotes and backslashes.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, Some(end)) if c == end => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(rest.next()),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in `{text}`"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_by_docker() {
        let cases = [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("500ms", 500, "500ms"),
            ("10s", 10_000, "10s"),
            ("1m30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("1.5s", 1_500, "1.5s"),
            ("2h", 7_200_000, "2h0m0s"),
        ];
        for (text, ms, written) in cases {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
            assert_eq!(duration(ms), written);
        }
        for text in ["", "10", "s", "-1s", "1x", "1s1", "99999999h", "1..2s"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_read_in_their_short_and_long_form() {
        let read =
            |text: &str| published(text).map(|port| (shown(&port), port.mode == PublishMode::Host));
        let cases = [
            ("80", "*:0->80/tcp", false),
            ("8080:80", "*:8080->80/tcp", false),
            ("53:5353/udp", "*:53->5353/udp", false),
            ("published=8080,target=80", "*:8080->80/tcp", false),
            (
                "target=80,published=1,protocol=udp,mode=host",
                "*:1->80/udp",
                true,
            ),
        ];
        for (text, expected, host) in cases {
            assert_eq!(read(text), Ok((expected.to_owned(), host)), "{text}");
        }
        let wrong = [
            "",
            "0",
            "65536",
            "a:b",
            "80/icmp",
            "published=1",
            "mode=x,target=1",
            "x=1,target=1",
        ];
        for text in wrong {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ratios_are_between_zero_and_one() {
        assert_eq!(permille("0"), Ok(0));
        assert_eq!(permille("0.25"), Ok(250));
        assert_eq!(permille("1"), Ok(1_000));
        for text in ["1.1", "-0.1", "x", "NaN"] {
            assert!(permille(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_processors_are_read_as_by_docker() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("64k", 65_536),
            ("64M", 67_108_864),
            ("1.5g", 1_610_612_736),
            ("1GiB", 1_073_741_824),
        ];
        for (text, expected) in cases {
            assert_eq!(octets(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1x", "9999999t"] {
            assert!(octets(text).is_err(), "{text}");
        }
        assert_eq!(nano_cpus("0.5"), Ok(500_000_000));
        assert!(nano_cpus("-1").is_err() && nano_cpus("many").is_err());
        assert_eq!(
            ["80", "80/udp", "8080:80"].map(target),
            [Ok(80), Ok(80), Ok(80)]
        );
    }

    #[test]
    fn commands_are_split_as_by_a_shell() {
        let split = |text| words(text).unwrap();
        assert_eq!(
            split("sh -c 'a  b' \"c\\\"d\" e\\ f ''"),
            ["sh", "-c", "a  b", "c\"d", "e f", ""]
        );
        assert_eq!(split("  "), [""; 0]);
        assert!(words("'open").is_err());
    }
}
