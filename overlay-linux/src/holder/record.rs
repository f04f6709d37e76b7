//! What a holder writes down, for a daemon that finds its folder but no holder.

use std::{fs, io, path::Path};

use overlay_core::{EndpointId, plane::PortSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    replace,
    spec::{Known, Spec},
};
use crate::command::{Exit, ProcessStatus};

/// The ports and the newest main program of a namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) main: Option<ProcessStatus>,
}

/// The same, as releases wrote it that had one plane.
#[derive(Deserialize)]
struct OnePlane {
    ports: Vec<Spec>,
    main: Option<ProcessStatus>,
}

/// The same, as releases wrote it whose holders had one port.
#[derive(Deserialize)]
struct OnePort {
    #[serde(with = "Known")]
    spec: PortSpec,
    main: Option<ProcessStatus>,
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
            Some((&VERSION, body)) => parse(body),
            Some((&ONE_PLANE, body)) => {
                let OnePlane { ports, main } = parse(body)?;
                let ports = ports.into_iter().map(|Spec(spec)| spec).collect();
                Ok(Self { ports, main })
            }
            Some((&ONE_PORT, body)) => {
                let OnePort { spec, main } = parse(body)?;
                let ports = vec![spec];
                Ok(Self { ports, main })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Returns what the port of an endpoint was made from.
    pub(crate) fn port(&self, endpoint: EndpointId) -> Option<&PortSpec> {
        self.ports.iter().find(|spec| spec.endpoint == endpoint)
    }

    /// Returns the newest main program, which ended with the holder at the latest.
    pub(crate) fn ended(&self) -> Option<ProcessStatus> {
        let mut main = self.main.clone()?;
        main.exit.get_or_insert(Exit::Unknown);
        Some(main)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

const NAME: &str = "record";
const VERSION: u8 = 4;
/// The version of [`OnePlane`].
const ONE_PLANE: u8 = 3;
/// The version of [`OnePort`].
const ONE_PORT: u8 = 2;

#[cfg(test)]
mod tests {
    use std::{env, process};

    use overlay_core::{
        MacAddr,
        plane::{DataPath, Namespace},
    };

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
            on_link: Vec::new(),
            gateway: Some("10.0.1.1".parse().unwrap()),
            mtu: 1450,
            hostname: "alpine1".into(),
            way_out: None,
            path: DataPath::Kernel,
        };
        let record = Record {
            ports: vec![spec.clone()],
            main: None,
        };
        record.write(&folder).unwrap();
        let read = Record::read(&folder).unwrap();
        assert_eq!(read.ports, record.ports);
        let whole = fs::read(folder.join(NAME)).unwrap();
        for length in 0..whole.len() {
            fs::write(folder.join(NAME), &whole[..length]).unwrap();
            assert!(Record::read(&folder).is_err(), "{length} octets");
        }
        let mut later = whole;
        later[0] = VERSION + 1;
        fs::write(folder.join(NAME), later).unwrap();
        assert!(Record::read(&folder).is_err());
        // Those of a release with one plane, and of one whose holders had one port. Its octets are the golden ones.
        let path = DataPath::User;
        let known = PortSpec { path, ..spec };
        let bodies = [
            (ONE_PLANE, [&[1], KNOWN, &[0]].concat()),
            (ONE_PORT, [KNOWN, &[0]].concat()),
        ];
        for (version, octets) in bodies {
            fs::write(folder.join(NAME), [&[version], &octets[..]].concat()).unwrap();
            assert_eq!(Record::read(&folder).unwrap().ports, vec![known.clone()]);
        }
        let wire = postcard::to_allocvec(&Spec(known)).unwrap();
        assert_eq!(wire, KNOWN, "as all releases say it");
        fs::remove_dir_all(&folder).unwrap();
    }

    /// The port of the test above but for its plane.
    const KNOWN: &[u8] = b"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x04eth0\
        \xff\xff\xff\xff\xff\xff\x01\x00\x0a\x00\x01\x02\x18\x00\x01\x00\x0a\x00\x01\x01\xaa\x0b\x07alpine1\x00";
}
