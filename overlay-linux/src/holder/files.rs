//! What a program sees as its machine: name resolution by 127.0.0.11, its own host name, its own processes.
//!
//! The files are written into the holder's folder and mounted over the system's in the holder's own mount namespace.
//! The host's files are never changed, and nothing that is mounted here reaches the host.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{self, MsFlags},
    unistd,
};
use overlay_core::plane::PortSpec;

use super::log;
use crate::failure::{Doing, Failure};

/// Furnishes the calling process's own mount and host name namespaces.
///
/// What cannot be done (a file that the host does not have, a /proc that may not be mounted again) is left as it is and
/// said in the log: the endpoint can live without.
pub(crate) fn furnish(spec: &PortSpec, folder: &Path) -> Result<(), Failure> {
    if !spec.hostname.is_empty() {
        let named = unistd::sethostname(&spec.hostname);
        note(named.doing(|| format!("set the host name {}", spec.hostname)));
    }
    // "Slave": the host's unmounts still reach us, so that we keep no disk busy; ours never reach the host.
    let propagation = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    let separated = mount::mount(None::<&str>, "/", None::<&str>, propagation, None::<&str>);
    if let Err(failure) = separated.doing(|| "separate the mounts from the host's".into()) {
        // Then nothing may be mounted at all.
        log(&failure);
        return Ok(());
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = mount::mount(Some("proc"), "/proc", Some("proc"), safe, None::<&str>);
    note(proc.doing(|| "mount /proc of the endpoint's own processes".into()));
    let contents = [
        (
            "resolv.conf",
            "nameserver 127.0.0.11\noptions ndots:0\n".to_owned(),
        ),
        (HOSTS, hosts(&spec.hostname, std::slice::from_ref(spec))),
        (
            "nsswitch.conf",
            name_services(fs::read_to_string("/etc/nsswitch.conf")),
        ),
    ];
    for (name, content) in contents {
        let source = folder.join(name);
        fs::write(&source, content).doing(|| format!("write {}", source.display()))?;
        let target = PathBuf::from("/etc").join(name);
        let bound = mount::mount(
            Some(&source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        note(bound.doing(|| format!("mount over {}", target.display())));
    }
    Ok(())
}

/// Lists the addresses of these ports under the host name, in a namespace that was furnished for `hostname`.
///
/// Into the same file: what is mounted is the file, whatever its name leads to later.
pub(crate) fn list(hostname: &str, ports: &[PortSpec], folder: &Path) {
    let target = folder.join(HOSTS);
    let written = fs::write(&target, hosts(hostname, ports));
    note(written.doing(|| format!("write {}", target.display())));
}

fn note(result: Result<(), Failure>) {
    if let Err(failure) = result {
        log(&failure);
    }
}

fn hosts(hostname: &str, ports: &[PortSpec]) -> String {
    let addresses: Vec<_> = ports.iter().flat_map(|spec| &spec.addresses).collect();
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if addresses.iter().any(|a| a.addr().is_ipv6()) {
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    if !hostname.is_empty() {
        for address in addresses {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{}\t{hostname}", address.addr());
        }
    }
    text
}

/// The file's name in the holder's folder.
const HOSTS: &str = "hosts";

/// The host's name services, with `files dns` for hosts.
fn name_services(host: io::Result<String>) -> String {
    let host = host.unwrap_or_default();
    let others = host
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"));
    let mut text: String = others.flat_map(|line| [line, "\n"]).collect();
    text.push_str("hosts: files dns\n");
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use overlay_core::{
        EndpointId, MacAddr,
        plane::{DataPath, Namespace},
    };

    use super::*;

    #[test]
    fn other_name_services_of_the_host_stay() {
        let host =
            "passwd: files systemd\n  hosts: mdns4 resolve [!UNAVAIL=return] dns\ngroup: files\n";
        assert_eq!(
            name_services(Ok(host.into())),
            "passwd: files systemd\ngroup: files\nhosts: files dns\n"
        );
        let missing = Err(io::ErrorKind::NotFound.into());
        assert_eq!(name_services(missing), "hosts: files dns\n");
    }

    #[test]
    fn each_address_is_listed_under_the_host_name() {
        let spec = PortSpec {
            endpoint: EndpointId::from_bytes([1; 16]),
            namespace: Namespace::Path(PathBuf::new()),
            interface: "eth0".into(),
            mac: MacAddr::UNSPECIFIED,
            addresses: vec![
                "10.0.1.2/24".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            on_link: Vec::new(),
            gateway: None,
            mtu: 1450,
            hostname: "alpine1".into(),
            way_out: None,
            path: DataPath::User,
        };
        assert_eq!(
            hosts("alpine1", &[spec]),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.0.1.2\talpine1\nfd00::2\talpine1\n"
        );
    }
}
