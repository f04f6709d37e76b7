//! Files and a directory, each with what was not synced yet.

use std::collections::BTreeMap;

use overlay_core::{DiskError, Rng};

use super::Unsynced;

/// All files of a disk.
#[derive(Clone, Default)]
pub(super) struct Files {
    /// What the running system sees.
    names: BTreeMap<String, u64>,
    /// What a crash that loses everything would leave.
    durable_names: BTreeMap<String, u64>,
    /// What was done to `durable_names` since the last sync of the directory, oldest first.
    changes: Vec<Change>,
    /// The sync of the directory failed: nothing is known of `changes` before the next crash.
    doubtful: bool,
    contents: BTreeMap<u64, Content>,
    next_id: u64,
    used_bytes: u64,
    /// What was in the file that was removed last: its blocks are free to be given to another one.
    remains: Vec<u8>,
    pub(super) holes_ppm: u32,
}

#[derive(Clone)]
enum Change {
    Create { name: String, id: u64 },
    Rename { from: String, to: String, id: u64 },
    Remove { name: String },
}

/// One file, whether it has a name or not.
#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// How to undo what was done since the last sync, oldest first.
    undo: Vec<Undo>,
    /// A sync of this file failed: no later one makes anything durable.
    doubtful: bool,
    /// The length that it was given room for.
    reserved: usize,
}

#[derive(Clone)]
enum Undo {
    /// Octets were appended to what had this length.
    Append { length: usize },
    /// These octets were cut off.
    Truncate { tail: Vec<u8> },
}

impl Files {
    pub(super) fn reserve(&mut self, name: &str, length_bytes: u64) {
        let id = match self.names.get(name) {
            Some(&id) => id,
            None => self.create(name),
        };
        let content = self.contents.entry(id).or_default();
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        content.reserved = content.reserved.max(length);
    }

    pub(super) fn append(&mut self, name: &str, bytes: &[u8]) {
        let id = match self.names.get(name) {
            Some(&id) => id,
            None => self.create(name),
        };
        let content = self.contents.entry(id).or_default();
        content.undo.push(Undo::Append {
            length: content.bytes.len(),
        });
        content.bytes.extend_from_slice(bytes);
        self.used_bytes += bytes.len() as u64;
    }

