//! Each step is one line with its result and its time.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

/// Prints the steps.
pub(super) struct Steps {
    began: Instant,
    number: u32,
    terminal: bool,
}

impl Steps {
    pub(super) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            began: Instant::now(),
            number: 0,
            terminal,
        }
    }

    /// Does one step and prints its line: what, result, time.
    pub(super) fn step<T>(
        &mut self,
        what: &str,
        work: impl FnOnce() -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        self.number += 1;
        let number = self.number;
        if self.terminal {
            self.print(&format!("\r{number:>3}  {what:<WIDTH$} …"));
        }
        let began = Instant::now();
        let result = work();
        let seconds = began.elapsed().as_secs_f64();
        let start = if self.terminal { "\r\u{1b}[K" } else { "" };
        match result {
            Ok((value, text)) => {
                self.print(&format!(
                    "{start}{number:>3}  {what:<WIDTH$} {text}  ({seconds:.2} s)\n"
                ));
                Ok(value)
            }
            Err(error) => {
                self.print(&format!(
                    "{start}{number:>3}  {what:<WIDTH$} FAILED  ({seconds:.2} s)\n"
                ));
                Err(error.context(format!("step {number}, {what}")))
            }
        }
    }

    /// Says something beside the steps.
    pub(super) fn note(&self, text: &str) {
        self.print(&format!("     {text}\n"));
    }

    /// Shows what came out of it.
    pub(super) fn table(&self, text: &str) {
        self.print(text);
    }

    /// Says that all steps are done.
    pub(super) fn done(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.print(&format!("done: {} steps in {seconds:.1} s\n", self.number));
    }

    fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Whoever closed the output does not want to read it.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// How wide the first column is.
const WIDTH: usize = 44;
