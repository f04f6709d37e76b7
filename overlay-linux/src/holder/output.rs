//! The newest output of an endpoint's programs, in two files of bounded size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Where output goes: the current file, and the one before it.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    file: File,
    written_bytes: u64,
    file_bytes_max: u64,
}

impl Output {
    /// Opens (or goes on with) the output in `folder`, of which the newest `bytes_max / 2` octets at least are kept.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append_to(&folder.join(NEW))?;
        let written_bytes = file.metadata()?.len();
        Ok(Self {
            folder: folder.to_owned(),
            file,
            written_bytes,
            file_bytes_max: (bytes_max / 2).max(1),
        })
    }

    /// Adds output. Where the disk is full it is lost, rather than the program stopped.
    pub(crate) fn write(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let room = self.file_bytes_max.saturating_sub(self.written_bytes);
            let fits = usize::try_from(room)
                .unwrap_or(usize::MAX)
                .min(octets.len());
            let (now, later) = octets.split_at(fits);
            if self.file.write_all(now).is_err() {
                return;
            }
            self.written_bytes += u64::try_from(fits).unwrap_or_default();
            octets = later;
            if !octets.is_empty() && self.turn_over().is_err() {
                return;
            }
        }
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let current = self.folder.join(NEW);
        fs::rename(&current, self.folder.join(OLD))?;
        self.file = append_to(&current)?;
        self.written_bytes = 0;
        Ok(())
    }
}

/// Reads what is kept of the output in `folder`.
pub(crate) fn read(folder: &Path) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    for name in [OLD, NEW] {
        match fs::read(folder.join(name)) {
            Ok(part) => octets.extend_from_slice(&part),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(octets)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The file that is being written.
const NEW: &str = "output";
/// The full one before it.
const OLD: &str = "output.1";

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("overlay-output-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_newest_half_at_least_is_kept() {
        let folder = Folder::new("newest");
        let mut output = Output::open(&folder.0, 8).unwrap();
        for (written, kept) in [
            ("", ""),
            ("ab", "ab"),
            ("cd", "abcd"),
            ("efgh", "abcdefgh"),
            ("i", "efghi"),
            ("jklmnopqr", "mnopqr"),
        ] {
            output.write(written.as_bytes());
            assert_eq!(read(&folder.0).unwrap(), kept.as_bytes(), "after {written}");
        }
    }

    #[test]
    fn another_holder_goes_on_where_one_ended() {
        let folder = Folder::new("another");
        Output::open(&folder.0, 8).unwrap().write(b"abc");
        Output::open(&folder.0, 8).unwrap().write(b"de");
        assert_eq!(read(&folder.0).unwrap(), b"abcde");
        Output::open(&folder.0, 8).unwrap().write(b"fghi");
        assert_eq!(read(&folder.0).unwrap(), b"efghi");
    }

    #[test]
    fn a_bound_of_nothing_still_works() {
        let folder = Folder::new("nothing");
        let mut output = Output::open(&folder.0, 0).unwrap();
        output.write(b"abc");
        assert_eq!(read(&folder.0).unwrap(), b"bc");
    }
}
