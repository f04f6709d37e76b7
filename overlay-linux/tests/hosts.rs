//! Hosts in a box, as root and as an ordinary user.
//!
//! A lab is made by a process of one thread, before anything else: here a child of the test, which is this binary again.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::poll::{PollTimeout, poll};
use overlay_core::{
    EndpointId, MacAddr,
    plane::{DataPath, Namespace, Platform, PortSpec},
};
use overlay_linux::{
    Capabilities, CommandSpec, Exit, Linux, capabilities, holder,
    hosts::{self, Lab, LabConfig},
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A story about a lab, told in a process of its own.
type Story = fn() -> Outcome<()>;

const STORIES: &[(&str, Story)] = &[
    ("hosts_reach_each_other_until_a_link_is_cut", reach),
    ("programs_on_a_host_see_only_the_lab", isolated),
    ("all_end_with_the_lab", dropped),
    ("holders_end_with_their_lab", holders),
    ("an_unknown_host_or_too_many_are_refused", refused),
];

fn main() -> ExitCode {
    holder::main_if_holder();
    let arguments: Vec<String> = env::args().collect();
    if let [_, mark, name] = arguments.as_slice()
        && mark == "story"
    {
        return tell(name);
    }
    let Ok(copy) = Copy::new() else {
        say("cannot copy this binary for other users");
        return ExitCode::FAILURE;
    };
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials(&copy.0));
    drop(copy);
    conclusion.exit();
}

fn tell(name: &str) -> ExitCode {
    let told = match STORIES
        .iter()
        .chain(HELPERS)
        .find(|(known, _)| *known == name)
    {
        Some((_, story)) => hosts::enter().map_err(Into::into).and_then(|_| story()),
        None => Err("no such story".into()),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Not tests by themselves.
const HELPERS: &[(&str, Story)] = &[
    ("wait_to_be_killed", wait_to_be_killed),
    ("leave_an_endpoint", leave_an_endpoint),
];

fn trials(copy: &Path) -> Vec<Trial> {
    let mut trials = vec![Trial::test("capabilities_are_found", || {
        found().map_err(|error| Failed::from(error.to_string()))
    })];
    let possible = env::current_exe()
        .map_err(Into::into)
        .and_then(|exe| probe(&exe));
    let Ok(possible) = possible else {
        return trials;
    };
    for (user, verdict) in [
        (None, &possible.privileged),
        (Some(NOBODY), &possible.user_namespace),
    ] {
        let name = user.map_or("given", |_| "ordinary_user");
        let may_become = user.is_none() || possible.privileged.is_possible();
        if !verdict.is_possible() || !may_become {
            say(&format!("SKIPPED: hosts, {name}: {verdict}"));
            continue;
        }
        for (story, _) in STORIES {
            let copy = copy.to_owned();
            let run = move || {
                as_user(&copy, user, story).map_err(|error| Failed::from(error.to_string()))
            };
            trials.push(Trial::test(format!("{name}::{story}"), run));
        }
        let copy = copy.to_owned();
        let run = move || killed(&copy, user).map_err(|error| Failed::from(error.to_string()));
        trials.push(Trial::test(
            format!("{name}::all_end_with_a_killed_maker"),
            run,
        ));
    }
    trials
}

fn probe(exe: &Path) -> Outcome<Capabilities> {
    Ok(capabilities(exe)?)
}

/// As the user who runs this, whatever is possible is possible as one of the two.
fn found() -> Outcome<()> {
    let all = probe(&env::current_exe()?)?;
    for (name, verdict) in [
        ("namespaces", &all.privileged),
        ("namespaces in a user namespace", &all.user_namespace),
        ("TAP", &all.tap),
        ("packet socket", &all.packet),
    ] {
        say(&format!("{name}: {verdict}"));
    }
    assert!(all.tap.is_possible() <= all.endpoints());
    assert!(all.packet.is_possible() <= all.endpoints());
    Ok(())
}

/// Starts a story in a process of its own.
fn start(copy: &Path, user: Option<u32>, story: &str) -> Outcome<Child> {
    let mut command = Command::new(copy);
    command.args(["story", story]).current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    Ok(command.spawn()?)
}

fn as_user(copy: &Path, user: Option<u32>, story: &str) -> Outcome<()> {
    let output = start(copy, user, story)?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Ok(())
}

/// This binary where another user may execute it; made before any thread, which might hold it open for writing.
struct Copy(PathBuf);

impl Copy {
    fn new() -> io::Result<Self> {
        let path = env::temp_dir().join(format!("overlay-hosts-{}", std::process::id()));
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

fn lab(hosts: usize) -> Outcome<Lab> {
    let addresses =
        |n| -> Outcome<Vec<ipnet::IpNet>> { Ok(vec![format!("192.0.2.{n}/24").parse()?]) };
    let config = LabConfig {
        hosts: (1..=hosts).map(addresses).collect::<Outcome<_>>()?,
        mtu: 1500,
    };
    Ok(Lab::new(&env::current_exe()?, &config)?)
}

fn output(lab: &mut Lab, host: usize, words: &[&str]) -> Outcome<(bool, String)> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(Stdio::piped());
    let output = lab.spawn_in(host, &mut command)?.wait_with_output()?;
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    ))
}

fn pings(lab: &mut Lab, from: usize, to: usize) -> Outcome<bool> {
    let target = format!("192.0.2.{}", to + 1);
    let (reached, _) = output(lab, from, &["ping", "-n", "-c", "1", "-W", "1", &target])?;
    Ok(reached)
}

fn reach() -> Outcome<()> {
    let mut lab = lab(3)?;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert!(pings(&mut lab, from, to)?, "{from} -> {to}");
    }
    lab.set_link(1, false)?;
    assert!(!pings(&mut lab, 0, 1)? && pings(&mut lab, 0, 2)?);
    // At once, however often: the kernel looks at changed links once a second only.
    for _ in 0..2 {
        lab.set_link(1, true)?;
        assert!(pings(&mut lab, 0, 1)?);
        lab.set_link(1, false)?;
    }
    Ok(())
}

