//! What a disk must hold, and what it may hold after a crash.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{Disk, DiskError, Rng};

/// Files, by number: names come and go.
#[derive(Default)]
pub(super) struct Model {
    names: BTreeMap<String, usize>,
    /// What each name that was touched since the directory was synced has been, `None` for nothing.
    touched: BTreeMap<String, BTreeSet<Option<usize>>>,
    files: Vec<File>,
}

/// One file, whether it has a name or not.
#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// So many of its octets are durable, and were not cut off since.
    durable: usize,
    /// How long it was at most since it was synced.
    longest: usize,
    /// It was cut since it was synced: what follows the durable octets may be old or new.
    cut: bool,
    /// Room was made in it since the disk was opened.
    reserved: bool,
}

impl Model {
    pub(super) fn length(&self, name: &str) -> u64 {
        let file = self.names.get(name).and_then(|id| self.files.get(*id));
        file.map_or(0, |file| file.bytes.len() as u64)
    }

    pub(super) fn append(&mut self, name: &str, bytes: &[u8]) {
        let file = self.made(name);
        file.bytes.extend_from_slice(bytes);
        file.longest = file.longest.max(file.bytes.len());
    }

    /// Whether room creates the file is the disk's matter.
    pub(super) fn reserve(&mut self, name: &str, listed: Vec<String>) -> Result<(), String> {
        if self.names.contains_key(name) || listed.iter().any(|one| one == name) {
            self.made(name).reserved = true;
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, name: &str, length: u64) -> bool {
        let Some(file) = self.file(name) else {
            return false;
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < file.bytes.len() {
            file.bytes.truncate(length);
            file.durable = file.durable.min(length);
            file.cut = true;
        }
        true
    }

    pub(super) fn sync(&mut self, name: &str) -> bool {
        let Some(file) = self.file(name) else {
            return false;
        };
        file.durable = file.bytes.len();
        file.longest = file.durable;
        file.cut = false;
        true
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(id) = self.names.get(from).copied() else {
            return false;
        };
        self.bind(from, None);
        self.bind(to, Some(id));
        true
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        let known = self.names.contains_key(name);
        if known {
            self.bind(name, None);
        }
        known
    }

    pub(super) fn sync_directory(&mut self) {
        self.touched.clear();
    }

    /// Compares all names, and one of the files: the one that was touched, or any.
    pub(super) fn compare(
        &self,
        disk: &impl Disk,
        touched: Option<&str>,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let listed = disk.list().map_err(|error| error.to_string())?;
        if !listed.iter().eq(self.names.keys()) {
            let names: Vec<_> = self.names.keys().collect();
            return Err(format!("it lists {listed:?} where {names:?} are there"));
        }
        let any = super::NAMES[rng.index(super::NAMES.len()).unwrap_or(0)];
        let name = touched.unwrap_or(any);
        let expected = self.names.get(name).and_then(|id| self.files.get(*id));
        match (disk.read(name), expected) {
            (Ok(read), Some(file)) if read == file.bytes => Ok(()),
            (Ok(read), Some(file)) => Err(differing(name, &read, &file.bytes)),
            (Err(DiskError::NotFound { name: said }), None) if said == name => Ok(()),
            (found, _) => {
                let is = if expected.is_some() {
                    "there"
                } else {
                    "not there"
                };
                Err(format!("{name:?} is {is}, and reading it says {found:?}"))
            }
        }
    }

    /// Checks what a disk that was opened again holds, makes it durable, and takes it for what is known.
    pub(super) fn adopt(&mut self, disk: &mut impl Disk) -> Result<(), String> {
        let words = |error: DiskError| error.to_string();
        let listed = disk.list().map_err(words)?;
        let mut found = BTreeMap::new();
        for name in &listed {
            found.insert(name.clone(), disk.read(name).map_err(words)?);
        }
        let mut names: BTreeSet<&String> = self.names.keys().collect();
        names.extend(found.keys().chain(self.touched.keys()));
        for name in names {
            self.judge(name, found.get(name))?;
        }
        *self = Self::default();
        for (name, bytes) in found {
            disk.sync(&name).map_err(words)?;
            self.append(&name, &bytes);
            self.sync(&name);
        }
        self.sync_directory();
        disk.sync_directory().map_err(words)
    }

    /// Judges what is found under a name, `None` for nothing.
    fn judge(&self, name: &str, found: Option<&Vec<u8>>) -> Result<(), String> {
        let known = BTreeSet::from([self.names.get(name).copied()]);
        let may_be = self.touched.get(name).unwrap_or(&known);
        let Some(bytes) = found else {
            return if may_be.contains(&None) {
                Ok(())
            } else {
                Err(format!(
                    "{name:?} is gone, although its directory was synced"
                ))
            };
        };
        let mut why = format!("{name:?} is there, and must not be");
        for file in may_be.iter().flatten().filter_map(|id| self.files.get(*id)) {
            match file.judge(bytes) {
                Ok(()) => return Ok(()),
                Err(what) => why = format!("{name:?} of {} octets {what}", bytes.len()),
            }
        }
        Err(why)
    }

    fn file(&mut self, name: &str) -> Option<&mut File> {
        self.names.get(name).and_then(|id| self.files.get_mut(*id))
    }

    /// Returns a file, made if it is not there.
    fn made(&mut self, name: &str) -> &mut File {
        let id = match self.names.get(name) {
            Some(id) => *id,
            None => {
                self.files.push(File::default());
                self.bind(name, Some(self.files.len() - 1));
                self.files.len() - 1
            }
        };
        &mut self.files[id]
    }

    /// Makes a name another file's, or nobody's.
    fn bind(&mut self, name: &str, id: Option<usize>) {
        let before = self.names.get(name).copied();
        let was = self.touched.entry(name.to_owned()).or_default();
        was.extend([before, id]);
        match id {
            Some(id) => self.names.insert(name.to_owned(), id),
            None => self.names.remove(name),
        };
    }
}

impl File {
    /// Judges what a crash left of it.
    fn judge(&self, found: &[u8]) -> Result<(), String> {
        let durable = &self.bytes[..self.durable];
        if !found.starts_with(durable) {
            let (so_far, have) = (durable.len(), found.len());
            return Err(format!(
                "does not begin with the {so_far} that are durable ({have} are there)"
            ));
        }
        if self.reserved {
            return Ok(());
        }
        if found.len() > self.longest {
            return Err(format!("was never longer than {}", self.longest));
        }
        let strange = (self.durable..found.len())
            .find(|&at| found[at] != 0 && self.bytes.get(at) != Some(&found[at]));
        match strange {
            Some(at) if !self.cut => Err(format!("holds at {at} what nobody wrote")),
            _ => Ok(()),
        }
    }
}

fn differing(name: &str, read: &[u8], expected: &[u8]) -> String {
    let same = read
        .iter()
        .zip(expected)
        .take_while(|(one, other)| one == other);
    format!(
        "{name:?} is read as {} octets where {} are there; the first {} agree",
        read.len(),
        expected.len(),
        same.count()
    )
}
