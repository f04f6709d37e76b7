//! Checks that a disk keeps the contract of [`Disk`], for whoever implements one.
//!
//! A test implements [`Subject`] and calls [`assert_holds`]. For each seed the checker does random things with the disk and
//! with a model of it, compares what they say, and opens the disk again at random moments, often with the power cut before:
//!
//! | what | what must hold |
//! |---|---|
//! | every operation | succeeds where the model's does; a file that is not there is [`DiskError::NotFound`] |
//! | [`list`](Disk::list), [`read`](Disk::read) | the names sorted, and every octet, of all that was done so far |
//! | [`reserve`](Disk::reserve) | changes neither content nor length as long as the disk is open |
//! | opened again | a name that was synced with its directory and not touched since is there, and one that was removed is not; a name that was touched is what it was or became at some time; a replaced file is one or the other, whole |
//! | the content then | begins with what was synced and not cut off since; what follows was appended, or is zero where it was lost, and is no longer than what was there (but in files that were given room) |
//!
//! Whatever an ended process or a cut of the power leaves is synced, taken for known, and gone on with.
//!
//! What no checker can see from outside: a disk that syncs later than it says, as long as the power stays. So where the power
//! cannot be cut in a test, [`Subject::cut_power`] says so, and one line of the table is only half checked.
//!
//! # Example
//!
//! ```
//! use overlay_core::{Rng, Seed};
//! use overlay_sim::{SimDisk, disk_contract::{self, Subject}};
//!
//! struct InMemory(SimDisk);
//!
//! impl Subject for InMemory {
//!     type Disk = SimDisk;
//!     fn open(&mut self) -> SimDisk {
//!         self.0.kill(); // the process that had it is gone
//!         self.0.clone()
//!     }
//!     fn cut_power(&mut self, _rng: &mut Rng) -> bool { self.0.crash(); true }
//! }
//!
//! disk_contract::assert_holds("disk_keeps_the_contract", 20, |seed| InMemory(SimDisk::new(seed)));
//! ```

use overlay_core::{Disk, DiskError, Rng, Seed};
use thiserror::Error;

use crate::runner;
use model::Model;

mod model;
#[cfg(test)]
mod tests;

/// How the checker gets at one kind of disk.
pub trait Subject {
    /// The disk.
    type Disk: Disk;

    /// Opens the disk: empty the first time, later with what is left. The one before was dropped.
    fn open(&mut self) -> Self::Disk;

    /// Takes the power away, while the disk is not open; `false` if this subject cannot. Default: it cannot.
    fn cut_power(&mut self, rng: &mut Rng) -> bool {
        let _ = rng;
        false
    }
}

/// A disk broke its contract.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("contract of a disk broken by step {step}, {operation}: {detail}")]
pub struct Violation {
    /// At which step.
    pub step: usize,
    /// What was done.
    pub operation: String,
    /// What was expected and what was found.
    pub detail: String,
}

/// What a check did, so that a test can require that it did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Operations that were compared with the model's.
    pub operations: u64,
    /// How often the disk was opened again.
    pub openings: u64,
    /// How often the power was cut before.
    pub power_cuts: u64,
    /// Octets that were appended.
    pub appended_bytes: u64,
}

/// Checks a disk with `seeds` seeds; `name` is the path of the test, for the replay.
///
/// # Panics
///
/// With the [`Violation`] and the command that replays its seed.
#[expect(clippy::panic, reason = "a failed check panics")]
pub fn assert_holds<S: Subject>(
    name: &str,
    seeds: u64,
    mut subject: impl FnMut(&Seed) -> S,
) -> Summary {
    let mut sum = Summary::default();
    runner::seeds(name, seeds, |number| {
        let seed = Seed::from_u64(number);
        match check(&seed, subject(&seed)) {
            Ok(summary) => {
                sum.operations += summary.operations;
                sum.openings += summary.openings;
                sum.power_cuts += summary.power_cuts;
                sum.appended_bytes += summary.appended_bytes;
            }
            Err(violation) => panic!("{violation}"),
        }
    });
    sum
}