fn isolated() -> Outcome<()> {
    let before = fs::read_to_string("/proc/self/mounts")?;
    let mut lab = lab(2)?;
    let directory = env::temp_dir().canonicalize()?;
    env::set_current_dir(&directory)?;
    let (_, text) = output(&mut lab, 0, &["sh", "-c", "pwd; echo /proc/[0-9]*"])?;
    let (place, processes) = text.split_once('\n').ok_or("no output")?;
    assert_eq!(place, directory.to_string_lossy());
    // The keeper, the shell, and perhaps one that is ending.
    assert!(processes.split_whitespace().count() <= 4, "{processes}");
    let (_, links) = output(&mut lab, 0, &["cat", "/proc/net/dev"])?;
    let names = links.lines().filter_map(|line| line.split_once(':'));
    let names: BTreeSet<_> = names.map(|(name, _)| name.trim()).collect();
    let odd: Vec<_> = names
        .difference(&BTreeSet::from(["lo", "eth0"]))
        .copied()
        .collect();
    // Some kernels put fall-back tunnels into each namespace.
    assert!(odd.iter().all(|name| name.ends_with('0')), "{odd:?}");
    assert_eq!(fs::read_to_string("/proc/self/mounts")?, before);
    Ok(())
}

fn dropped() -> Outcome<()> {
    let mut lab = lab(2)?;
    let mut child = lab.spawn_in(0, Command::new("sleep").arg("1000"))?;
    // One that left its session, as a holder does, and is nobody's child.
    let script = "setsid sleep 1000 >/dev/null & echo $!";
    let (_, _) = output(&mut lab, 1, &["sh", "-c", script])?;
    assert!(child.try_wait()?.is_none());
    drop(lab);
    assert!(
        child.try_wait()?.is_some(),
        "the lab waits for the end of all"
    );
    Ok(())
}

