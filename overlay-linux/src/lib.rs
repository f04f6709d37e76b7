//! Linux under the overlay crates: TAP and veth ports, namespaces, netlink, holders

#![deny(unsafe_code)]
