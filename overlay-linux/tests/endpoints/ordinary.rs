//! The same tests as a user without any privilege, in user namespaces.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use overlay_linux::PortKind;

use super::bench::{Folder, Outcome, say};

/// Runs a copy of this test binary as nobody.
pub(crate) fn all(_: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let copy = folder.path().join("endpoints");
    fs::copy(env::current_exe()?, &copy)?;
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(&copy);
    command
        // The slow ones do not depend on who runs them.
        .args(["--test-threads", "2", "--skip", "nothing_is_sent"])
        .args(["--skip", "does_not_fit", "--skip", "bounded_to_the_newest"])
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY);
    // A child of another test may still hold the copy open for writing, until it executes its own program.
    let mut output = command.output();
    while output
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::ExecutableFileBusy)
    {
        output = command.output();
    }
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    let skipped = String::from_utf8_lossy(&output.stderr);
    for line in skipped.lines().filter(|line| line.contains("SKIPPED")) {
        say(&format!("as an ordinary user: {line}"));
    }
    if skipped.contains("SKIPPED: all tests of packet ports") {
        return Ok(());
    }
    assert!(output.status.success(), "{said}\n{skipped}");
    // That is: they really ran.
    assert!(said.contains("packet::ping_passes"), "{said}");
    Ok(())
}

const NOBODY: u32 = 65_534;
