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
