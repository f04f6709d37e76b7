//! Deterministic simulation for sans-IO machines: virtual clock, network and disks with faults

#![forbid(unsafe_code)]
