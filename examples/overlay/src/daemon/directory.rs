//! The data directory, which one daemon at a time uses.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A data directory, locked until this is dropped.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if it is not there, readable by its owner alone, and locks it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| {
                format!(
                    "cannot make the data directory {shown}; choose another one with --data-dir"
                )
            })?;
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot open the data directory {shown}"))?;
        let lock = path.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("cannot open {}; is the directory yours?", lock.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Not even read, the number is a help, not the point.
                drop(file.read_to_string(&mut holder));
                bail!(
                    "the data directory {} is in use by the daemon with process number {}: stop that one, or choose another directory with --data-dir",
                    path.display(),
                    if holder.is_empty() {
                        "unknown"
                    } else {
                        holder.trim()
                    }
                );
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", lock.display()))?;
        Ok(Self { path, _lock: file })
    }

    /// Its path, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

const LOCK: &str = "lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_uses_the_directory() {
        let folder = std::env::temp_dir().join(format!("overlay-lock-{}", std::process::id()));
        let first = DataDirectory::open(&folder).unwrap();
        let error = DataDirectory::open(&folder).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process number {}:", std::process::id())),
            "{error}"
        );
        drop(first);
        drop(DataDirectory::open(&folder).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }
}
