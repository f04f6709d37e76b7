//! Who is at the other end of the socket, as the kernel says.

use std::io;

use overlay_linux::peer_groups;
use tokio::net::UnixStream;

/// A process that connected, with the rights that it had then: what becomes of its number later is nobody's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its effective user.
    pub(super) user: u32,
    /// Its effective group.
    pub(super) group: u32,
    /// Its other groups.
    pub(super) groups: Vec<u32>,
}

impl Caller {
    /// Asks who connected (`SO_PEERCRED`, `SO_PEERGROUPS`).
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self {
            user: credentials.uid(),
            group: credentials.gid(),
            groups: peer_groups(stream)?,
        })
    }

    /// Whether it may use the API of a daemon that runs as `own`, at a socket of `group`.
    pub(super) fn may_ask(&self, own: u32, group: Option<u32>) -> bool {
        let is_in = |group| self.group == group || self.groups.contains(&group);
        self.user == ROOT
            || self.user == own
            || group.is_some_and(|group| group != NOBODY && is_in(group))
    }
}

const ROOT: u32 = 0;
/// The group of files whose group has no number in the daemon's user namespace: nobody is let in for it.
const NOBODY: u32 = 65_534;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_daemons_user_and_the_sockets_group_may_ask_and_nobody_else() {
        let caller = |user, group, groups: &[u32]| Caller {
            user,
            group,
            groups: groups.to_vec(),
        };
        for (caller, socket, may) in [
            (caller(0, 5, &[]), Some(7), true),
            (caller(1_000, 5, &[]), Some(7), true),
            (caller(1_001, 7, &[]), Some(7), true),
            (caller(1_001, 5, &[6, 7]), Some(7), true),
            (caller(1_001, 5, &[6]), Some(7), false),
            (caller(1_001, 0, &[0]), Some(7), false),
            // The group of the daemon's user is of no use by itself, nor one that cannot be named.
            (caller(1_001, 1_000, &[]), Some(7), false),
            (caller(1_001, NOBODY, &[NOBODY]), Some(NOBODY), false),
            (caller(1_001, 7, &[7]), None, false),
        ] {
            assert_eq!(caller.may_ask(1_000, socket), may, "{caller:?} {socket:?}");
        }
    }

    #[tokio::test]
    async fn the_kernel_says_who_connects() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours).unwrap();
        assert_eq!(caller.user, rustix::process::geteuid().as_raw());
        assert_eq!(caller.group, rustix::process::getegid().as_raw());
        let own: Vec<_> = rustix::process::getgroups().unwrap();
        let own: Vec<_> = own.into_iter().map(|group| group.as_raw()).collect();
        assert_eq!(caller.groups, own);
    }
}
