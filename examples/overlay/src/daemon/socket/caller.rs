//! Who is at the other end of the socket, as the kernel says.
#![expect(
    unsafe_code,
    reason = "the groups of a peer are an option of its socket that nobody wraps"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

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
    /// Asks who connected (`SO_PEERCRED`, `SO_PEERGROUPS`). Where the latter is not known (Linux before 4.13, some sandboxes),
    /// a process has its one group.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let groups = match groups(stream) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Vec::new(),
            groups => groups?,
        };
        Ok(Self {
            user: credentials.uid(),
            group: credentials.gid(),
            groups,
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

fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let socket = socket.as_fd().as_raw_fd();
    let mut groups: Vec<u32> = vec![0; GROUPS_FEW];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the option writes at most `bytes` octets to where `groups` has as many, and to `bytes` how many it
        // wrote or, where they are too few, how many it would.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let error = io::Error::last_os_error();
        let count = usize::try_from(bytes).map_err(io::Error::other)? / size_of::<u32>();
        match result {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            _ if error.raw_os_error() == Some(libc::ERANGE)
                && groups.len() < count
                && count <= GROUPS_MAX =>
            {
                groups.resize(count, 0);
            }
            _ => return Err(error),
        }
    }
}

const ROOT: u32 = 0;
/// The group of files whose group has no number in the daemon's user namespace: nobody is let in for it.
const NOBODY: u32 = 65_534;
/// Groups that most processes do not have more of.
const GROUPS_FEW: usize = 32;
/// Groups of a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

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
