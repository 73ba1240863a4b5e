//! The records that pass between the parts: no behaviour beyond their own names.

/// What became of a query. The value is the one `npq` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// A route of its own: the recipient network's.
    Ported = 0,
    /// The range holder's route.
    NotPorted = 1,
    /// No range holds it.
    NotAllocated = 2,
    /// A short code, a wrong length, not in the plan.
    NotPortable = 3,
    /// No data, damaged data, or older than allowed.
    Unavailable = 4,
    /// A client over its rate.
    Refused = 5,
}

/// How many outcomes there are.
pub const OUTCOMES: usize = 6;

impl Outcome {
    /// All, by value.
    pub const ALL: [Outcome; OUTCOMES] = [
        Outcome::Ported,
        Outcome::NotPorted,
        Outcome::NotAllocated,
        Outcome::NotPortable,
        Outcome::Unavailable,
        Outcome::Refused,
    ];
}

/// Why a query was refused, in the order of `lookupd.model.REFUSE_REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The source is on no client's list.
    UnknownClient = 0,
    /// Over the client's rate.
    Rate = 1,
}

/// How many reasons of refusal there are.
pub const REFUSALS: usize = 2;

/// Why a query got no answer, in the order of `lookupd.model.DROP_REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Drop {
    /// Bytes that are not a message of the dialect.
    Malformed = 0,
    /// An answer, or a version or form that is not served.
    NotAQuery = 1,
    /// Over the dialect's bound.
    TooLong = 2,
    /// The client has given up.
    Late = 3,
    /// The dialect stays silent rather than answer from no data or damaged data.
    Unavailable = 4,
    /// A batch's tail that did not fit.
    NoRoom = 5,
    /// The kernel refused the answer.
    Unsent = 6,
}

/// How many reasons of a drop there are.
pub const DROPS: usize = 7;

/// Where a number is sent; see `lookupd.model.Route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The operator's opaque identifier.
    pub network_code: String,
    /// Hex digits sent on for a ported number.
    pub routing_number: Option<String>,
    /// The operator's name, UTF-8.
    pub operator: String,
    /// 1 to 999; None = unmapped.
    pub pdb_carrier_id: Option<u16>,
    /// Whether it is the network's own route.
    pub own: bool,
}

/// What an authority ordered, the strictest first; the value is the one that is stored and that `npq` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// The number has no service.
    Stop = 1,
    /// It has part of it.
    Limit = 2,
    /// None in other networks.
    NoRoaming = 3,
    /// Service as before; whoever trusts the number should know.
    Alert = 4,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 4] = [Measure::Stop, Measure::Limit, Measure::NoRoaming, Measure::Alert];

    /// As headers write it.
    pub const fn label(self) -> &'static str {
        match self {
            Measure::Stop => "stop",
            Measure::Limit => "limit",
            Measure::NoRoaming => "no_roaming",
            Measure::Alert => "alert",
        }
    }
}

/// What an answer tells of the restrictions that hold now: the strictest one, and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What was ordered.
    pub measure: Measure,
    /// When it lapses, Unix seconds.
    pub until: u64,
}

/// The answer to one query, before any dialect has dressed it.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The E.164 number; None when what was asked is none.
    pub tn: Option<u64>,
    /// What became of the query.
    pub outcome: Outcome,
    /// The network that serves the number, if one does.
    pub route: Option<&'a Route>,
    /// The one that is in force, if there is one.
    pub restriction: Option<InForce>,
    /// The store's, mod 2^32.
    pub serial: u32,
    /// Since the last feed position was confirmed; None when there is no data.
    pub age_seconds: Option<u64>,
}
