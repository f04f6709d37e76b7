//! What a rule looks at: octets of a packet, and the registers that they are loaded to.

/// Octets of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(super) header: u32,
    pub(super) offset: u32,
    pub(super) octets: u32,
}

/// Where octets are loaded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(super) u32);

impl Field {
    /// The source address (RFC 791 §3.1, RFC 8200 §3).
    pub(crate) fn source(v6: bool) -> Self {
        let (offset, octets) = if v6 { (8, 16) } else { (12, 4) };
        Self::network(offset, octets)
    }

    /// The destination address.
    pub(crate) fn destination(v6: bool) -> Self {
        let (offset, octets) = if v6 { (24, 16) } else { (16, 4) };
        Self::network(offset, octets)
    }

    /// Octets of the Ethernet header, with the tag of a VLAN if there is one.
    pub(crate) const fn link(offset: u32, octets: u32) -> Self {
        Self {
            header: LINK_HEADER,
            offset,
            octets,
        }
    }

    /// Octets of what comes after it.
    pub(crate) const fn network(offset: u32, octets: u32) -> Self {
        Self {
            header: NETWORK_HEADER,
            offset,
            octets,
        }
    }

    /// Octets of the transport layer.
    pub(crate) const fn transport(offset: u32, octets: u32) -> Self {
        Self {
            header: TRANSPORT_HEADER,
            offset,
            octets,
        }
    }

    /// Both ports, of TCP and of UDP.
    pub(crate) const PORTS: Self = Self::transport(0, 4);

    /// The flags of TCP (RFC 9293 §3.1).
    pub(crate) const TCP_FLAGS: Self = Self::transport(13, 1);

    pub(crate) fn octets(self) -> u32 {
        self.octets
    }
}

impl Register {
    /// The one that is compared, masked and looked up.
    pub(crate) const FIRST: Self = Self(REG_1);
    /// The one after its first four octets: both are compared and looked up together.
    pub(crate) const BESIDE: Self = Self(REG_1_SECOND);
    /// The first that is hashed.
    pub(crate) const HASHED: Self = Self(REG_2);
    /// The one after its 16 octets.
    pub(crate) const NEXT: Self = Self(REG_2);

    /// The one after the first one's `octets`: 4 or 16.
    pub(crate) fn hashed_after(octets: u32) -> Self {
        Self(if octets > 4 { REG_3 } else { REG_2_SECOND })
    }
}

// `linux/netfilter/nf_tables.h`, by the names there without their prefix.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
pub(super) const REG_VERDICT: u32 = 0;
pub(super) const REG_1: u32 = 1;
pub(super) const REG_2: u32 = 2;
const REG_3: u32 = 3;
/// The second word of [`REG_1`].
const REG_1_SECOND: u32 = 9;
/// The second word of [`REG_2`].
const REG_2_SECOND: u32 = 13;
