//! Files that are written anew beside the old ones: what was in clear, and what changes its data key.

use std::sync::Arc;

use overlay_core::{Disk, DiskError, Seed, aead::AeadProvider};

use super::{
    DataKey, File, REWRITTEN, SealedDisk, UNAUTHENTIC, damaged_header, header, header_of,
    key::Wrapping, refused,
};

impl<D: Disk> SealedDisk<D> {
    /// Opens a disk whose files were written in clear, and seals each of them; those that are sealed already stay.
    ///
    /// For the one time when sealing is turned on, since whatever is in clear here is taken for the truth. Each file is
    /// written beside the old one, synced, and renamed: after a crash or an error each of them is whole, in clear or
    /// sealed, and a second call does the rest. What was in clear is not overwritten: the medium may show it still.
    /// There is no way back.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn seal_plain(
        disk: D,
        provider: Arc<dyn AeadProvider>,
        key: &DataKey,
        seed: &Seed,
    ) -> Result<Self, DiskError> {
        let mut sealed = Self::open(disk, provider, key, seed)?;
        for name in sealed.disk.list()? {
            let bytes = sealed.disk.read(&name)?;
            if !header::is_sealed(&bytes) {
                sealed.rewrite(&name, &bytes)?;
            }
        }
        Ok(sealed)
    }

    /// Puts another data key in the place of the present one, which opens nothing on this disk afterwards.
    ///
    /// The files' own keys are wrapped anew, each file beside the old one; their records stay as they are. So whoever has
    /// both the old key and an old copy of a file reads what is appended to that file later: a log that is opened again
    /// begins a file anew.
    ///
    /// Keep both keys until it returns. After a crash or an error open the disk with the old key and call it again with
    /// the same new one: what is under the new key already stays.
    ///
    /// # Errors
    ///
    /// [`DiskError::WrongKey`] if a file is under neither key, [`DiskError::Damaged`] and [`DiskError::NotSealed`] if it
    /// has no header that can be trusted: then nothing was changed. [`DiskError::Failed`] as everywhere.
    pub fn rekey(&mut self, key: &DataKey) -> Result<(), DiskError> {
        let new = Wrapping::new(&*self.provider, key).map_err(|error| refused("", error))?;
        self.remove_rewritten()?;
        let mut names = Vec::new();
        for name in self.disk.list()? {
            if self.wrapped_anew(&name, &new)?.is_some() {
                names.push(name);
            }
        }
        for name in names {
            if let Some(bytes) = self.wrapped_anew(&name, &new)? {
                self.replace(&name, &bytes)?;
            }
        }
        self.wrapping = new;
        Ok(())
    }

    /// Returns a file with its header under another data key; `None` if it is under that one, or holds nothing.
    fn wrapped_anew(&mut self, name: &str, new: &Wrapping) -> Result<Option<Vec<u8>>, DiskError> {
        let mut bytes = self.disk.read(name)?;
        let Some(header) = header_of(name, &bytes)? else {
            return Ok(None);
        };
        if header.key == new.id {
            return Ok(None);
        }
        if header.key != self.wrapping.id {
            return Err(DiskError::WrongKey {
                name: name.to_owned(),
                expected: self.wrapping.id,
                found: header.key,
            });
        }
        let header = header
            .wrap_anew(&self.wrapping, new, &mut self.rng)
            .map_err(|_| damaged_header(name, UNAUTHENTIC))?;
        bytes.splice(..header.len(), header);
        Ok(Some(bytes))
    }

    /// Writes a file anew, with a key of its own, and makes it durable in the place of the old one.
    pub(super) fn rewrite(&mut self, name: &str, text: &[u8]) -> Result<File, DiskError> {
        self.remove_rewritten()?;
        let mut file = self.create(REWRITTEN)?;
        self.put_all(REWRITTEN, &mut file, text)?;
        self.settle(name)?;
        file.durable = file.end;
        Ok(file)
    }

    /// Puts a file with these octets in the place of another one, durably.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.remove_rewritten()?;
        self.disk.append(REWRITTEN, bytes)?;
        self.settle(name)?;
        for (_, file) in self.open.iter_mut().filter(|(open, _)| open == name) {
            file.durable = file.end;
        }
        Ok(())
    }

    /// What was written beside takes its place.
    fn settle(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk.sync(REWRITTEN)?;
        self.disk.rename(REWRITTEN, name)?;
        self.disk.sync_directory()
    }

    /// Removes what an interrupted rewriting left.
    pub(super) fn remove_rewritten(&mut self) -> Result<(), DiskError> {
        match self.disk.remove(REWRITTEN) {
            Err(DiskError::NotFound { .. }) => Ok(()),
            removed => removed,
        }
    }
}
