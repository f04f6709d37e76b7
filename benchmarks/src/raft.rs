//! What consensus takes: clusters of ours and of TiKV's `raft`, each in a process of its own, by turns.

mod drive;
mod ours;

use std::{env, io, path::PathBuf, process::Command};

use drive::{Case, Figures, Setup};

/// How often each program runs each case if nobody says.
pub const ROUNDS: usize = 5;

/// The peer's codecs, which exclude each other in one program.
const CODECS: [&str; 2] = ["protobuf", "prost"];

/// A case, how peers are set up for it, and how many times their speed ours should have.
struct Row {
    members: usize,
    command_bytes: usize,
    in_flight: u64,
    codec: bool,
    setups: &'static [Setup],
    reach: f64,
}

const ROWS: [Row; 7] = {
    use Setup::{Default, Single, Tuned};
    let row = Row {
        members: 3,
        command_bytes: 64,
        in_flight: 256,
        codec: false,
        setups: &[Single, Tuned],
        reach: 1.5,
    };
    [
        Row {
            in_flight: 1,
            setups: &[Default, Tuned],
            ..row
        },
        Row {
            setups: &[Default, Single, Tuned],
            ..row
        },
        Row {
            command_bytes: 1_024,
            reach: 1.8,
            ..row
        },
        Row { codec: true, ..row },
        Row {
            codec: true,
            command_bytes: 1_024,
            ..row
        },
        Row { members: 5, ..row },
        Row {
            members: 5,
            command_bytes: 1_024,
            ..row
        },
    ]
};

/// At most so many for an operation, messages moved, and encoded and decoded: of 64 octets, three members, 256 in flight.
const ALLOCATIONS_MAX: [f64; 2] = [2.0, 4.0];
/// At most so many for an operation, of the same.
const MESSAGES_MAX: f64 = 0.05;

impl Row {
    fn case(&self, setup: Setup) -> Case {
        Case {
            members: self.members,
            command_bytes: self.command_bytes,
            in_flight: self.in_flight,
            codec: self.codec,
            setup,
        }
    }

    fn name(&self) -> String {
        let flight = match self.in_flight {
            1 => "one".to_owned(),
            count => count.to_string(),
        };
        let codec = if self.codec {
            ", encoded and decoded"
        } else {
            ""
        };
        let Self {
            members,
            command_bytes,
            ..
        } = self;
        format!("{members} members, {command_bytes} octets, {flight} in flight{codec}")
    }

    /// Whether the counts at the end of the table are of this.
    fn is_counted(&self) -> bool {
        (self.members, self.command_bytes, self.in_flight) == (3, 64, 256)
    }
}

/// Who runs a case.
struct Contestant {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    /// `None` for ours.
    setup: Option<Setup>,
    seen: Vec<Figures>,
}

impl Contestant {
    fn run(&mut self) -> io::Result<()> {
        let output = Command::new(&self.program).args(&self.arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let figures = text.parse().map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            io::Error::other(format!("{}: {error} {said}", self.name))
        })?;
        self.seen.push(figures);
        Ok(())
    }

    /// Returns the best and the median speed.
    fn best_and_median(&self) -> (f64, f64) {
        let mut seen: Vec<_> = self.seen.iter().map(|seen| seen.ops_per_second).collect();
        seen.sort_by(f64::total_cmp);
        (seen[seen.len() - 1], seen[seen.len() / 2])
    }

    /// Returns the median of a count, which hardly differs between rounds.
    fn count(&self, count: impl Fn(&Figures) -> f64) -> f64 {
        let mut seen: Vec<_> = self.seen.iter().map(count).collect();
        seen.sort_by(f64::total_cmp);
        seen[seen.len() / 2]
    }
}

