//! Reads what is kept of an endpoint's output.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::UNIX_EPOCH,
};

use super::{MOMENT_BYTES, NEW, NEW_TIMES, OLD, OLD_TIMES};

/// How far somebody has read the output of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCursor {
    /// The number of the file that was read last; zero for none.
    pub file: u64,
    /// How far that was read, in octets.
    pub offset: u64,
}

/// Output that was written at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// When, in milliseconds since 1970; `None` where that was not noted.
    pub at_unix_ms: Option<u64>,
    /// Where it begins.
    pub from: OutputCursor,
    /// What.
    pub octets: Vec<u8>,
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

/// Reads what is kept in `folder` beyond `cursor`, and moves that on.
pub(crate) fn read_on(folder: &Path, cursor: &mut OutputCursor) -> io::Result<Vec<Written>> {
    for _ in 0..ATTEMPTS {
        let (Some(new), old) = (open(folder, NEW)?, open(folder, OLD)?) else {
            // Not begun, gone, or about to be turned over.
            return Ok(Vec::new());
        };
        let (number, turned) = (number_of(&new)?, old.as_ref().map(number_of).transpose()?);
        if turned == Some(number) {
            continue;
        }
        let mut written = Vec::new();
        if cursor.file != number
            && let Some(old) = old
        {
            let known = turned == Some(cursor.file);
            let from = if known { cursor.offset } else { 0 };
            part(folder, OLD_TIMES, old, from, &mut written)?;
        }
        let from = if cursor.file == number {
            cursor.offset
        } else {
            0
        };
        let offset = part(folder, NEW_TIMES, new, from, &mut written)?;
        // Turned over in the middle, the times may be those of another file.
        if open(folder, NEW)?.as_ref().map(number_of).transpose()? == Some(number) {
            let file = number;
            *cursor = OutputCursor { file, offset };
            return Ok(written);
        }
    }
    Ok(Vec::new())
}

/// Reads a file from an offset on; returns where it ends.
fn part(
    folder: &Path,
    times: &str,
    mut file: File,
    from: u64,
    written: &mut Vec<Written>,
) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let moments = match fs::read(folder.join(times)) {
        Ok(moments) => moments,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let number = number_of(&file)?;
    let mut at = from;
    let mut now = None;
    let mut rest = octets.as_slice();
    let mut push = |now, offset, octets: &[u8]| {
        if !octets.is_empty() {
            written.push(Written {
                at_unix_ms: now,
                from: OutputCursor {
                    file: number,
                    offset,
                },
                octets: octets.to_owned(),
            });
        }
    };
    let size = usize::try_from(MOMENT_BYTES).expect("sixteen fits");
    for moment in moments.chunks_exact(size) {
        let (offset, time) = moment.split_at(8);
        let value = |octets: &[u8]| octets.try_into().map_or(0, u64::from_le_bytes);
        let (offset, time) = (value(offset), value(time));
        let ahead = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
        let (before, after) = rest.split_at(ahead.min(rest.len()));
        push(now, at, before);
        (at, rest, now) = (at.max(offset), after, Some(time));
    }
    push(now, at, rest);
    Ok(from + u64::try_from(octets.len()).unwrap_or_default())
}

fn open(folder: &Path, name: &str) -> io::Result<Option<File>> {
    match File::open(folder.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What tells a file from those before it: the number of one that is gone may be used again, its birthday not.
fn number_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    let born = metadata.created().ok();
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.map_or(0, |born| born.as_nanos());
    Ok(metadata.ino() ^ u64::try_from(born).unwrap_or_default())
}

/// How often a reading that was disturbed is tried; the next one makes up for it.
const ATTEMPTS: usize = 3;
