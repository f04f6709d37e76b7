use super::*;
use crate::SimDisk;

#[test]
fn the_disk_in_memory_keeps_it() {
    let summary = assert_holds("the_disk_in_memory_keeps_it", 300, |seed| Planted {
        fault: None,
        disk: SimDisk::new(seed),
    });
    assert!(summary.power_cuts > 100 && summary.openings > summary.power_cuts);
    assert!(summary.operations > 10_000 && summary.appended_bytes > 100_000);
}

#[test]
fn every_planted_fault_is_found() {
    for fault in FAULTS {
        let found = (0..100).find_map(|number| {
            let seed = Seed::from_u64(number);
            let disk = SimDisk::new(&seed);
            let subject = Planted {
                fault: Some(fault),
                disk,
            };
            check(&seed, subject).err()
        });
        assert!(found.is_some(), "{fault:?} was not found");
    }
}

/// What a disk may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    SyncsNothing,
    SyncsNoDirectory,
    SyncsOnlyWhatIsLong,
    ListsBackwards,
    ReadsWhatIsNotThere,
    CutsNothing,
    ProlongsWhatItCuts,
    LosesAnOctet,
    AppendsWhatIsRenamed,
    KeepsWhatIsRemoved,
    RemovesWhatIsNotThere,
    ShowsRoom,
    ForgetsNamesOfRoom,
}

const FAULTS: [Fault; 13] = [
    Fault::SyncsNothing,
    Fault::SyncsNoDirectory,
    Fault::SyncsOnlyWhatIsLong,
    Fault::ListsBackwards,
    Fault::ReadsWhatIsNotThere,
    Fault::CutsNothing,
    Fault::ProlongsWhatItCuts,
    Fault::LosesAnOctet,
    Fault::AppendsWhatIsRenamed,
    Fault::KeepsWhatIsRemoved,
    Fault::RemovesWhatIsNotThere,
    Fault::ShowsRoom,
    Fault::ForgetsNamesOfRoom,
];

/// A disk with one fault, or none.
#[derive(Clone)]
struct Planted {
    fault: Option<Fault>,
    disk: SimDisk,
}

impl Planted {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

impl Subject for Planted {
    type Disk = Self;

    fn open(&mut self) -> Self {
        self.disk.kill();
        self.clone()
    }

    fn cut_power(&mut self, _rng: &mut Rng) -> bool {
        self.disk.crash();
        true
    }
}

impl Disk for Planted {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.disk.list()?;
        if self.has(Fault::ListsBackwards) {
            names.reverse();
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        match self.disk.read(name) {
            Err(_) if self.has(Fault::ReadsWhatIsNotThere) => Ok(Vec::new()),
            read => read,
        }
    }

    fn reserve(&mut self, name: &str, length_bytes: u64) {
        if self.has(Fault::ShowsRoom) {
            let room = usize::try_from(length_bytes).unwrap_or(0);
            let _ = self.disk.append(name, &vec![0; room]);
        } else if self.has(Fault::ForgetsNamesOfRoom) {
            let _ = self.disk.remove(name);
        } else {
            self.disk.reserve(name, length_bytes);
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let less = usize::from(self.has(Fault::LosesAnOctet) && bytes.len() > 250);
        self.disk.append(name, &bytes[less..])
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let length = self.disk.read(name)?.len() as u64;
        if self.has(Fault::ProlongsWhatItCuts) && length < length_bytes {
            let more = usize::try_from(length_bytes - length).unwrap_or(0);
            self.disk.append(name, &vec![0; more])?;
        }
        if self.has(Fault::CutsNothing) {
            return Ok(());
        }
        self.disk.truncate(name, length_bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let length = self.disk.read(name)?.len();
        let is_skipped = self.has(Fault::SyncsNothing)
            || (self.has(Fault::SyncsOnlyWhatIsLong) && length < 4_096);
        if is_skipped {
            return Ok(());
        }
        self.disk.sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        if self.has(Fault::AppendsWhatIsRenamed) && from != to {
            let bytes = self.disk.read(from)?;
            self.disk.append(to, &bytes)?;
            return self.disk.remove(from);
        }
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        if self.has(Fault::KeepsWhatIsRemoved) {
            return self.disk.truncate(name, 0);
        }
        match self.disk.remove(name) {
            Err(_) if self.has(Fault::RemovesWhatIsNotThere) => Ok(()),
            removed => removed,
        }
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        if self.has(Fault::SyncsNoDirectory) {
            return Ok(());
        }
        self.disk.sync_directory()
    }
}
