//! A disk in memory that forgets what was not synced.

use std::{
    fmt,
    io::ErrorKind,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use overlay_core::{Disk, DiskError, Rng, Seed};

use files::Files;

mod files;
#[cfg(test)]
mod tests;

/// A disk with honest crash semantics; clones are handles to the same disk.
///
/// * Appends and truncations last once [`sync`](Disk::sync) returned. A crash keeps a prefix of the later ones, the last
///   append of it torn at any octet.
/// * Creations, renames and removals last once [`sync_directory`](Disk::sync_directory) returned. A crash keeps any
///   subset of the later ones. Renames are atomic.
/// * Room that was made ([`reserve`](Disk::reserve)) holds zeros, or what was in the file that was removed last, once the
///   disk is used again after a crash or a kill.
/// * A sync that failed leaves its file in doubt until the next crash: later syncs succeed and prove nothing.
///
/// Each call of [`sync`](Disk::sync) and [`sync_directory`](Disk::sync_directory) is a *sync point*.
/// [`crash_at_sync`](Self::crash_at_sync) takes the power away at one of them. Inside a
/// [`World`](crate::World) the code of the host stops right there and the host is down; anywhere else the call and all
/// later ones fail until [`crash`](Self::crash).
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Set while a world runs a host's code: then power loss unwinds it.
    running: AtomicBool,
}

struct State {
    files: Files,
    rng: Rng,
    /// Power is gone; everything fails until the crash is carried out.
    down: bool,
    sync_points: u64,
    crash_point: Option<(u64, CrashPoint)>,
    append_errors: Injection,
    sync_errors: Injection,
    lying: bool,
    capacity_bytes: u64,
    injected_append_errors: u64,
    injected_sync_errors: u64,
}

/// Which operation fails.
#[derive(Default)]
struct Injection {
    /// The n-th from now, counted down.
    countdown: Option<u64>,
    parts_per_million: u32,
}

impl Injection {
    fn strikes(&mut self, rng: &mut Rng) -> bool {
        if let Some(left) = self.countdown {
            self.countdown = (left > 1).then(|| left - 1);
            if left <= 1 {
                return true;
            }
        }
        self.parts_per_million > 0 && rng.chance(self.parts_per_million)
    }
}

/// On which side of a sync point the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashPoint {
    /// Before the sync had any effect.
    Before,
    /// After it had its whole effect, but before the caller learned that.
    After,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unsynced {
    /// Chance decides, file by file and octet by octet.
    Random,
    /// Nothing.
    Lost,
    /// Everything: the system wrote it back just in time.
    Kept,
    /// Directory changes are kept, and of each file so many octets of unsynced appends.
    Torn {
        /// The octets that are kept.
        octets: u64,
    },
}

/// Payload of the unwinding by which a host stops at a crash point.
pub(crate) struct PowerLoss;

