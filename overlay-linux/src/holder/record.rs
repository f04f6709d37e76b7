//! What a holder writes down, for a daemon that finds its folder but no holder.

use std::{fs, io, path::Path};

use overlay_core::plane::PortSpec;
use serde::{Deserialize, Serialize};

use super::replace;
use crate::command::ProcessStatus;

/// The port and the newest main program of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: PortSpec,
    pub(crate) main: Option<ProcessStatus>,
}

impl Record {
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut octets = vec![VERSION];
        let body = postcard::to_allocvec(self).map_err(io::Error::other)?;
        octets.extend_from_slice(&body);
        replace(folder, NAME, &octets)
    }

    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let octets = fs::read(folder.join(NAME))?;
        match octets.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

const NAME: &str = "record";
const VERSION: u8 = 1;
