//! What a daemon remembers beyond its life: a file for each thing.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    marker::PhantomData,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use serde::{Serialize, de::DeserializeOwned};

/// What can be written down.
pub(super) trait Recorded: Serialize + DeserializeOwned {
    /// The name of its file, unique in the folder: its identity.
    fn name(&self) -> String;
}

/// The folder of the records of one kind.
#[derive(Debug)]
pub(super) struct Records<R> {
    folder: PathBuf,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Records<R> {
    fn clone(&self) -> Self {
        Self {
            folder: self.folder.clone(),
            kind: PhantomData,
        }
    }
}

impl<R: Recorded> Records<R> {
    /// Makes the folder if it is not there, for its owner alone: commands and environments of programs are in the records.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self {
            folder,
            kind: PhantomData,
        })
    }

    /// Reads all records. What cannot be read is an error: forgetting a program would leave it running for ever.
    pub(super) fn load(&self) -> io::Result<Vec<R>> {
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
    pub(super) fn save(&self, record: &R) -> io::Result<()> {
        let name = record.name();
        let fresh = self.folder.join(format!("{name}.new"));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path(&name))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a record; it may be gone already.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.folder)?.sync_all(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{EXTENSION}"))
    }
}

const EXTENSION: &str = "json";
