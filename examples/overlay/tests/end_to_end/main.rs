//! Daemons, hosts and programs as they really are: processes in network namespaces joined by a bridge.
//!
//! Needs the privilege to make namespaces, and for some steps programs of the system (`ping`, `getent`, `tshark`,
//! `iperf3`). What is missing is said aloud on standard error and left out. Everything is polled with deadlines and
//! cleaned up, also after a failure.

#![expect(clippy::disallowed_methods, reason = "real processes take real time")]

mod crashes;
mod refusals;
mod support;
mod walk;
