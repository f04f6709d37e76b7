//! What a daemon remembers of its programs: a file each.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
};

use overlay_core::EndpointId;
use overlay_linux::ProcessId;
use serde::{Deserialize, Serialize};

use crate::wire::{ProgramInfo, ProgramState};

/// A program as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What its users see.
    pub(super) info: ProgramInfo,
    /// Its number with its holder, once it was started.
    pub(super) process: Option<ProcessId>,
    /// Whether its endpoint may still be attached.
    pub(super) attached: bool,
}

impl Record {
    /// Whether it runs, as far as this record knows.
    pub(super) fn running(&self) -> Option<ProcessId> {
        match self.info.state {
            ProgramState::Running { .. } => self.process,
            ProgramState::Created | ProgramState::Exited { .. } => None,
        }
    }
}

/// The folder of the records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Makes the folder if it is not there.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Reads all records. What cannot be read is an error: forgetting a program would leave it running for ever.
    pub(super) fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != EXTENSION)
            {
                continue;
            }
            let record = serde_json::from_slice(&fs::read(&path)?).map_err(|error| {
                let message = format!("{} is damaged: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            records.push(record);
        }
        Ok(records)
    }

    /// Writes a record; it is durable when this returns.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let fresh = self.folder.join(format!("{}.new", record.info.id));
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path(record.info.id))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a record; it may be gone already.
    pub(super) fn remove(&self, id: EndpointId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.folder)?.sync_all(),
        }
    }

    fn path(&self, id: EndpointId) -> PathBuf {
        self.folder.join(format!("{id}.{EXTENSION}"))
    }
}

const EXTENSION: &str = "json";
