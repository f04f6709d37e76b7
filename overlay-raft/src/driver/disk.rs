//! The operating system's files as a [`Disk`].

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use overlay_core::{Disk, DiskError};

/// One directory of files; appended ones stay open.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    open: BTreeMap<String, File>,
    /// Held as long as the disk.
    lock: Option<File>,
}

impl FileDisk {
    /// Opens `directory`, made if it does not exist, for its owner alone. Whoever calls this sees to it that nobody else
    /// does at the same time.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        if let Some(parent) = directory.parent() {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            open: BTreeMap::new(),
            lock: None,
        })
    }

    /// Opens `directory` as [`open`](Self::open) does, and keeps every other process and every other disk out of it as long as
    /// this one lives: a file named `lock` in it is locked.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if somebody has it; otherwise what the system said.
    pub fn open_exclusive(directory: &Path) -> io::Result<Self> {
        let mut disk = Self::open(directory)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(disk.path("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        disk.lock = Some(lock);
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            let path = self.path(name);
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)?;
            self.open.insert(name.to_owned(), file);
        }
        self.open
            .get_mut(name)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for FileDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        read().map_err(|error| failed("list", "", &error))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        fs::read(self.path(name)).map_err(|error| failed("read", name, &error))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file(name).and_then(|file| file.write_all(bytes));
        written.map_err(|error| failed("append", name, &error))
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let cut = OpenOptions::new()
            .write(true)
            .open(self.path(name))
            .and_then(|file| file.set_len(length_bytes));
        cut.map_err(|error| failed("truncate", name, &error))
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let synced = match self.open.get(name) {
            Some(file) => file.sync_data(),
            None => File::open(self.path(name)).and_then(|file| file.sync_all()),
        };
        synced.map_err(|error| failed("sync", name, &error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.open.remove(from);
        self.open.remove(to);
        fs::rename(self.path(from), self.path(to)).map_err(|error| failed("rename", from, &error))
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.open.remove(name);
        fs::remove_file(self.path(name)).map_err(|error| failed("remove", name, &error))
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed("sync", "", &error))
    }
}

fn failed(operation: &'static str, name: &str, error: &io::Error) -> DiskError {
    let name = name.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound if !name.is_empty() => DiskError::NotFound { name },
        kind => DiskError::Failed {
            operation,
            name,
            kind,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_disk_at_a_time() {
        let name = format!("overlay-disk-lock-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let disk = FileDisk::open_exclusive(&directory).unwrap();
        let second = FileDisk::open_exclusive(&directory).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(disk);
        FileDisk::open_exclusive(&directory).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn files_behave_as_the_contract_says() {
        let directory = std::env::temp_dir().join(format!("overlay-disk-{}", std::process::id()));
        let mut disk = FileDisk::open(&directory).unwrap();
        disk.append("a", b"one").unwrap();
        disk.append("a", b"two").unwrap();
        disk.sync("a").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"onetwo");
        disk.truncate("a", 4).unwrap();
        disk.append("a", b"!").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"onet!");
        disk.append("b", b"x").unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        disk.append("b", b"?").unwrap();
        assert_eq!(disk.read("b").unwrap(), b"onet!?");
        assert_eq!(
            disk.read("a"),
            Err(DiskError::NotFound {
                name: "a".to_owned()
            })
        );
        disk.remove("b").unwrap();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        fs::remove_dir_all(directory).unwrap();
    }
}