pub fn run(rounds: usize) -> io::Result<()> {
    let peers = build()?;
    println!(
        "Operations in a second of CPU time of the one thread that all members run on, the best and the median of {rounds} rounds"
    );
    println!(
        "{:<56} {:>12} {:>12} {:>9} {:>9}",
        "", "best", "median", "ours/this", "reach"
    );
    let mut counted = Vec::new();
    for row in &ROWS {
        let mut contestants = contestants(row, &peers)?;
        for _ in 0..rounds {
            for contestant in &mut contestants {
                contestant.run()?;
            }
        }
        print_speed(row, &contestants);
        if row.is_counted() {
            counted.push(contestants);
        }
    }
    let hows = ["moved", "encoded and decoded"];
    for ((contestants, how), max) in counted.iter().zip(hows).zip(ALLOCATIONS_MAX) {
        let name = format!("allocations for an operation, messages {how}");
        let which = |setup| setup != Setup::Default;
        print_count(&name, max, contestants, which, |seen| {
            seen.allocations_per_op
        });
    }
    let which = |_| true;
    let name = "messages for an operation";
    print_count(name, MESSAGES_MAX, &counted[0], which, |seen| {
        seen.messages_per_op
    });
    Ok(())
}

/// Runs one case on ours, and prints its figures on one line. What `run` starts; not for people.
pub fn run_case(arguments: &[String]) -> io::Result<()> {
    let case: Case = arguments
        .concat()
        .parse()
        .map_err(io::Error::other::<String>)?;
    println!("{}", drive::run(&case, |at| ours::Ours::new(&case, at)));
    Ok(())
}

/// Builds the programs of the peers; returns those that could be built.
fn build() -> io::Result<Vec<(&'static str, PathBuf)>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/raft-rs/Cargo.toml");
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).expect("target/release/program");
    let mut peers = Vec::new();
    for codec in CODECS {
        let target = target.join(format!("raft-rs-{codec}"));
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "--quiet", "--locked"])
            .args(["--manifest-path", manifest])
            .args(["--features", &format!("{codec}-codec")])
            .arg("--target-dir")
            .arg(&target)
            .status()?;
        if status.success() {
            peers.push((codec, target.join("release/raft-rs-peer")));
        } else {
            println!("{codec}: not built (`prost` needs `protoc`)");
        }
    }
    Ok(peers)
}

fn contestants(row: &Row, peers: &[(&str, PathBuf)]) -> io::Result<Vec<Contestant>> {
    let mut contestants = vec![Contestant {
        name: "ours".to_owned(),
        program: env::current_exe()?,
        arguments: vec!["raft-case".to_owned(), row.case(Setup::Default).to_string()],
        setup: None,
        seen: Vec::new(),
    }];
    for &setup in row.setups {
        for (codec, program) in peers {
            contestants.push(Contestant {
                name: format!("raft, {codec}, {setup}"),
                program: program.clone(),
                arguments: vec![row.case(setup).to_string()],
                setup: Some(setup),
                seen: Vec::new(),
            });
        }
    }
    Ok(contestants)
}

fn print_speed(row: &Row, contestants: &[Contestant]) {
    println!("{}", row.name());
    let (_, ours) = contestants[0].best_and_median();
    for contestant in contestants {
        let (best, median) = contestant.best_and_median();
        let compared = match contestant.setup {
            None => String::new(),
            Some(_) => format!(" {:>8.2}x {:>8.2}x", ours / median, row.reach),
        };
        println!(
            "{:<56} {best:>12.0} {median:>12.0}{compared}",
            format!("  {}", contestant.name)
        );
    }
}

fn print_count(
    name: &str,
    max: f64,
    contestants: &[Contestant],
    which: impl Fn(Setup) -> bool,
    count: impl Fn(&Figures) -> f64,
) {
    println!("{name}");
    for contestant in contestants {
        if !contestant.setup.is_none_or(&which) {
            continue;
        }
        let reach = match contestant.setup {
            None => format!(" {:>9} {max:>9}", ""),
            Some(_) => String::new(),
        };
        let name = format!("  {}", contestant.name);
        println!(
            "{name:<56} {:>12} {:>12.3}{reach}",
            "",
            contestant.count(&count)
        );
    }
}
