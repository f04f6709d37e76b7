//! Forwarding between the bridge and the interfaces by which the host reaches the world.
//!
//! The kernel asks the interface by which a packet came whether it may be forwarded, so besides the bridge those by which
//! answers come need the setting, too. On a host that is no router only these get it, and rules keep them from forwarding
//! to one another; which ones they are is written down, so that they are set back later. On a host that is a router
//! nothing is changed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::read_if_any;
use crate::{
    failure::{Doing, Failure},
    netlink::Netlink,
};

/// The interfaces that forward for the bridge's sake alone.
#[derive(Debug)]
pub(super) struct Opened(BTreeSet<String>);

impl Opened {
    /// Finds out which have to be opened; `in_rules` are those that rules guard already.
    pub(super) fn plan(
        netlink: &mut Netlink,
        bridge: u32,
        memory: &Path,
        in_rules: BTreeSet<String>,
    ) -> Result<Self, Failure> {
        if is_router()? {
            // Somebody wants it so; it is not ours any more to take that back.
            return Ok(Self(BTreeSet::new()));
        }
        let Self(remembered) = Self::remembered(memory, in_rules)?;
        let routes = netlink.routes().doing(|| "list routes".into())?;
        let used = routes.into_iter().flat_map(|route| route.interfaces);
        let used: BTreeSet<u32> = used.filter(|index| *index != bridge).collect();
        let links = netlink.links().doing(|| "list interfaces".into())?;
        let mut opened = BTreeSet::new();
        for link in links {
            let needed = used.contains(&link.index) && link.name != "lo";
            let kept = remembered.contains(&link.name);
            if kept || needed && !forwards(&link.name)? {
                opened.insert(link.name);
            }
        }
        Ok(Self(opened))
    }

    /// Those that an earlier life opened.
    pub(super) fn remembered(memory: &Path, in_rules: BTreeSet<String>) -> Result<Self, Failure> {
        let text = read_if_any(memory).doing(|| format!("read {}", memory.display()))?;
        let text = text.unwrap_or_default();
        let mut names = in_rules;
        names.extend(text.lines().map(str::to_owned));
        Ok(Self(names))
    }

    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.0
    }

    /// Writes them down.
    pub(super) fn write(&self, memory: &Path) -> Result<(), Failure> {
        let text: String = self.0.iter().map(|name| format!("{name}\n")).collect();
        let doing = || format!("write {}", memory.display());
        if read_if_any(memory).doing(doing)?.as_deref() == Some(&text) {
            return Ok(());
        }
        let fresh = memory.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, memory))
            .doing(doing)
    }

    pub(super) fn forget(memory: &Path) -> Result<(), Failure> {
        match fs::remove_file(memory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.doing(|| format!("remove {}", memory.display())),
        }
    }

    /// Lets them and the bridge forward.
    pub(super) fn open(&self, bridge: &str, done: &mut Vec<String>) -> Result<(), Failure> {
        for name in self.0.iter().map(String::as_str).chain([bridge]) {
            if !forwards(name)? {
                set(name, "1")?;
                done.push(format!("let {name} forward IPv4"));
            }
        }
        Ok(())
    }

    /// Sets them back, unless the host has become a router.
    pub(super) fn close(&self) -> Result<(), Failure> {
        if is_router()? {
            return Ok(());
        }
        for name in &self.0 {
            // One that is gone needs nothing.
            if setting(name).exists() {
                set(name, "0")?;
            }
        }
        Ok(())
    }
}

fn is_router() -> Result<bool, Failure> {
    is_one(Path::new("/proc/sys/net/ipv4/ip_forward"))
}

fn forwards(interface: &str) -> Result<bool, Failure> {
    is_one(&setting(interface))
}

fn is_one(path: &Path) -> Result<bool, Failure> {
    let text = fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
    Ok(text.trim() == "1")
}

fn set(interface: &str, value: &str) -> Result<(), Failure> {
    let path = setting(interface);
    fs::write(&path, value).doing(|| format!("write {}", path.display()))
}

/// Names may hold dots, which are no separators here.
fn setting(interface: &str) -> PathBuf {
    let folder = Path::new("/proc/sys/net/ipv4/conf").join(interface);
    folder.join("forwarding")
}
