//! Sans-IO SWIM membership on memberlist's wire, with per-network tables

#![forbid(unsafe_code)]