    pub(super) fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let content = self.content_mut(name)?;
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let mut cut = 0;
        if length < content.bytes.len() {
            let tail = content.bytes.split_off(length);
            cut = tail.len() as u64;
            content.undo.push(Undo::Truncate { tail });
        }
        content.reserved = 0;
        self.used_bytes -= cut;
        Ok(())
    }

    pub(super) fn sync(&mut self, name: &str, success: bool) -> Result<(), DiskError> {
        let content = self.content_mut(name)?;
        if !success {
            content.doubtful = true;
        }
        if !content.doubtful {
            content.undo.clear();
        }
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, success: bool) {
        self.doubtful |= !success;
        if !self.doubtful {
            self.durable_names.clone_from(&self.names);
            self.changes.clear();
            self.forget_nameless();
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let id = self.id(from)?;
        self.names.remove(from);
        self.release(to);
        self.names.insert(to.to_owned(), id);
        self.changes.push(Change::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            id,
        });
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let id = self.id(name)?;
        if let Some(content) = self.contents.get(&id) {
            self.remains.clone_from(&content.bytes);
        }
        self.release(name);
        self.changes.push(Change::Remove {
            name: name.to_owned(),
        });
        Ok(())
    }

    /// Loses what was not synced, in the way that `unsynced` says.
    pub(super) fn crash(&mut self, unsynced: Unsynced, rng: &mut Rng) {
        self.crash_directory(unsynced, rng);
        for content in self.contents.values_mut() {
            content.crash(unsynced, self.holes_ppm, rng);
        }
        self.forget_nameless();
        self.show_room(rng);
    }

    /// Shows what is in the room that files were given.
    fn show_room(&mut self, rng: &mut Rng) {
        for id in self.names.values() {
            let Some(content) = self.contents.get_mut(id) else {
                continue;
            };
            let room = std::mem::take(&mut content.reserved);
            let length = content.bytes.len();
            if room > length {
                self.used_bytes += (room - length) as u64;
                content.bytes.resize(room, 0);
                if rng.chance(500_000) {
                    let old = self.remains.get(length..).unwrap_or_default();
                    let shown = old.len().min(room - length);
                    content.bytes[length..length + shown].copy_from_slice(&old[..shown]);
                }
            }
        }
    }

    /// Loses what was not synced of all that a failed sync left in doubt, and shows what is in the room of files.
    pub(super) fn settle_doubts(&mut self, rng: &mut Rng) {
        for content in self.contents.values_mut() {
            if content.doubtful {
                content.crash(Unsynced::Random, self.holes_ppm, rng);
            }
        }
        if self.doubtful {
            self.crash_directory(Unsynced::Random, rng);
            self.forget_nameless();
        }
        self.show_room(rng);
    }

    fn crash_directory(&mut self, unsynced: Unsynced, rng: &mut Rng) {
        let mut names = std::mem::take(&mut self.durable_names);
        let changes = std::mem::take(&mut self.changes);
        // Half of the crashes keep a prefix, as a journal would; the others keep any subset.
        let prefix = rng
            .chance(500_000)
            .then(|| rng.index(changes.len() + 1).unwrap_or(0));
        for (at, change) in changes.into_iter().enumerate() {
            let kept = match unsynced {
                Unsynced::Lost => false,
                Unsynced::Kept | Unsynced::Torn { .. } => true,
                Unsynced::Random => match prefix {
                    Some(prefix) => at < prefix,
                    None => rng.chance(500_000),
                },
            };
            if kept {
                change.apply(&mut names);
            }
        }
        self.durable_names.clone_from(&names);
        self.names = names;
        self.doubtful = false;
    }

    pub(super) fn sync_all(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.changes.clear();
        self.doubtful = false;
        for content in self.contents.values_mut() {
            content.undo.clear();
            content.doubtful = false;
        }
        self.forget_nameless();
    }

    pub(super) fn edit<R>(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> Option<R> {
        let content = self.content_mut(name).ok()?;
        let before = content.bytes.len() as u64;
        let result = change(&mut content.bytes);
        content.undo.clear();
        let after = content.bytes.len() as u64;
        self.used_bytes = self.used_bytes - before + after;
        Some(result)
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        let id = self.id(name)?;
        Ok(self
            .contents
            .get(&id)
            .map(|content| content.bytes.clone())
            .unwrap_or_default())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    fn create(&mut self, name: &str) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.names.insert(name.to_owned(), id);
        self.changes.push(Change::Create {
            name: name.to_owned(),
            id,
        });
        id
    }

    /// Takes a name away; the content stays for as long as a crash may bring the name back.
    fn release(&mut self, name: &str) {
        if let Some(id) = self.names.remove(name) {
            let content = self.contents.get(&id);
            self.used_bytes -= content.map_or(0, |content| content.bytes.len() as u64);
        }
    }

    fn forget_nameless(&mut self) {
        let mut contents = std::mem::take(&mut self.contents);
        for id in self.names.values() {
            if let Some(content) = contents.remove(id) {
                self.contents.insert(*id, content);
            }
        }
        self.used_bytes = self
            .contents
            .values()
            .map(|content| content.bytes.len() as u64)
            .sum();
    }

    fn id(&self, name: &str) -> Result<u64, DiskError> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| DiskError::NotFound {
                name: name.to_owned(),
            })
    }

    fn content_mut(&mut self, name: &str) -> Result<&mut Content, DiskError> {
        let id = self.id(name)?;
        Ok(self.contents.entry(id).or_default())
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create { name, id } => {
                names.insert(name, id);
            }
            Self::Rename { from, to, id } => {
                if names.get(&from) == Some(&id) {
                    names.remove(&from);
                }
                // Where an earlier rename of the same file was lost, its old name must not stay as a second one.
                names.retain(|_, other| *other != id);
                names.insert(to, id);
            }
            Self::Remove { name } => {
                names.remove(&name);
            }
        }
    }
}

impl Content {
    fn crash(&mut self, unsynced: Unsynced, holes_ppm: u32, rng: &mut Rng) {
        self.doubtful = false;
        let mut undo = std::mem::take(&mut self.undo);
        let kept = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => undo.len(),
            Unsynced::Random => rng.index(undo.len() + 1).unwrap_or(0),
            Unsynced::Torn { octets } => return self.tear(undo, octets),
        };
        while undo.len() > kept {
            let Some(step) = undo.pop() else { break };
            let torn = undo.len() == kept && unsynced == Unsynced::Random;
            match step {
                Undo::Truncate { tail } => self.bytes.extend_from_slice(&tail),
                Undo::Append { length } if torn => {
                    let more = self.bytes.len() - length;
                    self.bytes
                        .truncate(length + rng.index(more + 1).unwrap_or(0));
                }
                Undo::Append { length } => self.bytes.truncate(length),
            }
        }
        if unsynced == Unsynced::Random && holes_ppm > 0 {
            self.punch(&undo, holes_ppm, rng);
        }
    }

    /// Keeps all truncations and the first `octets` of the appends.
    fn tear(&mut self, undo: Vec<Undo>, octets: u64) {
        let mut first = self.bytes.len();
        for step in undo.iter().rev() {
            if let Undo::Append { length } = step {
                first = first.min(*length);
            }
        }
        let kept = usize::try_from(octets).unwrap_or(usize::MAX);
        self.bytes.truncate(first.saturating_add(kept));
    }

    /// Zeroes a stretch of what was appended and not synced.
    fn punch(&mut self, appended: &[Undo], holes_ppm: u32, rng: &mut Rng) {
        let first = appended.iter().filter_map(|step| match step {
            Undo::Append { length } => Some(*length),
            Undo::Truncate { .. } => None,
        });
        let Some(first) = first.min() else { return };
        if first >= self.bytes.len() || !rng.chance(holes_ppm) {
            return;
        }
        let width = self.bytes.len() - first;
        let from = first + rng.index(width).unwrap_or(0);
        let to = from + 1 + rng.index(self.bytes.len() - from).unwrap_or(0);
        self.bytes[from..to].fill(0);
    }
}
