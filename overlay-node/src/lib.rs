//! The overlay crates put together: cluster state, manager, agent, frame path, node

#![forbid(unsafe_code)]
