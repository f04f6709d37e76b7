//! Answers from our own data.

use std::{net::IpAddr, ops::ControlFlow};

use overlay_core::Rng;

use crate::{
    compose::{Composer, Members},
    config::Config,
    directory::{Directory, Found, Lookup, Network, ReverseLookup},
    query::Asked,
    records::View,
    special::{self, Special},
    wire::{Compressor, Name, Rcode, RecordType, Writer},
};

/// How many aliases are followed.
pub(crate) const ALIASES_MAX: usize = 8;

/// Buffers and randomness that answers need, kept between them.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) compressor: Compressor,
    pub(crate) members: Members,
    pub(crate) rng: Rng,
    /// The name that is asked for, lower-cased.
    pub(crate) name: Box<Name>,
    /// The names that are gone through: aliases, each of the next.
    pub(crate) followed: Vec<Name>,
    /// What is looked for in the cache.
    pub(crate) key: Vec<u8>,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The answer has been written.
    Answered { truncated: bool },
    /// The question is not answered, with this code.
    Rejected(Rcode),
    /// The name that was gone through last, [`Scratch::followed`] or [`Scratch::name`], is to be asked upstream.
    Foreign,
}

/// Whose records a name has, or why it has none.
pub(crate) enum Place<'a> {
    Found(Found<'a>),
    Reverse {
        network: &'a Network,
        address: IpAddr,
        apex: usize,
    },
    Localhost,
    LoopbackPointer,
    Nothing {
        rcode: Rcode,
        apex: usize,
    },
    Foreign,
}

/// Answers a question from the data of the client's view.
pub(crate) fn answer(
    (config, directory, view): (&Config, &Directory, &View),
    asked: &Asked<'_>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Verdict {
    let Scratch {
        compressor,
        members,
        rng,
        name,
        followed,
        key: _,
    } = scratch;
    name.assign_lowercase(asked.question.name_wire());
    let name: &Name = name;
    let mut writer = Writer::new(out, compressor, asked.terms.limit);
    writer.question(asked.question.wire);
    let mut composer = Composer {
        data: (config, directory, view),
        writer,
        members,
        rng,
        transport: asked.terms.transport,
        ttl: seconds(config.ttl),
        negative_ttl: seconds(config.negative_ttl),
        serial: directory.serial,
        truncated: false,
    };
    let kind = asked.question.kind;
    followed.clear();
    let rcode = loop {
        let current = followed.last().unwrap_or(name);
        let target = match place((config, directory, view), current, kind) {
            Place::Foreign if !view.forward => return Verdict::Rejected(Rcode::REFUSED),
            Place::Foreign => return Verdict::Foreign,
            place => match composer.place(current, kind, &place, followed.is_empty()) {
                ControlFlow::Break(rcode) => break rcode,
                ControlFlow::Continue(target) => target,
            },
        };
        if followed.len() >= ALIASES_MAX {
            return Verdict::Rejected(Rcode::SERVFAIL);
        }
        followed.push(target);
    };
    let mut header = asked.header.reply(rcode);
    header.authoritative = true;
    header.recursion_available = view.forward;
    header.truncated = composer.truncated;
    let truncated = composer.truncated;
    composer.writer.finish(header, asked.terms.edns);
    Verdict::Answered { truncated }
}

pub(crate) fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs())
        .unwrap_or(u32::MAX)
        .min(u32::MAX >> 1) // RFC 2181 §8
}

#[inline]
pub(crate) fn place<'a>(
    (config, directory, view): (&Config, &'a Directory, &'a View),
    name: &'a Name,
    kind: RecordType,
) -> Place<'a> {
    let nothing = |rcode, apex| Place::Nothing { rcode, apex };
    let special = special::classify(name);
    if special == Some(Special::Localhost) {
        return Place::Localhost;
    }
    match directory.lookup_reverse(config, view, name) {
        ReverseLookup::Found {
            network,
            address,
            apex,
        } => {
            return Place::Reverse {
                network,
                address,
                apex,
            };
        }
        ReverseLookup::Loopback => return Place::LoopbackPointer,
        ReverseLookup::Empty { apex } => return nothing(Rcode::NOERROR, apex),
        ReverseLookup::Absent { apex } => return nothing(Rcode::NXDOMAIN, apex),
        ReverseLookup::Foreign => {}
    }
    match directory.lookup(config, view, name, kind) {
        Lookup::Found(found) => Place::Found(found),
        Lookup::Empty { apex } => nothing(Rcode::NOERROR, apex),
        Lookup::Absent { apex } => nothing(Rcode::NXDOMAIN, apex),
        Lookup::Foreign => match special {
            Some(Special::Absent { apex }) => nothing(Rcode::NXDOMAIN, apex),
            Some(Special::Empty { apex }) => nothing(Rcode::NOERROR, apex),
            Some(Special::Localhost) | None => {
                let ours = !config.forward_single_labels && name.count() == 1 && view.forward;
                if ours {
                    nothing(Rcode::NXDOMAIN, 1)
                } else {
                    Place::Foreign
                }
            }
        },
    }
}
