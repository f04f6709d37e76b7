//! The system calls that have no safe wrapper, each behind a safe function. The only module with `unsafe`.
#![expect(
    unsafe_code,
    reason = "device ioctls, options of sockets, packet sockets, adopted descriptors and the moment between fork and exec"
)]

use std::{
    fs::{File, OpenOptions},
    io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::Command,
};

use nix::{
    libc,
    pty::Winsize,
    sys::{
        signal::{self, SigHandler, SigSet, Signal},
        socket,
    },
    unistd,
};

/// Opens `/dev/net/tun` and makes the TAP interface `name` in the calling thread's network namespace.
///
/// Frames carry a virtio header of 10 octets; what the kernel may leave to the reader is said by [`set_tap_offload`]. The
/// interface vanishes with the last copy of the descriptor.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = InterfaceRequest {
        name: interface_name(name)?,
        flags: i16::try_from(flags).map_err(io::Error::other)?,
        rest: [0; 22],
    };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`; `InterfaceRequest` has its size and its first two fields.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header_bytes: libc::c_int = 10;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETVNETHDRSZ,
            &raw const header_bytes,
        )
    })?;
    Ok(tun)
}

/// Returns the supplementary groups that whoever connected to a unix socket had then (`SO_PEERGROUPS`); none where the kernel
/// does not tell them: Linux before 4.13, some sandboxes.
///
/// # Errors
///
/// What the system said, of anything but a connected unix socket.
pub fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
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
            _ if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}

/// Groups that most processes do not have more of.
const GROUPS_FEW: usize = 32;
/// Groups of a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Lets the kernel hand over frames with partial checksums and super-frames of TCP, and of UDP if `udp` (Linux 6.2).
pub(crate) fn set_tap_offload(tap: &impl AsFd, udp: bool) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = if udp { TUN_F_USO4 | TUN_F_USO6 } else { 0 };
    let offload = libc::c_ulong::from(tcp | udp);
    let tap = tap.as_fd().as_raw_fd();
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    check(unsafe { libc::ioctl(tap, libc::TUNSETOFFLOAD, offload) })
}

/// Of `linux/if_tun.h`.
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// The head of `struct ifreq`, padded to its size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() >= size_of::<libc::ifreq>());

fn interface_name(name: &str) -> io::Result<[u8; libc::IFNAMSIZ]> {
    let mut octets = [0; libc::IFNAMSIZ];
    let fits = !name.is_empty() && name.len() < octets.len() && !name.contains(['\0', '/', '%']);
    match octets.get_mut(..name.len()) {
        Some(place) if fits => place.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
    Ok(octets)
}

/// Opens a raw packet socket of the calling thread's network namespace, bound to nothing yet.
///
/// Frames carry a virtio header of 10 octets in both directions; what the socket itself sends does not come back.
pub(crate) fn open_packet() -> io::Result<File> {
    let flags = socket::SockFlag::SOCK_CLOEXEC | socket::SockFlag::SOCK_NONBLOCK;
    // Protocol 0: nothing is received before `bind_packet`.
    let opened = socket::socket(
        socket::AddressFamily::Packet,
        socket::SockType::Raw,
        flags,
        None,
    )?;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        set_option(&opened, libc::SOL_PACKET, option, 1)?;
    }
    let wanted = RECEIVE_BYTES;
    // Beyond the system's limit where that is allowed, else up to it.
    if set_option(&opened, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        set_option(&opened, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
    }
    Ok(File::from(opened))
}

/// A few milliseconds at full speed.
const RECEIVE_BYTES: libc::c_int = 4 << 20;

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the options used here read one int, whose address and length are given.
    check(unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), length) })
}

/// Opens a netlink socket of the calling thread's network namespace, of a protocol that has no name in `nix`.
pub(crate) fn open_netlink(protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes its arguments by value.
    let opened = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
    check(opened)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Of `linux/netlink.h`.
pub(crate) const NETLINK_XFRM: libc::c_int = 6;

/// Lets the kernel open what comes to a UDP socket as ESP (RFC 3948).
pub(crate) fn open_esp(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
}

// `linux/udp.h`.
const UDP_ENCAP: libc::c_int = 100;
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;

/// Lets a socket have addresses that its namespace has not.
pub(crate) fn set_transparent(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)
    } else {
        set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)
    }
}

/// Binds a packet socket to all frames of the interface `index` of the socket's own namespace.
pub(crate) fn bind_packet(packet: &File, index: u32) -> io::Result<()> {
    let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: all.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>();
    let length = libc::socklen_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: `address` is a whole `sockaddr_ll` of the given length.
    check(unsafe { libc::bind(packet.as_raw_fd(), (&raw const address).cast(), length) })
}

/// Opens a descriptor of a process, which becomes readable when it has ended. `pid` is a child that nobody has reaped.
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let flags: libc::c_long = 0;
    let pid = libc::c_long::from(pid);
    // SAFETY: pidfd_open takes a process number and flags by value.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    let opened = libc::c_int::try_from(opened).map_err(io::Error::other)?;
    check(opened)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Returns true if a file of the namespace file system is a network namespace.
pub(crate) fn is_network(namespace: &File) -> io::Result<bool> {
    // SAFETY: NS_GET_NSTYPE takes no argument and returns the kind of namespace.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    check(kind)?;
    Ok(kind == libc::CLONE_NEWNET)
}

/// `_IO(0xb7, 3)` of `linux/nsfs.h`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Takes ownership of descriptors that a message brought.
///
/// Only for numbers that `recvmsg` has just put into this process: nobody else knows them.
pub(crate) fn adopt(received: &[RawFd]) -> Vec<OwnedFd> {
    let adopt = |&descriptor| {
        // SAFETY: the kernel has just made this descriptor for us, and the caller hands it over once.
        unsafe { OwnedFd::from_raw_fd(descriptor) }
    };
    received.iter().map(adopt).collect()
}

/// Lets the program lead a session of its own, with its standard input as controlling terminal if `terminal`, and with
/// no signal blocked or ignored that its holder or a shell before the daemon did.
pub(crate) fn lead_session(command: &mut Command, terminal: bool) {
    let between = move || {
        unistd::setsid()?;
        if terminal {
            // SAFETY: TIOCSCTTY takes its argument by value.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        for signal in Signal::iterator() {
            // SAFETY: no handler of ours is replaced, there is none. Two signals cannot be set; they are never ignored.
            let _ = unsafe { signal::signal(signal, SigHandler::SigDfl) };
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    // SAFETY: `setsid`, `ioctl`, `signal` and `pthread_sigmask` are async-signal-safe, and nothing is allocated between
    // fork and exec.
    unsafe { command.pre_exec(between) };
}

/// Tells a terminal how large its window is.
pub(crate) fn set_window(terminal: &impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let descriptor = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSWINSZ reads one `struct winsize`.
    check(unsafe { libc::ioctl(descriptor, libc::TIOCSWINSZ, &raw const size) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
