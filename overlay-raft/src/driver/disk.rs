//! The operating system's files as a [`Disk`].

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use overlay_core::{Disk, DiskError};

/// One directory of files; appended ones stay open.
///
/// Room that is [reserved](Disk::reserve) is written with zeros. A file that was given room and is removed becomes the spare
/// one (`spare` in the directory), which the next one that is given room takes over as it is: a log that is compacted from time
/// to time writes each octet once.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    open: BTreeMap<String, OpenFile>,
    /// Held as long as the disk.
    lock: Option<File>,
}

/// A file that is appended to.
#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Where the next octets go.
    length: u64,
    /// Its length in the file system.
    room: u64,
    /// Whether room was made in it.
    reserved: bool,
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
        // A process that was killed left it, of a log that may be sealed by now.
        match fs::remove_file(directory.join(SPARE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
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
            .open(disk.path(LOCK))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        disk.lock = Some(lock);
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn file(&mut self, name: &str) -> io::Result<&mut OpenFile> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(self.path(name))?;
            let length = file.metadata()?.len();
            let open = OpenFile {
                file,
                length,
                room: length,
                reserved: false,
            };
            self.open.insert(name.to_owned(), open);
        }
        self.open
            .get_mut(name)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes room, in the spare file if there is one and `name` is new.
    fn make_room(&mut self, name: &str, length: u64) -> io::Result<()> {
        let path = self.path(name);
        let is_new = !self.open.contains_key(name) && !path.try_exists()?;
        let takes_over = is_new && fs::rename(self.path(SPARE), path).is_ok();
        let file = self.file(name)?;
        file.reserved = true;
        if takes_over {
            file.length = 0;
        }
        while file.room < length {
            let missing = usize::try_from(length - file.room).unwrap_or(usize::MAX);
            let zeros = &ZEROS[..missing.min(ZEROS.len())];
            file.file.write_all_at(zeros, file.room)?;
            file.room += zeros.len() as u64;
        }
        Ok(())
    }
}

impl OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.room = self.room.max(self.length);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if length < self.room {
            self.file.set_len(length)?;
            self.room = length;
            self.length = self.length.min(length);
        }
        Ok(())
    }
}

impl Disk for FileDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                let name = entry.file_name().into_string().ok();
                let ours = |name: &String| name != LOCK && name != SPARE;
                if entry.file_type()?.is_file() {
                    names.extend(name.filter(ours));
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        read().map_err(|error| failed("list", "", &error))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        let mut bytes = fs::read(self.path(name)).map_err(|error| failed("read", name, &error))?;
        if let Some(open) = self.open.get(name) {
            bytes.truncate(usize::try_from(open.length).unwrap_or(usize::MAX));
        }
        Ok(bytes)
    }

    fn reserve(&mut self, name: &str, length_bytes: u64) {
        // Where there is no room to be had, the append that needs it says so.
        let _ = self.make_room(name, length_bytes);
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.file(name).and_then(|file| file.append(bytes));
        written.map_err(|error| failed("append", name, &error))
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let exists = fs::metadata(self.path(name));
        let cut = exists.and_then(|_| self.file(name)?.truncate(length_bytes));
        cut.map_err(|error| failed("truncate", name, &error))
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let synced = match self.open.get(name) {
            Some(open) => open.file.sync_data(),
            None => File::open(self.path(name)).and_then(|file| file.sync_all()),
        };
        synced.map_err(|error| failed("sync", name, &error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.path(from), self.path(to))
            .map_err(|error| failed("rename", from, &error))?;
        let open = self.open.remove(from);
        self.open.remove(to);
        self.open.extend(open.map(|open| (to.to_owned(), open)));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let open = self.open.remove(name);
        let path = self.path(name);
        let removed = if open.is_some_and(|open| open.reserved) {
            fs::rename(path, self.path(SPARE))
        } else {
            fs::remove_file(path)
        };
        removed.map_err(|error| failed("remove", name, &error))
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

/// Locked as long as somebody has the directory.
const LOCK: &str = "lock";

/// What was removed and has room.
const SPARE: &str = "spare";

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use overlay_sim::disk_contract::{self, Subject};

    use super::*;

    #[test]
    fn a_directory_has_one_disk_at_a_time() {
        let directory = Directory::new();
        let disk = FileDisk::open_exclusive(&directory.0).unwrap();
        let second = FileDisk::open_exclusive(&directory.0).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(disk);
        FileDisk::open_exclusive(&directory.0).unwrap();
    }

    #[test]
    fn files_keep_the_contract() {
        let name = "driver::disk::tests::files_keep_the_contract";
        let summary = disk_contract::assert_holds(name, 40, |_| Directory::new());
        assert!(summary.operations > 10_000 && summary.openings > 100);
    }

    #[test]
    fn room_is_zeros_and_what_was_removed_and_no_content() {
        let directory = Directory::new();
        let mut disk = FileDisk::open(&directory.0).unwrap();
        disk.reserve("one", 1_000);
        disk.append("one", &[1; 600]).unwrap();
        assert_eq!(disk.read("one").unwrap(), [1; 600]);
        assert_eq!(size(&directory, "one"), 1_000);
        // What outgrows its room is whole.
        disk.append("one", &[2; 600]).unwrap();
        assert_eq!(disk.read("one").unwrap(), [[1; 600], [2; 600]].concat());
        disk.remove("one").unwrap();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        disk.reserve("two", 500);
        assert!(!directory.0.join(SPARE).exists());
        disk.append("two", b"new").unwrap();
        assert_eq!(disk.read("two").unwrap(), b"new");
        assert_eq!(size(&directory, "two"), 1_200);
        // After a crash, somebody else's octets follow; cut off, they are gone.
        let mut disk = FileDisk::open(&directory.0).unwrap();
        let found = disk.read("two").unwrap();
        assert_eq!((found.len(), &found[..4]), (1_200, &b"new\x01"[..]));
        disk.truncate("two", 3).unwrap();
        disk.append("two", b"!").unwrap();
        assert_eq!(disk.read("two").unwrap(), b"new!");
    }

    #[test]
    fn a_spare_file_does_not_outlive_the_disk() {
        let directory = Directory::new();
        let mut disk = FileDisk::open(&directory.0).unwrap();
        disk.reserve("log", 100);
        disk.remove("log").unwrap();
        assert!(directory.0.join(SPARE).exists());
        drop(disk);
        FileDisk::open(&directory.0).unwrap();
        assert!(!directory.0.join(SPARE).exists());
    }

    fn size(directory: &Directory, name: &str) -> u64 {
        fs::metadata(directory.0.join(name)).unwrap().len()
    }

    /// A directory of its own, which goes with it.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static MADE: AtomicU64 = AtomicU64::new(0);
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let name = format!("overlay-disk-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Subject for Directory {
        type Disk = FileDisk;

        fn open(&mut self) -> FileDisk {
            FileDisk::open_exclusive(&self.0).unwrap()
        }
    }
}
