//! What a daemon remembers of a program.

use overlay_linux::ProcessId;
use serde::{Deserialize, Serialize};

use crate::{
    daemon::records::Recorded,
    wire::{ProgramInfo, ProgramState},
};

/// A program as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What its users see.
    pub(super) info: ProgramInfo,
    /// Its number with its holder, once it was started.
    pub(super) process: Option<ProcessId>,
    /// Whether its endpoint may still be attached.
    pub(super) attached: bool,
}

impl Record {
    /// Whether it runs, as far as this record knows.
    pub(super) fn running(&self) -> Option<ProcessId> {
        match self.info.state {
            ProgramState::Running { .. } => self.process,
            ProgramState::Created | ProgramState::Exited { .. } => None,
        }
    }
}

impl Recorded for Record {
    fn name(&self) -> String {
        self.info.id.to_string()
    }
}
