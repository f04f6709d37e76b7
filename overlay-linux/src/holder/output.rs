//! The newest output of an endpoint's programs, in two files of bounded size, and beside each when it was written.
//!
//! The times are sixteen octets for each moment at which something was written: the offset in the file from which on it
//! holds, and milliseconds since 1970, both little endian.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

mod reading;

pub use reading::{OutputCursor, Written};
pub(crate) use reading::{read, read_on};

/// Where output goes: the current file, and the one before it.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    file: File,
    written_bytes: u64,
    file_bytes_max: u64,
    times: Times,
}

/// When the current file was written.
#[derive(Debug)]
struct Times {
    file: File,
    count: u64,
    last_unix_ms: u64,
}

impl Output {
    /// Opens (or goes on with) the output in `folder`, of which the newest `bytes_max / 2` octets at least are kept.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = append_to(&folder.join(NEW))?;
        let written_bytes = file.metadata()?.len();
        Ok(Self {
            folder: folder.to_owned(),
            file,
            written_bytes,
            file_bytes_max: (bytes_max / 2).max(1),
            times: Times::open(folder)?,
        })
    }

    /// Adds output. Where the disk is full it is lost, rather than the program stopped.
    #[expect(
        clippy::disallowed_methods,
        reason = "a holder is a process of its own, and output has the time at which it came"
    )]
    pub(crate) fn write(&mut self, octets: &[u8]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = since.map_or(0, |since| since.as_millis());
        self.write_at(octets, u64::try_from(unix_ms).unwrap_or(u64::MAX));
    }

    fn write_at(&mut self, mut octets: &[u8], unix_ms: u64) {
        while !octets.is_empty() {
            let room = self.file_bytes_max.saturating_sub(self.written_bytes);
            let fits = usize::try_from(room)
                .unwrap_or(usize::MAX)
                .min(octets.len());
            let (now, later) = octets.split_at(fits);
            if !now.is_empty() {
                self.times.note(self.written_bytes, unix_ms);
            }
            if self.file.write_all(now).is_err() {
                return;
            }
            self.written_bytes += u64::try_from(fits).unwrap_or_default();
            octets = later;
            if !octets.is_empty() && self.turn_over().is_err() {
                return;
            }
        }
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let current = self.folder.join(NEW);
        // The times first: who reads in between finds the output without them.
        fs::rename(self.folder.join(NEW_TIMES), self.folder.join(OLD_TIMES))?;
        fs::rename(&current, self.folder.join(OLD))?;
        self.file = append_to(&current)?;
        self.written_bytes = 0;
        self.times = Times::open(&self.folder)?;
        Ok(())
    }
}

impl Times {
    fn open(folder: &Path) -> io::Result<Self> {
        let file = append_to(&folder.join(NEW_TIMES))?;
        let count = file.metadata()?.len() / MOMENT_BYTES;
        Ok(Self {
            file,
            count,
            last_unix_ms: 0,
        })
    }

