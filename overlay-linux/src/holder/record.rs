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
const VERSION: u8 = 2;

#[cfg(test)]
mod tests {
    use std::{env, process};

    use overlay_core::{EndpointId, MacAddr, plane::Namespace};

    use super::*;

    #[test]
    fn a_record_is_whole_or_refused() {
        let folder = env::temp_dir().join(format!("overlay-record-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let spec = PortSpec {
            endpoint: EndpointId::from_bytes([1; 16]),
            namespace: Namespace::Own,
            interface: "eth0".into(),
            mac: MacAddr::BROADCAST,
            addresses: vec!["10.0.1.2/24".parse().unwrap()],
            gateway: Some("10.0.1.1".parse().unwrap()),
            mtu: 1450,
            hostname: "alpine1".into(),
            way_out: None,
        };
        let record = Record { spec, main: None };
        record.write(&folder).unwrap();
        assert_eq!(Record::read(&folder).unwrap().spec, record.spec);
        let whole = fs::read(folder.join(NAME)).unwrap();
        for length in 0..whole.len() {
            fs::write(folder.join(NAME), &whole[..length]).unwrap();
            assert!(Record::read(&folder).is_err(), "{length} octets");
        }
        let mut later = whole;
        later[0] = VERSION + 1;
        fs::write(folder.join(NAME), later).unwrap();
        assert!(Record::read(&folder).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
