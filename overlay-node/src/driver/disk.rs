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
}

impl FileDisk {
    /// Opens `directory`, made if it does not exist, for its owner alone.
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
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            open: BTreeMap::new(),
        })
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
