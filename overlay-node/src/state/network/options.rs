//! The driver options of networks: read once when a network is created, and whenever they are asked for.

use std::collections::BTreeMap;

use overlay_core::{
    Vni,
    plane::{DataPath, Verdict},
};

use crate::{
    api::NetworkCreate,
    state::{CommandError, NetworkRecord},
};

/// Driver options that are understood.
#[derive(Default)]
pub(super) struct Options {
    pub(super) mtu: Option<u16>,
    pub(super) vnis: Vec<Vni>,
}

impl Options {
    pub(super) fn parse(spec: &NetworkCreate) -> Result<Self, CommandError> {
        let mut options = Self::default();
        for (option, value) in &spec.options {
            let refuse = |reason: &str| CommandError::InvalidOption {
                option: option.clone(),
                value: value.clone(),
                reason: reason.to_owned(),
            };
            match option.as_str() {
                MTU => {
                    let mtu = value
                        .parse()
                        .ok()
                        .filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                    options.mtu = Some(mtu.ok_or_else(|| refuse("expected 576 to 9000 octets"))?);
                }
                VNIS => {
                    for part in value.split(',') {
                        let vni = part.trim().parse().ok().and_then(Vni::new);
                        options
                            .vnis
                            .push(vni.ok_or_else(|| refuse("expected numbers of 24 bits"))?);
                    }
                }
                DATA_PATH => {
                    data_path(&spec.options)
                        .map_err(|()| refuse("expected auto, kernel or user"))?;
                }
                VLAN_TAGS => {
                    vlan_tags(&spec.options).map_err(|()| refuse("expected drop or carry"))?;
                }
                ENCRYPTED => {
                    encrypted(&spec.options)
                        .map_err(|()| refuse("expected true or false, or no value for true"))?;
                }
                POLICY if spec.ingress => return Err(refuse(NO_POLICY)),
                POLICY => {
                    policy(&spec.options).map_err(|()| refuse("expected allow or deny"))?;
                }
                POLICY_NAMES => {
                    hides_names(&spec.options).map_err(|()| refuse("expected show or hide"))?;
                }
                _ => return Err(refuse("no such option")),
            }
        }
        Ok(options)
    }
}

impl NetworkRecord {
    /// Returns by which plane it is to be carried; by whichever a node has if it does not say.
    pub(crate) fn data_path(&self) -> Option<DataPath> {
        // What cannot be read was refused when it was created.
        data_path(&self.options).unwrap_or_default()
    }

    /// Returns whether its frames are sealed between nodes.
    pub(crate) fn is_encrypted(&self) -> bool {
        // Fail closed: whatever is said and is not understood asks for it.
        encrypted(&self.options).unwrap_or(true)
    }

    /// Returns what becomes of flows on it that no rule matches.
    pub fn policy_default(&self) -> Verdict {
        // Fail closed: whatever is said and is not understood asks for it.
        policy(&self.options).unwrap_or(Verdict::Deny)
    }

    /// Returns whether endpoints on it do not find the names of whom they may not reach.
    pub(crate) fn hides_names(&self) -> bool {
        hides_names(&self.options).unwrap_or(true)
    }

    /// Returns whether there is anything that not everybody may.
    pub(crate) fn has_policy(&self) -> bool {
        self.policy_default() == Verdict::Deny || !self.rules.is_empty()
    }

    /// Returns whether frames of VLANs are carried on it.
    pub(crate) fn carries_vlans(&self) -> bool {
        vlan_tags(&self.options).unwrap_or_default()
    }
}

fn data_path(options: &BTreeMap<String, String>) -> Result<Option<DataPath>, ()> {
    match options.get(DATA_PATH).map(String::as_str) {
        None | Some("auto") => Ok(None),
        Some("kernel") => Ok(Some(DataPath::Kernel)),
        Some("user") => Ok(Some(DataPath::User)),
        Some(_) => Err(()),
    }
}

fn encrypted(options: &BTreeMap<String, String>) -> Result<bool, ()> {
    match options.get(ENCRYPTED).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(_) => Err(()),
    }
}

fn policy(options: &BTreeMap<String, String>) -> Result<Verdict, ()> {
    match options.get(POLICY).map(String::as_str) {
        None | Some(ALLOW) => Ok(Verdict::Allow),
        Some(DENY) => Ok(Verdict::Deny),
        Some(_) => Err(()),
    }
}

fn hides_names(options: &BTreeMap<String, String>) -> Result<bool, ()> {
    match options.get(POLICY_NAMES).map(String::as_str) {
        None | Some("show") => Ok(false),
        Some("hide") => Ok(true),
        Some(_) => Err(()),
    }
}

fn vlan_tags(options: &BTreeMap<String, String>) -> Result<bool, ()> {
    match options.get(VLAN_TAGS).map(String::as_str) {
        None | Some("drop") => Ok(false),
        Some("carry") => Ok(true),
        Some(_) => Err(()),
    }
}

const MTU: &str = "com.docker.network.driver.mtu";
const VNIS: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// By which plane nodes carry the network.
const DATA_PATH: &str = "data-path";
/// What becomes of frames with a VLAN tag.
const VLAN_TAGS: &str = "vlan-tags";
const ENCRYPTED: &str = "encrypted";
/// What becomes of flows that no rule matches.
pub(in crate::state) const POLICY: &str = "policy";
/// Whether endpoints find the names of whom they may not reach.
const POLICY_NAMES: &str = "policy-names";
pub(in crate::state) const ALLOW: &str = "allow";
pub(in crate::state) const DENY: &str = "deny";
/// Why the network of published ports has no policy.
pub(in crate::state) const NO_POLICY: &str =
    "no frames travel on the network of published ports, so it has no policy";
/// Smallest MTU: every IPv4 host takes datagrams of this size (RFC 791 §3.1).
const MTU_MIN: u16 = 576;
/// Largest MTU: jumbo frames.
const MTU_MAX: u16 = 9_000;
