//! Reading what a disk holds after a crash, or worse.

use overlay_core::Disk;

use super::{
    Damage, Log, OpenError, StorageConfig, name_of, number_of,
    record::{self, Content, Record},
};
use crate::{Entry, HardState, Index, Restored, Snapshot};

/// Opens a disk. See [`Log::open`].
pub(super) fn open<D: Disk>(
    mut disk: D,
    config: StorageConfig,
) -> Result<(Log<D>, Restored), OpenError> {
    let names = disk.list()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut segments = Vec::with_capacity(numbers.len());
    for number in numbers {
        segments.push(Segment::read(&disk, number)?);
    }
    let first = first_of(&segments)?;
    let replay = match first {
        Some(first) => Replay::run(&segments[first..])?,
        None => Replay::default(),
    };
    let end = replay.end;
    let restored = replay.into_restored()?;
    settle(&mut disk, &segments, first.unwrap_or(0), end)?;
    let log = Log {
        disk,
        config,
        segment: end.segment,
        segment_bytes: end.segment_bytes,
        reserved_bytes: 0,
        write: end.write,
        hard_state: restored.hard_state().cloned(),
        written_bytes: 0,
        failed: false,
    };
    Ok((log, restored))
}

/// One file, read as far as its records are whole.
struct Segment {
    number: u64,
    bytes: Vec<u8>,
    /// With the offset at which each begins.
    records: Vec<(usize, Record)>,
    /// What stopped the reading before the end of the file, and where.
    damage: Option<(usize, Damage)>,
}

impl Segment {
    fn read(disk: &impl Disk, number: u64) -> Result<Self, OpenError> {
        let bytes = disk.read(&name_of(number))?;
        let (mut records, mut offset, mut damage) = (Vec::new(), 0, None);
        while offset < bytes.len() {
            match record::decode(number, &bytes[offset..]) {
                Ok(record) => {
                    let length = record.length;
                    records.push((offset, record));
                    offset += length;
                }
                Err(found) => {
                    damage = Some((offset, found));
                    break;
                }
            }
        }
        Ok(Self {
            number,
            bytes,
            records,
            damage,
        })
    }

    /// Returns whether it begins with a whole write that replaces everything before it.
    fn is_fresh_start(&self) -> bool {
        let Some((_, first)) = self.records.first() else {
            return false;
        };
        matches!(first.content, Content::Snapshot(_))
            && self
                .records
                .iter()
                .take_while(|(_, record)| record.write == first.write)
                .any(|(_, record)| record.last)
    }

    /// Returns whether a whole record of a write after `write` is to be found behind `offset`, at whatever position.
    fn holds_later_write(&self, offset: usize, write: u64) -> bool {
        let left = self.bytes.len().saturating_sub(offset);
        let last = write.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        (offset..self.bytes.len())
            .any(|at| record::is_of_write(self.number, &self.bytes[at..], write + 1..=last))
    }

    fn damaged(&self, offset: usize, damage: Damage) -> OpenError {
        OpenError::Damaged {
            file: name_of(self.number),
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            damage,
        }
    }
}

/// Returns with which segment the present state begins; `None` if nothing was ever finished.
fn first_of(segments: &[Segment]) -> Result<Option<usize>, OpenError> {
    if let Some(first) = segments.iter().rposition(Segment::is_fresh_start) {
        return Ok(Some(first));
    }
    let Some(oldest) = segments.first() else {
        return Ok(None);
    };
    if let Some((_, first)) = oldest.records.first()
        && !matches!(first.content, Content::Snapshot(_))
    {
        return Err(OpenError::Missing {
            file: name_of(oldest.number.saturating_sub(1)),
        });
    }
    // Segments are only removed when a later one is durable. So this is the very first write of all, torn: or else the
    // beginning of the present state is gone.
    let (offset, damage) = oldest
        .damage
        .unwrap_or((oldest.bytes.len(), Damage::Unfinished { write: 1 }));
    if segments.len() > 1 || oldest.number > 1 || oldest.holds_later_write(offset, 1) {
        return Err(oldest.damaged(offset, damage));
    }
    if matches!(damage, Damage::Unknown { .. } | Damage::Malformed { .. }) {
        return Err(oldest.damaged(offset, damage));
    }
    Ok(None)
}