/// Checks a disk with one seed: 400 operations, some ten openings.
///
/// # Errors
///
/// The first [`Violation`] found.
pub fn check<S: Subject>(seed: &Seed, mut subject: S) -> Result<Summary, Violation> {
    let mut rng = seed.derive("disk contract").rng();
    let (mut model, mut summary) = (Model::default(), Summary::default());
    let mut disk = subject.open();
    for step in 0..STEPS {
        let again = rng.chance(OPENED_PPM);
        let operation = Operation::draw(&mut rng, &model);
        let (words, done) = if again {
            drop(disk);
            let cut = rng.chance(500_000) && subject.cut_power(&mut rng);
            disk = subject.open();
            summary.openings += 1;
            summary.power_cuts += u64::from(cut);
            let words = if cut {
                "opened after a cut of the power"
            } else {
                "opened again"
            };
            (words.to_owned(), model.adopt(&mut disk))
        } else {
            summary.operations += 1;
            let done = operation.carry_out(&mut disk, &mut model, &mut summary);
            (format!("{operation:?}"), done)
        };
        let compared = done.and_then(|()| model.compare(&disk, operation.file(), &mut rng));
        compared.map_err(|detail| Violation {
            step,
            operation: words,
            detail,
        })?;
    }
    Ok(summary)
}

/// What is done with a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Operation {
    Append {
        name: String,
        length: usize,
        octet: u8,
    },
    Reserve {
        name: String,
        more: u64,
    },
    Truncate {
        name: String,
        length: u64,
    },
    Sync {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncDirectory,
}

impl Operation {
    fn draw(rng: &mut Rng, model: &Model) -> Self {
        let mut name = || NAMES[rng.index(NAMES.len()).unwrap_or(0)].to_owned();
        let (name, to) = (name(), name());
        match rng.below(100) {
            0..40 => {
                let most = if rng.chance(50_000) { 20_000 } else { 300 };
                let length = rng.index(most).unwrap_or(0);
                // No zero, so that what was lost can be told from it.
                let octet = u8::try_from(1 + rng.below(255)).unwrap_or(1);
                Self::Append {
                    name,
                    length,
                    octet,
                }
            }
            40..48 => Self::Reserve {
                name,
                more: rng.below(2_000),
            },
            48..56 => {
                let most = model.length(&name) + 10;
                Self::Truncate {
                    name,
                    length: rng.below(most),
                }
            }
            56..76 => Self::Sync { name },
            76..84 => Self::Rename { from: name, to },
            84..90 => Self::Remove { name },
            _ => Self::SyncDirectory,
        }
    }

    /// Returns whose content it is about.
    fn file(&self) -> Option<&str> {
        match self {
            Self::Append { name, .. }
            | Self::Reserve { name, .. }
            | Self::Truncate { name, .. } => Some(name),
            Self::Rename { to, .. } => Some(to),
            Self::Sync { .. } | Self::Remove { .. } | Self::SyncDirectory => None,
        }
    }

    /// Does it with the disk and the model; the error says in what they differ.
    fn carry_out(
        &self,
        disk: &mut impl Disk,
        model: &mut Model,
        summary: &mut Summary,
    ) -> Result<(), String> {
        match self {
            Self::Append {
                name,
                length,
                octet,
            } => {
                let bytes = vec![*octet; *length];
                model.append(name, &bytes);
                summary.appended_bytes += bytes.len() as u64;
                said(disk.append(name, &bytes), true, "")
            }
            Self::Reserve { name, more } => {
                let length = model.length(name) + more;
                disk.reserve(name, length);
                model.reserve(name, disk.list().map_err(|error| error.to_string())?)
            }
            Self::Truncate { name, length } => said(
                disk.truncate(name, *length),
                model.truncate(name, *length),
                name,
            ),
            Self::Sync { name } => said(disk.sync(name), model.sync(name), name),
            Self::Rename { from, to } => said(disk.rename(from, to), model.rename(from, to), from),
            Self::Remove { name } => said(disk.remove(name), model.remove(name), name),
            Self::SyncDirectory => {
                model.sync_directory();
                said(disk.sync_directory(), true, "")
            }
        }
    }
}

/// Compares what a disk said with what it should have said: success, or that `name` is not there.
fn said(found: Result<(), DiskError>, succeeds: bool, name: &str) -> Result<(), String> {
    match found {
        Ok(()) if succeeds => Ok(()),
        Ok(()) => Err(format!("it succeeded, and there is no file {name:?}")),
        Err(error) if succeeds => Err(format!("it failed: {error}")),
        Err(DiskError::NotFound { name: said }) if said == name => Ok(()),
        Err(error) => Err(format!("there is no file {name:?}, and it said {error:?}")),
    }
}

const STEPS: usize = 400;
const OPENED_PPM: u32 = 30_000;

/// Few, so that they meet.
const NAMES: [&str; 5] = ["a", "b", "segment-1", "C.d_e", "0"];
