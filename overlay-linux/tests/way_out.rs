//! The way out of endpoints, in a lab: host 0 is the node, host 1 is the world, which knows no way back.
//!
//! Each test is a process of its own that makes a lab, and tells its story by a process on host 0. With the lab all of it
//! ends, also on failure. Nothing is made in the machine's own namespaces. The tests run as root and, in user namespaces,
//! as an ordinary user.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Failed, Trial};
use overlay_linux::{
    capabilities, holder,
    hosts::{self, Lab, LabConfig},
};

#[path = "way_out/life.rs"]
mod life;
#[path = "way_out/node.rs"]
mod node;
#[path = "way_out/reach.rs"]
mod reach;
#[path = "way_out/refusal.rs"]
mod refusal;
#[path = "way_out/source.rs"]
mod source;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What a process on host 0 does.
type Story = fn() -> Outcome<()>;

const STORIES: [&[(&str, Story)]; 4] = [
    reach::STORIES,
    life::STORIES,
    refusal::STORIES,
    source::STORIES,
];

/// Parts of stories.
const PARTS: &[(&str, Story)] = &[
    ("serve", serve),
    ("hear", hear),
    ("answer", source::answer),
    ("first_life", life::first_life),
    ("without_privilege", refusal::without_privilege),
];

fn main() -> ExitCode {
    holder::main_if_holder();
    let arguments: Vec<String> = env::args().collect();
    if let [_, mark, name, ..] = arguments.as_slice() {
        match mark.as_str() {
            "lab" => return end(make_lab(name)),
            "part" => return end(tell(name)),
            _ => {}
        }
    }
    let Ok(copy) = Copy::new() else {
        say("cannot copy this binary for other users");
        return ExitCode::FAILURE;
    };
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials(&copy.0));
    drop(copy);
    conclusion.exit();
}

fn trials(copy: &Path) -> Vec<Trial> {
    let possible = env::current_exe()
        .map_err(Into::into)
        .and_then(|exe| -> Outcome<_> { Ok(capabilities(&exe)?) });
    let possible = match possible {
        Ok(possible) => possible,
        Err(error) => {
            let said = error.to_string();
            return vec![Trial::test("capabilities", move || Err(said.into()))];
        }
    };
    let mut trials = Vec::new();
    for (user, verdict) in [
        (None, &possible.privileged),
        (Some(NOBODY), &possible.user_namespace),
    ] {
        let name = user.map_or("given", |_| "ordinary_user");
        let may_become = user.is_none() || possible.privileged.is_possible();
        if !verdict.is_possible() || !may_become {
            say(&format!("SKIPPED: the way out, {name}: {verdict}"));
            continue;
        }
        for (story, _) in STORIES.iter().copied().flatten() {
            let copy = copy.to_owned();
            let run = move || in_lab(&copy, user, story).map_err(|e| Failed::from(e.to_string()));
            trials.push(Trial::test(format!("{name}::{story}"), run));
        }
    }
    trials
}

fn in_lab(copy: &Path, user: Option<u32>, story: &str) -> Outcome<()> {
    let mut command = Command::new(copy);
    command.args(["lab", story]).current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines().filter(|line| line.contains("SKIPPED")) {
        say(line);
    }
    assert!(output.status.success(), "{said}");
    Ok(())
}

/// In a process of one thread.
fn make_lab(story: &str) -> Outcome<()> {
    hosts::enter()?;
    let config = LabConfig {
        hosts: vec![vec!["192.0.2.1/24".parse()?], vec!["192.0.2.2/24".parse()?]],
        mtu: 1500,
    };
    let exe = env::current_exe()?;
    let folder = Folder::new()?;
    let mut lab = Lab::new(&exe, &config)?;
    let mut server = Command::new(&exe);
    server.args(["part", "serve", "192.0.2.2:7"]);
    lab.spawn_in(1, server.stderr(Stdio::inherit()))?;
    // To what is behind the node, but not to its endpoints.
    let mut route = Command::new("ip");
    route.args(["route", "add", BEHIND, "via", "192.0.2.1"]);
    let added = lab.spawn_in(1, &mut route)?.wait()?;
    assert!(added.success());
    let mut part = Command::new(&exe);
    part.env(FOLDER, &folder.0);
    let told = lab.spawn_in(0, part.args(["part", story]))?.wait()?;
    if told.success() {
        Ok(())
    } else {
        Err(format!("{story}: {told}").into())
    }
}

/// A folder that goes away, after the lab whose holders have their own in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("overlay-way-out-of-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Names the folder to the processes of a story.
pub(crate) const FOLDER: &str = "OVERLAY_TEST_FOLDER";

/// A network that is reached through the node, if the node were a router.
pub(crate) const BEHIND: &str = "198.51.100.0/24";

fn tell(name: &str) -> Outcome<()> {
    let stories = STORIES.iter().copied().flatten();
    let found = stories.chain(PARTS).find(|(known, _)| *known == name);
    let (_, story) = found.ok_or("no such story")?;
    story()
}

fn end(told: Outcome<()>) -> ExitCode {
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Tells everybody who connects by which address they came.
fn serve() -> Outcome<()> {
    let address = env::args().nth(3).ok_or("no address")?;
    let listener = TcpListener::bind(address)?;
    loop {
        let (mut stream, from) = listener.accept()?;
        write!(stream, "{}", from.ip())?;
    }
}

/// Says what a server says.
fn hear() -> Outcome<()> {
    let address = env::args().nth(3).ok_or("no address")?;
    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// This binary where another user may execute it; made before any thread, which might hold it open for writing.
struct Copy(PathBuf);

impl Copy {
    fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("overlay-way-out-{}", std::process::id()));
        fs::copy(env::current_exe()?, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

const NOBODY: u32 = 65_534;
