//! What this machine lets the present user do, found by trying it.

use std::{
    fmt,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sched::CloneFlags;
use overlay_core::{
    EndpointId, MacAddr,
    plane::{DataPath, Namespace, PlatformError, PortSpec},
};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Doing, Failure},
    namespace::{self, Privilege},
    netlink::Netlink,
    plane,
    port::{self, PortKind},
};

/// What is possible here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Network, mount, process and host name namespaces without a user namespace.
    pub privileged: Verdict,
    /// The same inside a new user namespace.
    pub user_namespace: Verdict,
    /// A TAP port, in whichever of the two is possible.
    pub tap: Verdict,
    /// A port of a veth pair and a packet socket, likewise.
    pub packet: Verdict,
    /// Encrypted networks that the kernel carries, likewise; see [`NoSealing`](crate::plane::NoSealing).
    pub sealing: Verdict,
    /// Networks with rules that the kernel carries, likewise; see [`NoFiltering`](crate::plane::NoFiltering).
    pub filtering: Verdict,
}

/// Whether something is possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is.
    Possible,
    /// It is not.
    Refused {
        /// What was tried, and what the system said.
        reason: String,
    },
}

impl Capabilities {
    /// Returns true if endpoints with namespaces and ports of their own are possible.
    pub fn endpoints(&self) -> bool {
        let namespaces = self.privileged.is_possible() || self.user_namespace.is_possible();
        namespaces && (self.tap.is_possible() || self.packet.is_possible())
    }
}

impl Verdict {
    /// Returns true if it is possible.
    pub fn is_possible(&self) -> bool {
        *self == Self::Possible
    }
}

impl<T> From<Result<T, Failure>> for Verdict {
    fn from(tried: Result<T, Failure>) -> Self {
        match tried {
            Ok(_) => Self::Possible,
            Err(failure) => Self::Refused {
                reason: failure.to_string(),
            },
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Possible => f.write_str("possible"),
            Self::Refused { reason } => write!(f, "not possible ({reason})"),
        }
    }
}

/// Tries what is possible, in short-lived processes of `helper`, a binary that calls
/// [`main_if_holder`](crate::holder::main_if_holder) first of all.
///
/// # Errors
///
/// If the processes cannot be started or do not answer.
pub fn capabilities(helper: &Path) -> Result<Capabilities, PlatformError> {
    let privileged = ask(helper, PRIVILEGED)?;
    let user_namespace = ask(helper, USER)?;
    Ok(Capabilities {
        privileged,
        user_namespace,
        tap: ask(helper, TAP)?,
        packet: ask(helper, PACKET)?,
        sealing: ask(helper, SEALING)?,
        filtering: ask(helper, FILTERING)?,
    })
}

fn ask(helper: &Path, what: &str) -> Result<Verdict, PlatformError> {
    let operation = format!("probe with {}", helper.display());
    let output = Command::new(helper)
        .args([PROBE, what])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| PlatformError::system(&operation, &error))?;
    postcard::from_bytes(&output.stdout).map_err(|_| {
        let error = io::ErrorKind::UnexpectedEof.into();
        PlatformError::system(operation, &error)
    })
}

/// Tries one thing and says the verdict on standard output.
pub(crate) fn run(what: &str) -> Result<(), Failure> {
    let all = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    let verdict = Verdict::from(match what {
        PRIVILEGED => namespace::make(all).and_then(|privilege| match privilege {
            Privilege::Given => Ok(()),
            Privilege::UserNamespace => {
                let error = io::ErrorKind::PermissionDenied.into();
                Err(Failure::new("unshare without a user namespace", &error))
            }
        }),
        USER => namespace::make_user().and_then(|()| namespace::make(all).map(drop)),
        TAP => make_port(PortKind::Tap),
        PACKET => make_port(PortKind::Packet),
        SEALING => seal(),
        FILTERING => filter(),
        _ => Err(Failure::new(
            "probe",
            &io::Error::from(io::ErrorKind::InvalidInput),
        )),
    });
    let octets = postcard::to_allocvec(&verdict)
        .map_err(io::Error::other)
        .doing(|| "write the verdict".into())?;
    io::stdout()
        .write_all(&octets)
        .doing(|| "write the verdict".into())
}

/// In a namespace that ends with this process, as an ordinary user may have it.
fn seal() -> Result<(), Failure> {
    namespace::make(CloneFlags::CLONE_NEWNET)?;
    plane::can_seal(false)
        .map_err(io::Error::other)
        .doing(|| "seal in the kernel".into())
}

fn filter() -> Result<(), Failure> {
    namespace::make(CloneFlags::CLONE_NEWNET)?;
    plane::can_filter()
        .map_err(io::Error::other)
        .doing(|| "judge packets in the kernel".into())
}

fn make_port(kind: PortKind) -> Result<(), Failure> {
    namespace::make(CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
    namespace::raise_loopback(&mut netlink)?;
    // In a namespace that ends with this process.
    let spec = PortSpec {
        endpoint: EndpointId::from_bytes([0; 16]),
        namespace: Namespace::Path(PathBuf::new()),
        interface: "probe0".into(),
        mac: MacAddr::from_ipv4(Ipv4Addr::LOCALHOST),
        addresses: Vec::new(),
        on_link: Vec::new(),
        gateway: None,
        mtu: 1_400,
        hostname: String::new(),
        way_out: None,
        path: DataPath::User,
    };
    port::make(&spec, Some(kind), None).map(drop)
}

/// The hidden argument.
pub(crate) const PROBE: &str = "overlay-probe";
const PRIVILEGED: &str = "privileged";
const USER: &str = "user";
const TAP: &str = "tap";
const PACKET: &str = "packet";
const SEALING: &str = "sealing";
const FILTERING: &str = "filtering";
