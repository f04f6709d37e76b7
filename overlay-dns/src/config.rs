//! What an embedder can choose, and every bound.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::wire::Name;

/// Options of a [`Resolver`](crate::Resolver).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For how long clients may keep our own answers. Default 5 s. Lower: more queries. Higher: clients keep the
    /// addresses of tasks that are gone for as long. Whole seconds; a fraction is cut off.
    pub ttl: Duration,
    /// For how long clients may keep the news that something does not exist (RFC 2308 §5). Default 1 s: a client that
    /// asked just before a task came up shall not wait.
    pub negative_ttl: Duration,
    /// A suffix below which everything is ours: with `overlay.internal`, `web.my-net.overlay.internal` is the same as
    /// `web.my-net`, and what does not exist below it is `NXDOMAIN`. Default none.
    pub domain: Option<Name>,
    /// Whether absent names below a network's name are ours too. Default [`NetworkZones::Unambiguous`].
    pub network_zones: NetworkZones,
    /// Whether unknown names of one label are forwarded, as Docker does. Default true. With false they are `NXDOMAIN`,
    /// and a name that is not up yet does not leak.
    pub forward_single_labels: bool,
    /// Whether reverse lookups of private addresses outside our own subnets are forwarded. Default false: they are
    /// `NXDOMAIN` (RFC 6303). Choose true where the upstream servers know the names of private addresses around.
    pub forward_private_reverse: bool,
    /// Addresses at which this resolver itself listens; upstream servers there are dropped. Default 127.0.0.11.
    pub own_addresses: Vec<IpAddr>,
    /// Largest UDP payload sent and announced, in octets. Default 1,232, which crosses every path unfragmented
    /// (RFC 9715); at least 512.
    pub udp_payload_bytes_max: u16,
    /// How many names and aliases of one owner are kept. Default 64.
    pub names_max: usize,
    /// How many addresses, ports, and texts of one owner are kept, of each. Default 64.
    pub records_max: usize,
    /// How many buffers that were handed back are kept for later answers. Default 64.
    pub spare_buffers_max: usize,
    /// Options of the forwarder.
    pub forward: ForwardConfig,
    /// Options of the cache of forwarded answers.
    pub cache: CacheConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            negative_ttl: Duration::from_secs(1),
            domain: None,
            network_zones: NetworkZones::Unambiguous,
            forward_single_labels: true,
            forward_private_reverse: false,
            own_addresses: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11))],
            udp_payload_bytes_max: 1_232,
            names_max: 64,
            records_max: 64,
            spare_buffers_max: 64,
            forward: ForwardConfig::default(),
            cache: CacheConfig::default(),
        }
    }
}

/// Whether a name such as `web.my-net`, with a network `my-net` in the view, is ours even if there is no `web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkZones {
    /// It is forwarded, as Docker does.
    Never,
    /// It is `NXDOMAIN` if the network's name cannot be that of a public top-level domain: if its last label holds
    /// anything but letters (`my-net`, `stack_default`, `net1`). A network called `dev` does not hide `example.dev`.
    /// In a view that forbids forwarding it always is.
    Unambiguous,
    /// It is `NXDOMAIN`.
    Always,
}

/// Options of the forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// How many upstream servers are used; more are dropped. Default 3.
    pub upstreams_max: usize,
    /// How long one server is waited for before the next is asked. Default 1.5 s.
    pub try_timeout: Duration,
    /// How long a query is tried in all before the client gets `SERVFAIL`. Default 4.5 s: glibc waits for 5 s.
    pub patience: Duration,
    /// For how long a server that did not answer is asked last. Default 10 s.
    pub penalty: Duration,
    /// How many different queries may be in flight; beyond, clients get `SERVFAIL` at once. Default 1,024.
    pub exchanges_max: usize,
    /// How many sockets one query in flight may hold. Default 4. Earlier tries stay open while later ones run.
    pub tries_max: usize,
    /// How many clients' queries one query in flight may answer. Default 64.
    pub waiters_max: usize,
    /// How many forwarded queries one client may wait for. Default 256.
    pub client_waiters_max: usize,
    /// Whether letters in upstream queries get random case, as more entropy against forged answers. Default false:
    /// there are servers that do not echo the case, and would seem dead.
    pub random_case: bool,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            upstreams_max: 3,
            try_timeout: Duration::from_millis(1_500),
            patience: Duration::from_millis(4_500),
            penalty: Duration::from_secs(10),
            exchanges_max: 1_024,
            tries_max: 4,
            waiters_max: 64,
            client_waiters_max: 256,
            random_case: false,
        }
    }
}

/// Options of the cache of forwarded answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How many answers are kept. Default 4,096; 0 switches the cache off.
    pub entries_max: usize,
    /// How many octets all kept answers may have. Default 4 MiB.
    pub bytes_max: usize,
    /// Longest time for which an answer is kept. Default 7 days (RFC 8767 §4).
    pub ttl_max: Duration,
    /// Longest time for which the news of absence is kept. Default 3 h (RFC 2308 §5).
    pub negative_ttl_max: Duration,
    /// For how long a failure of all servers is kept. Default 1 s, the least that RFC 9520 §3.2 allows.
    pub failure_ttl: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            entries_max: 4_096,
            bytes_max: 4 << 20,
            ttl_max: Duration::from_secs(7 * 86_400),
            negative_ttl_max: Duration::from_secs(3 * 3_600),
            failure_ttl: Duration::from_secs(1),
        }
    }
}
