//! The unix socket of the local API.

mod caller;
mod gate;

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::net::UnixListener;

pub(super) use gate::Gate;

/// A socket that is removed when this is dropped, unless another took its place.
#[derive(Debug)]
pub(super) struct Socket(Place);

/// Where a socket is, and which one it is.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    identity: (u64, u64),
}

/// Readable and writable by owner and group: who may use it may do anything that the daemon can.
const MODE: u32 = 0o660;

impl Socket {
    /// Listens at `path`. What a daemon that is gone left there is replaced.
    pub(super) fn bind(path: &Path) -> anyhow::Result<(Self, Gate)> {
        let shown = path.display();
        check(path)?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder of the socket {shown}"))?;
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        // Nobody connects before the mode is set and the name is right.
        let bound = bind_at(&fresh, path);
        if bound.is_err() {
            drop(fs::remove_file(&fresh));
        }
        let (listener, identity) = bound.with_context(|| {
            format!("cannot listen at the socket {shown}; choose another path with --socket")
        })?;
        let place = Place {
            path: path.to_owned(),
            identity,
        };
        Ok((Self(place.clone()), Gate::new(listener, place)))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Place {
    /// Returns the group of the socket, whose members may use it; of none if something else is there by now.
    fn group(&self) -> Option<u32> {
        let metadata = fs::symlink_metadata(&self.path).ok()?;
        ((metadata.dev(), metadata.ino()) == self.identity).then(|| metadata.gid())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.0.group().is_some() {
            // A socket that nobody listens at is replaced by the next daemon.
            drop(fs::remove_file(&self.0.path));
        }
    }
}

fn bind_at(fresh: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let listener = UnixListener::bind(fresh)?;
    fs::set_permissions(fresh, Permissions::from_mode(MODE))?;
    let identity = identity(fresh)?;
    fs::rename(fresh, path)?;
    Ok((listener, identity))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn check(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{} is there and is no socket: remove it, or choose another path with --socket",
                path.display()
            )
        }
        Ok(_) if net::UnixStream::connect(path).is_ok() => {
            bail!(
                "a daemon listens at the socket {} already: stop it, or choose another path with --socket",
                path.display()
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stale_sockets_are_replaced_and_live_ones_respected() {
        let folder = std::env::temp_dir().join(format!("overlay-socket-{}", std::process::id()));
        let path = folder.join("a/s");
        let (socket, listener) = Socket::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            MODE
        );
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("already"), "{error}");
        // As a killed daemon leaves it: the file is there, and nobody listens.
        std::mem::forget(socket);
        drop(listener);
        let (socket, listener) = Socket::bind(&path).unwrap();
        drop((socket, listener));
        assert!(!path.exists());
        fs::write(&path, "no socket").unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
