//! The form in which a subnet is stored.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{GENERATION_MAX, Record, Subnet, SubnetConfig};
use crate::OwnerId;

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot<C> {
    V1 {
        config: C,
        cursor: u128,
        generation: u64,
        index: u64,
        /// In the order of the addresses: place less the one before, owner, generation.
        leases: Vec<(u128, OwnerId, u64)>,
        /// In the order of release: place, index.
        resting: Vec<(u128, u64)>,
    },
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        let leases = self.ledger.iter().map(
            |Record {
                 owner,
                 at,
                 generation,
             }| {
                let gap = at - before;
                before = at;
                (gap, owner, generation)
            },
        );
        Snapshot::V1 {
            config: &self.config,
            cursor: self.cursor,
            generation: self.generation,
            index: self.index,
            leases: leases.collect(),
            resting: self.rest.iter().collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let snapshot = Snapshot::<SubnetConfig>::deserialize(deserializer)?;
        restore(snapshot).map_err(de::Error::custom)
    }
}

fn restore(snapshot: Snapshot<SubnetConfig>) -> Result<Subnet, String> {
    let Snapshot::V1 {
        config,
        cursor,
        generation,
        index,
        leases,
        resting,
    } = snapshot;
    let mut subnet = Subnet::new(config).map_err(|error| error.to_string())?;
    let last = subnet.layout.block.span();
    if cursor > last || generation > GENERATION_MAX {
        return Err("the cursor is outside the subnet, or the generation out of reach".into());
    }
    (subnet.cursor, subnet.generation, subnet.index) = (cursor, generation, index);
    let mut before = None;
    for (gap, owner, own) in leases {
        let at = match before {
            None => Some(gap),
            Some(before) => gap.checked_add(before).filter(|at| *at != before),
        };
        let at = at.filter(|at| *at <= last && subnet.layout.reserved(*at).is_none());
        let at = at.ok_or("a lease of an address that nobody gets, or twice")?;
        if subnet.ledger.of(owner).is_some() || own == 0 || own > generation {
            return Err("an owner with two leases, or a lease of a later generation".into());
        }
        subnet.hold(Record {
            owner,
            at,
            generation: own,
        });
        before = Some(at);
    }
    let mut earliest = 0;
    for (at, released) in resting {
        let order = earliest <= released && released <= index;
        if !order || !subnet.layout.is_dynamic(at) || !subnet.taken.insert(at) {
            return Err("a resting address that is held, twice, outside or out of order".into());
        }
        subnet.rest.push(at, released);
        earliest = released;
    }
    // A well-formed subnet has let go what is due.
    match subnet.rest.pop_due(subnet.config.quarantine, index) {
        Some(_) => Err("an address rests for too long".into()),
        None => Ok(subnet),
    }
}