impl SimDisk {
    /// Makes an empty disk.
    pub fn new(seed: &Seed) -> Self {
        let state = State {
            files: Files::default(),
            rng: seed.derive("disk").rng(),
            down: false,
            sync_points: 0,
            crash_point: None,
            append_errors: Injection::default(),
            sync_errors: Injection::default(),
            lying: false,
            capacity_bytes: u64::MAX,
            injected_append_errors: 0,
            injected_sync_errors: 0,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                running: AtomicBool::new(false),
            }),
        }
    }

    /// Takes the power away for a moment: unsynced work is lost or torn at random, then the disk is there again.
    ///
    /// Forgets a [`crash_at_sync`](Self::crash_at_sync) that did not strike yet.
    pub fn crash(&self) {
        self.crash_with(Unsynced::Random);
    }

    /// As [`crash`](Self::crash), with a chosen outcome.
    pub fn crash_with(&self, unsynced: Unsynced) {
        let state = &mut *self.lock();
        state.files.crash(unsynced, &mut state.rng);
        state.down = false;
        state.crash_point = None;
    }

    /// Ends the process that used the disk; the system lives on, and so does what was written and not synced.
    ///
    /// Only files in doubt show what the disk really holds. A later crash can still lose the rest, so the next process
    /// must sync what it builds upon.
    pub fn kill(&self) {
        let state = &mut *self.lock();
        state.files.settle_doubts(&mut state.rng);
        state.down = false;
    }

    /// Keeps destructors from writing what a dead process could not have written.
    pub(crate) fn power_off(&self) {
        self.lock().down = true;
    }

    /// Takes the power away at the `nth` sync point from now, the next one being 1; 0 disarms.
    pub fn crash_at_sync(&self, nth: u64, side: CrashPoint) {
        let mut state = self.lock();
        state.crash_point = (nth > 0).then(|| (state.sync_points + nth, side));
    }

    /// Returns how many sync points there were, crashed and failed ones included.
    pub fn sync_points(&self) -> u64 {
        self.lock().sync_points
    }

    /// Returns whether the power went at a crash point and [`crash`](Self::crash) did not follow yet.
    pub fn is_down(&self) -> bool {
        self.lock().down
    }

    /// Returns whether a [`crash_at_sync`](Self::crash_at_sync) has yet to strike.
    pub fn is_armed(&self) -> bool {
        self.lock().crash_point.is_some()
    }

    /// Makes the `nth` append from now fail, the next one being 1; 0 disarms. A part of it may be written.
    pub fn fail_append(&self, nth: u64) {
        self.lock().append_errors.countdown = (nth > 0).then_some(nth);
    }

    /// Makes the `nth` sync point from now fail, the next one being 1; 0 disarms.
    pub fn fail_sync(&self, nth: u64) {
        self.lock().sync_errors.countdown = (nth > 0).then_some(nth);
    }

    /// Makes appends and syncs fail by chance, in parts of a million.
    pub fn set_error_rates(&self, append_ppm: u32, sync_ppm: u32) {
        let mut state = self.lock();
        state.append_errors.parts_per_million = append_ppm;
        state.sync_errors.parts_per_million = sync_ppm;
    }

    /// Makes syncs lie: they return success and make nothing durable. No log survives that; some detect it.
    pub fn set_lying(&self, lying: bool) {
        self.lock().lying = lying;
    }

    /// Sets how many octets the files may have together; appends beyond that fail with `StorageFull`.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Sets the chance, in parts of a million, that a crash zeroes a part of an unsynced append that it keeps.
    ///
    /// Real file systems write pages back in any order, so that a later page may survive an earlier one. Default 0.
    pub fn set_holes(&self, parts_per_million: u32) {
        self.lock().files.holes_ppm = parts_per_million;
    }

    /// Flips one bit of a file, durably: damage that checksums have to find. Returns `false` if there is no such octet.
    pub fn flip_bit(&self, name: &str, at: usize, bit: u8) -> bool {
        self.edit(name, |bytes| match bytes.get_mut(at) {
            Some(octet) => {
                *octet ^= 1 << (bit % 8);
                true
            }
            None => false,
        })
        .unwrap_or(false)
    }

    /// Changes the content of a file, durably and behind its owner's back. `None` if there is no such file.
    pub fn edit<R>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
        self.lock().files.edit(name, change)
    }

    /// Makes everything durable and returns an independent copy: a backup, or a cloned machine.
    pub fn copy(&self, seed: &Seed) -> Self {
        let copy = Self::new(seed);
        let mut files = self.lock().files.clone();
        files.sync_all();
        copy.lock().files = files;
        copy
    }

    /// Removes everything, durably: a new disk under an old name.
    pub fn wipe(&self) {
        self.lock().files = Files::default();
    }

    /// Returns the octets of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.lock().files.used_bytes()
    }

    /// Returns how many appends and how many syncs were made to fail.
    pub fn injected_errors(&self) -> (u64, u64) {
        let state = self.lock();
        (state.injected_append_errors, state.injected_sync_errors)
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.shared.running.store(running, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation on a disk that has power; stops the host's code where it has not, or loses it.
    fn operate<R>(
        &self,
        operation: &'static str,
        name: &str,
        run: impl FnOnce(&mut State) -> Result<R, DiskError>,
    ) -> Result<R, DiskError> {
        let (result, down) = {
            let mut state = self.lock();
            let result = if state.down {
                Err(failed(operation, name, ErrorKind::NotConnected))
            } else {
                run(&mut state)
            };
            (result, state.down)
        };
        if down && self.shared.running.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new(PowerLoss));
        }
        result
    }

    fn sync_point(
        &self,
        operation: &'static str,
        name: &str,
        carry_out: impl Fn(&mut Files, bool) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.operate(operation, name, |state| {
            state.sync_points += 1;
            let crash = state
                .crash_point
                .filter(|(point, _)| *point == state.sync_points);
            if let Some((_, side)) = crash {
                state.down = true;
                if side == CrashPoint::After {
                    carry_out(&mut state.files, true)?;
                }
                return Err(failed(operation, name, ErrorKind::NotConnected));
            }
            if state.sync_errors.strikes(&mut state.rng) {
                state.injected_sync_errors += 1;
                carry_out(&mut state.files, false)?;
                return Err(failed(operation, name, ErrorKind::Other));
            }
            if state.lying {
                return Ok(());
            }
            carry_out(&mut state.files, true)
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimDisk")
            .field("files", &state.files.list())
            .field("sync_points", &state.sync_points)
            .field("down", &state.down)
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.operate("list", "", |state| Ok(state.files.list()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        self.operate("read", name, |state| state.files.read(name))
    }

    fn reserve(&mut self, name: &str, length_bytes: u64) {
        // What fails here shows later.
        let _ = self.operate("reserve", name, |state| {
            check_name("reserve", name)?;
            let used = state.files.used_bytes();
            if length_bytes <= state.capacity_bytes.saturating_sub(used) {
                state.files.reserve(name, length_bytes);
            }
            Ok(())
        });
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.operate("append", name, |state| {
            check_name("append", name)?;
            let free = state
                .capacity_bytes
                .saturating_sub(state.files.used_bytes());
            let fits = usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len());
            if state.append_errors.strikes(&mut state.rng) {
                state.injected_append_errors += 1;
                let written = state.rng.index(fits + 1).unwrap_or(0);
                state.files.append(name, &bytes[..written]);
                return Err(failed("append", name, ErrorKind::Other));
            }
            state.files.append(name, &bytes[..fits]);
            if fits < bytes.len() {
                return Err(failed("append", name, ErrorKind::StorageFull));
            }
            Ok(())
        })
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        self.operate("truncate", name, |state| {
            state.files.truncate(name, length_bytes)
        })
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        self.sync_point("sync", name, |files, success| files.sync(name, success))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.operate("rename", from, |state| {
            check_name("rename", to)?;
            state.files.rename(from, to)
        })
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.operate("remove", name, |state| state.files.remove(name))
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        self.sync_point("sync_directory", "", |files, success| {
            files.sync_directory(success);
            Ok(())
        })
    }
}

/// Names with anything but letters, digits, `-`, `_` and `.` are refused, as the contract of [`Disk`] has it.
fn check_name(operation: &'static str, name: &str) -> Result<(), DiskError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(plain) {
        return Err(failed(operation, name, ErrorKind::InvalidInput));
    }
    Ok(())
}

fn failed(operation: &'static str, name: &str, kind: ErrorKind) -> DiskError {
    DiskError::Failed {
        operation,
        name: name.to_owned(),
        kind,
    }
}
