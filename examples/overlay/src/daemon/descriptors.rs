//! How many files and connections the daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as it may be raised: what systems give to whoever asks for no more is as much as
/// strangers' connections may take alone. Programs that the daemon starts have the same limit.
pub(super) fn raise() {
    let found = getrlimit(Resource::Nofile);
    let limit = found.current.unwrap_or(u64::MAX);
    let wanted = wanted(limit, found.maximum.unwrap_or(u64::MAX));
    if limit < wanted {
        let raised = Rlimit {
            current: Some(wanted),
            ..found
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, limit, wanted, "the limit of open files could not be raised");
        }
    }
    if wanted < ENOUGH {
        tracing::warn!(
            wanted,
            "so few files may be open that connections of strangers may take all: allow the daemon at least {ENOUGH} (LimitNOFILE= of systemd, or `ulimit -Hn`)"
        );
    }
}

/// Returns the limit to have, by what it is and what it may be.
fn wanted(limit: u64, most: u64) -> u64 {
    limit.max(most.min(PLENTY))
}

/// Connections without a certificate, of nodes, of gossip, of clients, and endpoints' sockets.
const ENOUGH: u64 = 4_096;
/// More than all bounds of connections together.
const PLENTY: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_of_use_and_never_lowered() {
        for (limit, most, expected) in [
            (1_024, 524_288, PLENTY),
            (1_024, 4_096, 4_096),
            (1_024, 1_024, 1_024),
            (100_000, 524_288, 100_000),
            (u64::MAX, u64::MAX, u64::MAX),
        ] {
            assert_eq!(wanted(limit, most), expected);
        }
    }
}
