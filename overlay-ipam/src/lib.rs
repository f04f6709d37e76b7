//! Subnets from pools, addresses from subnets, owners and quarantine

#![forbid(unsafe_code)]