/// Makes the disk hold, durably, what was read and nothing else.
///
/// The last segment is written anew, without its torn tail: a process that was killed, or a sync that failed, leaves
/// octets that can be read and are not on the disk, and no later sync of that file proves that they are.
fn settle(
    disk: &mut impl Disk,
    segments: &[Segment],
    first: usize,
    end: End,
) -> Result<(), OpenError> {
    if disk.list()?.iter().any(|name| name == REWRITTEN) {
        disk.remove(REWRITTEN)?;
    }
    for (position, segment) in segments.iter().enumerate() {
        let name = name_of(segment.number);
        if segment.number == end.segment {
            let whole = usize::try_from(end.segment_bytes).unwrap_or(usize::MAX);
            disk.append(REWRITTEN, &segment.bytes[..whole.min(segment.bytes.len())])?;
            disk.sync(REWRITTEN)?;
            disk.rename(REWRITTEN, &name)?;
            disk.sync_directory()?;
        }
        if segment.number > end.segment {
            disk.remove(&name)?;
        }
        // Only after the segment that replaces them is durable.
        if segment.number == end.segment {
            for older in &segments[..first.min(position)] {
                disk.remove(&name_of(older.number))?;
            }
        }
    }
    disk.sync_directory()?;
    Ok(())
}

/// The state that the writes add up to.
#[derive(Default)]
struct Replay {
    snapshot: Option<Snapshot>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    end: End,
}

/// Where the last whole write ended; zeroes before the first.
#[derive(Clone, Copy, Default)]
struct End {
    segment: u64,
    segment_bytes: u64,
    write: u64,
}

impl Replay {
    fn run(segments: &[Segment]) -> Result<Self, OpenError> {
        let mut replay = Self::default();
        for (position, segment) in segments.iter().enumerate() {
            if let Some(before) = position.checked_sub(1).and_then(|at| segments.get(at))
                && segment.number != before.number + 1
            {
                return Err(OpenError::Missing {
                    file: name_of(before.number + 1),
                });
            }
            let is_last = position + 1 == segments.len();
            replay.read(segment, is_last)?;
        }
        Ok(replay)
    }

    /// Applies the whole writes of one segment. Only the last segment may end with a torn one, or with room.
    fn read(&mut self, segment: &Segment, is_last: bool) -> Result<(), OpenError> {
        let mut begin = 0;
        let mut whole = 0;
        for (position, (offset, record)) in segment.records.iter().enumerate() {
            let expected = if self.end.segment == 0 {
                record.write
            } else {
                self.end.write + 1
            };
            if record.write != expected {
                let damage = if position > begin {
                    Damage::Unfinished { write: expected }
                } else {
                    Damage::OutOfOrder {
                        expected,
                        found: record.write,
                    }
                };
                if *offset == 0 && record.write > expected {
                    return Err(self.lost_end(damage));
                }
                return Err(segment.damaged(*offset, damage));
            }
            if record.last {
                for (_, part) in &segment.records[begin..=position] {
                    self.apply(part);
                }
                begin = position + 1;
                whole = offset + record.length;
                self.end.write = record.write;
                self.end.segment = segment.number;
                self.end.segment_bytes = u64::try_from(whole).unwrap_or(u64::MAX);
            }
        }
        if whole == segment.bytes.len() && whole > 0 {
            return Ok(());
        }
        self.judge_tail(segment, is_last)
    }

    /// What is missing before the first write of a segment was at the end of the segment before.
    fn lost_end(&self, damage: Damage) -> OpenError {
        OpenError::Damaged {
            file: name_of(self.end.segment),
            offset: self.end.segment_bytes,
            damage,
        }
    }

    /// Tells a torn tail, which is cut, and room that was not used, from damage, which is refused.
    fn judge_tail(&self, segment: &Segment, is_last: bool) -> Result<(), OpenError> {
        let (offset, damage) = segment.damage.unwrap_or((
            segment.bytes.len(),
            Damage::Unfinished {
                write: self.end.write + 1,
            },
        ));
        // A checksum that fits proves that the record was written like this: no crash makes that.
        let foreign = matches!(damage, Damage::Unknown { .. } | Damage::Malformed { .. });
        if foreign || !is_last || segment.holds_later_write(offset, self.end.write + 1) {
            return Err(segment.damaged(offset, damage));
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record) {
        if let (Some(commit), Some(state)) = (record.commit, &mut self.hard_state) {
            state.commit = commit;
        }
        match &record.content {
            Content::Snapshot(snapshot) => {
                self.snapshot = Some(snapshot.clone());
                self.entries.clear();
            }
            Content::Truncate(index) => self.truncate_from(*index),
            Content::Entry(entry) => self.entries.push(entry.clone()),
            Content::HardState(state) => self.hard_state = Some(state.clone()),
        }
    }

    fn truncate_from(&mut self, index: Index) {
        let keep = self.entries.partition_point(|entry| entry.index < index);
        self.entries.truncate(keep);
    }

    fn into_restored(self) -> Result<Restored, OpenError> {
        let (Some(snapshot), Some(hard_state)) = (self.snapshot, self.hard_state) else {
            return Ok(Restored::empty());
        };
        Restored::check(hard_state, snapshot, self.entries).map_err(|reason| {
            OpenError::Inconsistent {
                file: name_of(self.end.segment),
                reason,
            }
        })
    }
}

/// Where the last segment is written anew before it takes the place of the old one.
const REWRITTEN: &str = "segment-rewritten";