    /// Notes that what follows at `offset` is of this time. Beyond the bound the last time holds for all that follows.
    fn note(&mut self, offset: u64, unix_ms: u64) {
        if unix_ms == self.last_unix_ms || self.count >= MOMENTS_MAX {
            return;
        }
        let moment = [offset.to_le_bytes(), unix_ms.to_le_bytes()].concat();
        // Output without times is better than none.
        if self.file.write_all(&moment).is_ok() {
            self.count += 1;
            self.last_unix_ms = unix_ms;
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The file that is being written.
const NEW: &str = "output";
/// The full one before it.
const OLD: &str = "output.1";
/// When the file that is being written was.
const NEW_TIMES: &str = "output.times";
/// When the one before it was.
const OLD_TIMES: &str = "output.1.times";
const MOMENT_BYTES: u64 = 16;
/// How many moments are noted for one file: a MiB of them.
const MOMENTS_MAX: u64 = 65_536;

#[cfg(test)]
mod tests {
    use std::{env, process};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("overlay-output-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_newest_half_at_least_is_kept() {
        let folder = Folder::new("newest");
        let mut output = Output::open(&folder.0, 8).unwrap();
        for (written, kept) in [
            ("", ""),
            ("ab", "ab"),
            ("cd", "abcd"),
            ("efgh", "abcdefgh"),
            ("i", "efghi"),
            ("jklmnopqr", "mnopqr"),
        ] {
            output.write(written.as_bytes());
            assert_eq!(read(&folder.0).unwrap(), kept.as_bytes(), "after {written}");
        }
    }

    #[test]
    fn another_holder_goes_on_where_one_ended() {
        let folder = Folder::new("another");
        Output::open(&folder.0, 8).unwrap().write(b"abc");
        Output::open(&folder.0, 8).unwrap().write(b"de");
        assert_eq!(read(&folder.0).unwrap(), b"abcde");
        Output::open(&folder.0, 8).unwrap().write(b"fghi");
        assert_eq!(read(&folder.0).unwrap(), b"efghi");
    }

    fn texts(written: &[Written]) -> Vec<(Option<u64>, &str)> {
        let text = |one: &Written| std::str::from_utf8(&one.octets).unwrap().to_owned();
        let pairs = written.iter().map(|one| (one.at_unix_ms, text(one)));
        pairs.map(|(at, text)| (at, &*text.leak())).collect()
    }

    #[test]
    fn who_reads_on_gets_what_is_new_and_when_it_was_written() {
        let folder = Folder::new("times");
        let mut cursor = OutputCursor::default();
        assert_eq!(read_on(&folder.0, &mut cursor).unwrap(), []);
        let mut output = Output::open(&folder.0, 16).unwrap();
        output.write_at(b"ab", 5);
        output.write_at(b"cd", 5);
        output.write_at(b"e", 7);
        let read = read_on(&folder.0, &mut cursor).unwrap();
        assert_eq!(texts(&read), [(Some(5), "abcd"), (Some(7), "e")]);
        assert_eq!(read_on(&folder.0, &mut cursor).unwrap(), []);
        // In the middle of what was written at one time, and over into the next file.
        output.write_at(b"fghijk", 9);
        let read = read_on(&folder.0, &mut cursor).unwrap();
        assert_eq!(texts(&read), [(Some(9), "fgh"), (Some(9), "ijk")]);
        let read = read_on(&folder.0, &mut OutputCursor::default()).unwrap();
        let all = [
            (Some(5), "abcd"),
            (Some(7), "e"),
            (Some(9), "fgh"),
            (Some(9), "ijk"),
        ];
        assert_eq!(texts(&read), all);
        // Who comes too late gets what is left.
        output.write_at(b"lmnopqrstuvwxyz", 11);
        let read = read_on(&folder.0, &mut cursor).unwrap();
        assert_eq!(texts(&read), [(Some(11), "qrstuvwx"), (Some(11), "yz")]);
        // Another holder goes on with the times, too.
        Output::open(&folder.0, 16).unwrap().write_at(b"!", 13);
        let read = read_on(&folder.0, &mut cursor).unwrap();
        assert_eq!(texts(&read), [(Some(13), "!")]);
    }

    #[test]
    fn output_without_times_is_read_all_the_same() {
        let folder = Folder::new("timeless");
        Output::open(&folder.0, 8).unwrap().write_at(b"ab", 5);
        fs::remove_file(folder.0.join(NEW_TIMES)).unwrap();
        let read = read_on(&folder.0, &mut OutputCursor::default()).unwrap();
        assert_eq!(texts(&read), [(None, "ab")]);
    }

    #[test]
    fn a_bound_of_nothing_still_works() {
        let folder = Folder::new("nothing");
        let mut output = Output::open(&folder.0, 0).unwrap();
        output.write(b"abc");
        assert_eq!(read(&folder.0).unwrap(), b"bc");
    }
}
