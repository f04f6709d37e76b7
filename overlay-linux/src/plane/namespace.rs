//! The network namespace in which the bridges are, kept by a file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{self, MntFlags, MsFlags},
};
use overlay_core::plane::PlatformError;

use crate::{
    failure::{Doing, Failure},
    namespace, sys,
};

/// The switch namespace: a network namespace that holds the plane's devices, and outlives the daemon.
///
/// It is mounted on a file, as `ip netns` does, so that it is there for as long as the file is mounted.
#[derive(Debug)]
pub struct SwitchNamespace {
    path: PathBuf,
    file: File,
}

impl SwitchNamespace {
    /// Takes up the namespace of this file, or makes it. The calling thread is in the one that it was in afterwards.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]: without `CAP_SYS_ADMIN`, `EPERM`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, PlatformError> {
        let path = path.into();
        Ok(match Self::find(&path)? {
            Some(file) => Self { path, file },
            None => Self::make(path)?,
        })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file away; the namespace ends with the last that is in it or has it open.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn remove(self) -> Result<(), PlatformError> {
        let path = &self.path;
        let doing = || format!("remove {}", path.display());
        match mount::umount2(path, MntFlags::MNT_DETACH) {
            // Not mounted: a boot ago it was.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error).doing(doing)?,
        }
        Ok(fs::remove_file(path).doing(doing)?)
    }

    /// Does something in there.
    pub(crate) fn within<T>(&self, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let home = namespace::current()?;
        namespace::enter(&self.file)?;
        let done = act();
        namespace::enter(&home)?;
        done
    }

    fn find(path: &Path) -> Result<Option<File>, Failure> {
        let doing = || format!("open {}", path.display());
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // What no namespace is mounted on is what a boot left.
            file => {
                let file = file.doing(doing)?;
                Ok(sys::is_network(&file).unwrap_or(false).then_some(file))
            }
        }
    }

    fn make(path: PathBuf) -> Result<Self, Failure> {
        let doing = || format!("make the switch namespace {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).doing(doing)?;
        }
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        options.open(&path).doing(doing)?;
        let home = namespace::current()?;
        namespace::make_network()?;
        let made = furnish(&path);
        namespace::enter(&home)?;
        if made.is_err() {
            // Only the file is there.
            let _ = fs::remove_file(&path);
        }
        let file = made?;
        Ok(Self { path, file })
    }
}

impl AsFd for SwitchNamespace {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps the namespace that the thread is in by a file, and its devices from speaking for themselves.
fn furnish(path: &Path) -> Result<File, Failure> {
    for interface in ["all", "default"] {
        namespace::quieten_ipv6(interface, false);
    }
    for name in ["iptables", "ip6tables", "arptables"] {
        // Frames on bridges are not packets of this host. A kernel without that has no such file.
        let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{name}");
        let _: io::Result<()> = fs::write(setting, "0");
    }
    let own = Path::new("/proc/thread-self/ns/net");
    let none = None::<&str>;
    let mounted = mount::mount(Some(own), path, none, MsFlags::MS_BIND, none);
    mounted.doing(|| format!("keep the switch namespace by {}", path.display()))?;
    namespace::current()
}
