//! `completions` and `man`: what the parser knows, for shells and readers.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory as _, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure, Report};

/// The commands that ask nobody.
#[derive(Debug, Subcommand)]
pub(crate) enum GenerateCommand {
    /// Print a script that teaches a shell the words of this command
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write the manual pages, one for each command
    Man(ManArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder that the pages are written to, made if it is not there [default: print overlay(1) alone]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

const COMPLETIONS_HELP: &str = "\
bash:  overlay completions bash > /etc/bash_completion.d/overlay
zsh:   overlay completions zsh > \"${fpath[1]}/_overlay\"
fish:  overlay completions fish > ~/.config/fish/completions/overlay.fish";

const NAME: &str = "overlay";

/// Carries out a command that asks nobody.
pub(crate) fn generate(command: GenerateCommand) -> Result<Report, Failure> {
    match command {
        GenerateCommand::Completions(args) => Ok(Report::text(completions(args.shell)?)),
        GenerateCommand::Man(args) => man(args),
    }
}

fn completions(shell: Shell) -> Result<String, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&Cli::command()), NAME, &mut script);
    String::from_utf8(script).map_err(Failure::new)
}

/// The same command without what is hidden, which the generators would tell of.
fn visible(command: &clap::Command) -> clap::Command {
    let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    let aliases: Vec<_> = command.get_visible_aliases().map(str::to_owned).collect();
    clap::Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .visible_aliases(aliases)
        .args(arguments.cloned())
        .subcommands(below.map(visible))
}

fn man(args: ManArgs) -> Result<Report, Failure> {
    let pages = pages()?;
    let Some(folder) = args.folder else {
        let first = pages.into_iter().next();
        return Ok(Report::text(
            first.map(|(_, page)| page).unwrap_or_default(),
        ));
    };
    let cannot = |what: &PathBuf, error: std::io::Error| {
        let what = what.display();
        Failure::new(format_args!(
            "cannot write {what}: {error}; name another folder"
        ))
    };
    fs::create_dir_all(&folder).map_err(|error| cannot(&folder, error))?;
    let count = pages.len();
    for (name, page) in pages {
        let path = folder.join(name);
        fs::write(&path, page).map_err(|error| cannot(&path, error))?;
    }
    Ok(Report::line(format_args!(
        "{count} pages in {}; `man -l {}` shows the first",
        folder.display(),
        folder.join(format!("{NAME}.1")).display()
    )))
}

/// The name of the file of each page, and what is in it: that of the whole first, and those of its commands.
fn pages() -> Result<Vec<(String, String)>, Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(command, &mut pages)?;
    Ok(pages)
}

fn collect(command: clap::Command, pages: &mut Vec<(String, String)>) -> Result<(), Failure> {
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    let man = Man::new(command).source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
    let name = man.get_filename();
    let mut page = Vec::new();
    man.render(&mut page).map_err(Failure::new)?;
    pages.push((name, String::from_utf8(page).map_err(Failure::new)?));
    let shown = below.into_iter().filter(|command| !command.is_hide_set());
    for command in shown {
        collect(command, pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Output, Stdio},
    };

    use clap::ValueEnum as _;

    use super::*;

    /// Feeds a program that may not be there.
    fn feed(program: &str, words: &[&str], input: &str) -> Option<Output> {
        let child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("MANROFFSEQ", "")
            .spawn();
        let Ok(mut child) = child else {
            // Past the capture of the test's output, so that it is seen.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {program} is not installed");
            return None;
        };
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        drop(writer.join());
        Some(output)
    }

    /// Every command with its path, the whole first.
    fn every(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((path.to_owned(), command.clone()));
        for below in command.get_subcommands() {
            every(below, &format!("{path}-{}", below.get_name()), found);
        }
    }

    fn commands() -> Vec<(String, clap::Command)> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut found = Vec::new();
        every(&command, NAME, &mut found);
        found
    }

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_options() {
        for shell in Shell::value_variants() {
            let script = completions(*shell).unwrap();
            for word in ["service", "replicas-max-per-node", "join-token", "no-trunc"] {
                assert!(script.contains(word), "{shell} does not know {word}");
            }
            assert!(
                !script.contains("limit-memory"),
                "{shell} offers what is not"
            );
        }
    }

    #[test]
    fn shells_accept_their_scripts() {
        for (program, words, shell) in [
            ("bash", &["-n"][..], Shell::Bash),
            ("zsh", &["-n"], Shell::Zsh),
            ("fish", &["--no-execute"], Shell::Fish),
        ] {
            let script = completions(shell).unwrap();
            if let Some(output) = feed(program, words, &script) {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{program}: {said}");
                assert!(said.is_empty(), "{program}: {said}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_each_of_its_options() {
        let pages = pages().unwrap();
        let commands = commands();
        assert_eq!(pages.len(), commands.len());
        for (path, command) in commands {
            let page = pages.iter().find(|(name, _)| *name == format!("{path}.1"));
            let (_, page) = page.unwrap_or_else(|| panic!("no page {path}.1"));
            let page = page.replace("\\-", "-");
            let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for long in options.filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{long}")), "{path}: --{long}");
            }
        }
    }

    #[test]
    fn man_has_nothing_to_say_against_the_pages() {
        for (name, page) in pages().unwrap() {
            let Some(output) = feed("man", &["--warnings", "-l", "-"], &page) else {
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
            assert!(shown.contains("SYNOPSIS"), "{name}: {shown}");
        }
    }

    #[test]
    fn pages_are_written_into_a_folder_that_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/man1");
        let args = ManArgs {
            folder: Some(below.clone()),
        };
        let report = man(args).unwrap();
        assert!(report.text.contains("pages in"), "{}", report.text);
        assert!(below.join("overlay-service-create.1").is_file());
        let file = below.join("overlay.1");
        let failure = man(ManArgs { folder: Some(file) }).unwrap_err();
        assert!(failure.message.contains("another folder"), "{failure}");
        let whole = man(ManArgs { folder: None }).unwrap().text;
        assert!(whole.contains(".TH overlay 1"), "{whole}");
    }
}
