//! Code points of the IANA registry "Domain Name System (DNS) Parameters".

use std::fmt;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident($number:ty, $prefix:literal) { $($(#[$doc:meta])* $constant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $number);

        impl $name {
            $($(#[$doc])* pub const $constant: Self = Self($value);)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.pad(stringify!($constant)),)*
                    other => f.pad(&format!("{}{other}", $prefix)),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    /// The type of a record, or of a question.
    RecordType(u16, "TYPE") {
        /// An IPv4 address.
        A = 1,
        /// A name server.
        NS = 2,
        /// The canonical name of an alias.
        CNAME = 5,
        /// The start of a zone of authority.
        SOA = 6,
        /// A name for an address.
        PTR = 12,
        /// A mail exchange.
        MX = 15,
        /// Character-strings.
        TXT = 16,
        /// An IPv6 address (RFC 3596).
        AAAA = 28,
        /// The place of a service (RFC 2782).
        SRV = 33,
        /// A name for a whole subtree (RFC 6672).
        DNAME = 39,
        /// EDNS (RFC 6891).
        OPT = 41,
        /// An incremental transfer of a zone (RFC 1995).
        IXFR = 251,
        /// A transfer of a zone (RFC 5936).
        AXFR = 252,
        /// Any type (RFC 8482).
        ANY = 255,
    }
}

codes! {
    /// The class of a record.
    Class(u16, "CLASS") {
        /// The Internet.
        IN = 1,
        /// Chaos, used for `version.bind`.
        CH = 3,
        /// Any class.
        ANY = 255,
    }
}

codes! {
    /// What a message asks for; 4 bits.
    Opcode(u8, "OPCODE") {
        /// A standard query.
        QUERY = 0,
        /// Something changed in a zone (RFC 1996).
        NOTIFY = 4,
        /// A dynamic update (RFC 2136).
        UPDATE = 5,
    }
}

codes! {
    /// How a query ended; 12 bits with EDNS, 4 without.
    Rcode(u16, "RCODE") {
        /// It was answered; perhaps with no record.
        NOERROR = 0,
        /// The query was malformed.
        FORMERR = 1,
        /// The server could not.
        SERVFAIL = 2,
        /// The name does not exist.
        NXDOMAIN = 3,
        /// The server knows no such kind of query.
        NOTIMP = 4,
        /// The server is not willing.
        REFUSED = 5,
        /// The EDNS version is not known here (RFC 6891 §6.1.3).
        BADVERS = 16,
    }
}
