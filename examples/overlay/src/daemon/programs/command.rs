//! From what a client asks to what a holder starts.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use overlay_linux::{CommandSpec, Stdio, WindowSize};

use crate::{
    api::{Error, ErrorKind},
    wire::{self, Refusal},
};

/// Exit code for a command that is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit code for a command that is not there.
const NOT_FOUND: u8 = 127;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes a command, after looking for its executable, so that nothing is attached for a misspelt word.
pub(in crate::daemon) fn specify(
    command: &[String],
    environment: &[String],
    directory: Option<&Path>,
    hostname: &str,
    stdio: wire::Stdio,
) -> Result<CommandSpec, Refusal> {
    let Some((program, arguments)) = command
        .split_first()
        .filter(|(program, _)| !program.is_empty())
    else {
        return Err(invalid("expected a command after `--`, found none").into());
    };
    let environment = full_environment(environment, hostname)?;
    let directory = directory.unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        return Err(invalid(format!(
            "cannot start in {}: it is no directory on this host; choose one with --workdir",
            directory.display()
        ))
        .into());
    }
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let found = find(program, path, directory)?;
    let mut spec = CommandSpec::new(found).args(arguments.iter().cloned());
    spec.arg0 = Some(program.clone());
    spec.environment = environment;
    spec.directory = Some(directory.to_owned());
    spec.stdio = match stdio {
        wire::Stdio::Detached => Stdio::Kept,
        wire::Stdio::Pipes { stdin } => Stdio::Pipes { input: stdin },
        wire::Stdio::Terminal { size, .. } => Stdio::Terminal(WindowSize {
            rows: size.rows,
            columns: size.columns,
        }),
    };
    Ok(spec)
}

fn full_environment(given: &[String], hostname: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut environment = BTreeMap::from([("HOSTNAME".to_owned(), hostname.to_owned())]);
    for (name, default) in [("PATH", DEFAULT_PATH), ("HOME", "/")] {
        let value = std::env::var(name).unwrap_or_else(|_| default.to_owned());
        environment.insert(name.to_owned(), value);
    }
    for variable in given {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                environment.insert(name.to_owned(), value.to_owned());
            }
            _ => {
                let message = format!("expected KEY=VALUE in --env, found `{variable}`");
                return Err(invalid(message).into());
            }
        }
    }
    Ok(environment)
}

/// Looks for an executable as a shell does.
fn find(program: &str, path: &str, directory: &Path) -> Result<PathBuf, Refusal> {
    if program.contains('/') {
        let candidate = directory.join(program);
        return match check(&candidate) {
            Ok(()) => Ok(candidate),
            Err(error) => Err(unusable(program, &error)),
        };
    }
    let mut denied = None;
    for folder in std::env::split_paths(path) {
        let candidate = directory.join(folder).join(program);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            // A folder that may not be searched says nothing about the program.
            Err(error) if candidate.exists() => denied = Some(error),
            Err(_) => {}
        }
    }
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "executable file not found in $PATH",
        )
    };
    Err(unusable(program, &denied.unwrap_or_else(missing)))
}

fn check(candidate: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(candidate)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

fn unusable(program: &str, error: &io::Error) -> Refusal {
    let found = error.kind() != io::ErrorKind::NotFound;
    let message = format!("cannot execute `{program}` on this host: {error}");
    let kind = if found {
        ErrorKind::Invalid
    } else {
        ErrorKind::NotFound
    };
    Refusal {
        error: Error::new(kind, message),
        exit_code: Some(if found { NOT_EXECUTABLE } else { NOT_FOUND }),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(command: &[&str], directory: Option<&str>) -> Result<PathBuf, Option<u8>> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let environment = ["PATH=/bin:/usr/bin".to_owned()];
        let directory = directory.map(Path::new);
        specify(
            &command,
            &environment,
            directory,
            "h",
            wire::Stdio::Detached,
        )
        .map(|spec| spec.program)
        .map_err(|refusal| refusal.exit_code)
    }

    #[test]
    fn executables_are_looked_for_as_by_a_shell() {
        assert_eq!(code(&["sh", "-c", "true"], None), Ok("/bin/sh".into()));
        assert_eq!(code(&["./sh"], Some("/bin")), Ok("/bin/./sh".into()));
        assert_eq!(code(&["no-such-command"], None), Err(Some(127)));
        assert_eq!(code(&["/no/such/command"], None), Err(Some(127)));
        assert_eq!(code(&["/etc/passwd"], None), Err(Some(126)));
        assert_eq!(code(&["/"], None), Err(Some(126)));
    }

    #[test]
    fn requests_that_make_no_sense_are_refused_as_such() {
        assert_eq!(code(&[], None), Err(None));
        assert_eq!(code(&[""], None), Err(None));
        assert_eq!(code(&["sh"], Some("/no/such/directory")), Err(None));
        assert!(full_environment(&["=x".into()], "h").is_err());
    }

    #[test]
    fn the_environment_has_what_a_program_expects_and_the_given_wins() {
        let environment = full_environment(&["HOME=/x".into(), "A=b=c".into()], "web").unwrap();
        let get = |name: &str| environment.get(name).map(String::as_str);
        assert_eq!(
            (get("HOSTNAME"), get("HOME"), get("A")),
            (Some("web"), Some("/x"), Some("b=c"))
        );
        assert!(get("PATH").is_some());
    }
}