/// A daemon on a host makes an endpoint and ends; the endpoint stays, but not longer than the lab.
fn holders() -> Outcome<()> {
    let mut lab = lab(1)?;
    let folder = env::temp_dir().join(format!("overlay-lab-{}", std::process::id()));
    let mut daemon = Command::new(env::current_exe()?);
    daemon
        .args(["story", "leave_an_endpoint"])
        .env(FOLDER, &folder);
    let left = lab.spawn_in(0, &mut daemon)?.wait()?;
    assert!(left.success());
    let linux = Linux::new(&folder, env::current_exe()?);
    let before = linux.list()?;
    drop(lab);
    let after = linux.list()?;
    fs::remove_dir_all(&folder)?;
    assert_eq!(before.len(), 1);
    assert!(
        before[0].kind.is_some() && before[0].processes[0].exit.is_none(),
        "{before:?}"
    );
    assert_eq!(after.len(), 1);
    assert!(after[0].kind.is_none(), "{after:?}");
    assert_eq!(after[0].processes[0].exit, Some(Exit::Unknown));
    Ok(())
}

fn leave_an_endpoint() -> Outcome<()> {
    let folder = env::var_os(FOLDER).ok_or("no folder")?;
    let mut linux = Linux::new(folder, env::current_exe()?);
    let spec = PortSpec {
        endpoint: EndpointId::from_bytes([1; 16]),
        namespace: Namespace::Own,
        interface: "eth0".into(),
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: vec!["10.0.1.2/24".parse()?],
        on_link: Vec::new(),
        gateway: None,
        mtu: 1450,
        hostname: "alpine1".into(),
        way_out: None,
        path: DataPath::User,
    };
    linux.create_port(&spec)?;
    linux.start(spec.endpoint, CommandSpec::new("/bin/sleep").args(["1000"]))?;
    Ok(())
}

const FOLDER: &str = "OVERLAY_TEST_FOLDER";

fn refused() -> Outcome<()> {
    let mut lab = lab(1)?;
    let spawned = lab.spawn_in(1, &mut Command::new("true"));
    assert_eq!(
        spawned.map_err(|error| error.kind()).err(),
        Some(io::ErrorKind::InvalidInput)
    );
    assert!(lab.namespace(0).is_some() && lab.namespace(1).is_none());
    let config = LabConfig {
        hosts: vec![Vec::new(); hosts::HOSTS_MAX + 1],
        mtu: 1500,
    };
    assert!(Lab::new(&env::current_exe()?, &config).is_err());
    Ok(())
}

/// Makes a lab with a program in it, says that program's number and how to enter its host, and waits.
fn wait_to_be_killed() -> Outcome<()> {
    let mut lab = lab(2)?;
    let child = lab.spawn_in(1, Command::new("sleep").arg("1000").stdout(Stdio::null()))?;
    let mut output = io::stdout();
    let words = lab.enter_command(1).ok_or("no words")?;
    writeln!(output, "{}:{words}", child.id())?;
    output.flush()?;
    nix::unistd::pause();
    Ok(())
}

fn killed(copy: &Path, user: Option<u32>) -> Outcome<()> {
    let mut maker = start(copy, user, "wait_to_be_killed")?;
    let mut text = String::new();
    let mut stdout = maker.stdout.take().ok_or("no output")?;
    while !text.ends_with('\n') {
        let mut one = [0];
        if stdout.read(&mut one)? == 0 {
            return Err("the maker ended".into());
        }
        text.push(char::from(one[0]));
    }
    let (number, words) = text.trim().split_once(':').ok_or("no words")?;
    let inside = Path::new("/proc").join(number);
    assert!(inside.exists());
    // From outside, as a person at another terminal.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{words} ip address show eth0")]);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let shown = command.output()?;
    let addresses = String::from_utf8_lossy(&shown.stdout);
    assert!(addresses.contains("192.0.2.2/24"), "{words}: {shown:?}");
    maker.kill()?;
    maker.wait()?;
    for _ in 0..200 {
        // Adopted by somebody who may take a moment to reap it.
        let state = fs::read_to_string(inside.join("stat"));
        if state.is_err() || state.is_ok_and(|text| text.contains(") Z ")) {
            return Ok(());
        }
        poll(&mut [], PollTimeout::try_from(Duration::from_millis(20))?)?;
    }
    Err("a program outlived its lab".into())
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

const NOBODY: u32 = 65_534;
