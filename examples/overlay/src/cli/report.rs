//! What a command leaves behind: text, complaints, and an exit code.

use std::{
    fmt::{self, Display},
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{api::ErrorKind, client::ClientError};

/// What a command did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For standard output.
    pub(crate) text: String,
    /// What went wrong with single ones of several things; for standard error, a line each.
    pub(crate) failures: Vec<Failure>,
    /// The exit code if nothing failed: that of a command which was run.
    pub(crate) code: u8,
}

/// A command, or one of several things that it was asked to do, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was wrong, where, and what next.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
    /// What kind of refusal it was.
    kind: Option<ErrorKind>,
}

impl Report {
    /// Only text, already with its line ends.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// One line of text.
    pub(crate) fn line(line: impl Display) -> Self {
        Self::text(format!("{line}\n"))
    }

    /// Only the exit code of a command that was run.
    pub(crate) fn code(code: u8) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Adds a line of text, or a failure.
    pub(crate) fn add(&mut self, result: Result<impl Display, Failure>) {
        match result {
            Ok(line) => {
                self.text.push_str(&line.to_string());
                self.text.push('\n');
            }
            Err(failure) => self.failures.push(failure),
        }
    }

    /// Writes it out and says how to exit.
    pub(crate) fn finish(self) -> ExitCode {
        print(&self.text);
        let mut code = self.code;
        for failure in &self.failures {
            complain(failure);
            code = code.max(failure.code);
        }
        ExitCode::from(code)
    }
}

impl Failure {
    /// An ordinary failure: exit code 1.
    pub(crate) fn new(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: 1,
            kind: None,
        }
    }

    /// The same failure with another exit code.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Whether it may be another answer in a moment: nobody leads at present.
    pub(crate) fn is_transient(&self) -> bool {
        self.kind == Some(ErrorKind::Unavailable)
    }

    /// Whether this node does not know, being a worker.
    pub(crate) fn is_not_manager(&self) -> bool {
        self.kind == Some(ErrorKind::NotManager)
    }

    /// The same failure in other words.
    pub(crate) fn said(self, message: impl Display) -> Self {
        let message = message.to_string();
        Self { message, ..self }
    }

    /// Whether there is no such thing.
    pub(crate) fn is_missing(&self) -> bool {
        self.kind == Some(ErrorKind::NotFound)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (code, kind) = match &error {
            ClientError::Refused(refusal) => {
                (refusal.exit_code.unwrap_or(1), Some(refusal.error.kind))
            }
            ClientError::Unreachable { .. } | ClientError::Broken { .. } => (1, None),
        };
        Self {
            kind,
            ..Self::new(error).with_code(code)
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) {
    is_read(text);
}

/// Writes to standard output; returns whether anybody reads it, for what would go on for ever.
pub(crate) fn is_read(text: &str) -> bool {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.is_ok()
}

/// Writes a failure to standard error.
pub(crate) fn complain(failure: impl Display) {
    drop(writeln!(io::stderr().lock(), "overlay: {failure}"));
}
