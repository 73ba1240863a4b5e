//! ENUM: a number's name in a zone of ours -> NAPTR, NODATA or NXDOMAIN, made on the fly from what the engine says.
//!
//! `lookupd/protocols/enum_dns.py` has the whole story; every byte agrees with it. A client's settings are compiled
//! into a `Profile`, which never changes: all that an answer shares with others lies ready in it.

use std::io::Write;
use std::net::IpAddr;

use crate::limits::{DNS_NAME_BYTES_MAX, E164_DIGITS_MAX, NAPTR_TEXT_BYTES_MAX};
use crate::model::{InForce, Outcome, Route};
use crate::protocols::dns::{self, Data, Filling, Name, POINTER_TO_QUESTION, Rcode, Records, Reply, patch};
use crate::protocols::tel_parameters::{Parameters, Unported};

const ORDER: u16 = 100;
const PREFERENCE_STEP: u16 = 10;
const SOA_TTL: u32 = 3600;
/// Refresh, retry and expire, in seconds.
const SOA_NUMBERS: [u32; 3] = [3600, 600, 604_800];
/// EDNS option of the range for local use that carries serial and age.
const TELL_OPTION: u16 = 65_001;
const TELL_OPTION_BYTES: usize = 12;
/// The option beside it for a restricted number: measure, three zero bytes, when it lapses.
const RESTRICTION_OPTION: u16 = 65_002;
/// Both of them.
pub const TOLD_BYTES_MAX: usize = 24;
const NO_AGE: u32 = u32::MAX;

/// `profiles.EnumSettings`, as plain values.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Without their last dot.
    pub apexes: Vec<String>,
    /// `E2U+pstn:tel`, `E2U+pstn:sip`: a record for each.
    pub services: Vec<String>,
    /// Seconds, of a number's records.
    pub ttl: u32,
    /// Of what does not exist.
    pub negative_ttl: u32,
    /// Behind the `@` of `pstn:sip`.
    pub domain: String,
    /// Names with their addresses.
    pub nameservers: Vec<(String, Vec<IpAddr>)>,
    /// Of a number that was not ported.
    pub unported: Unported,
    /// How parameters are written.
    pub parameters: Parameters,
    /// Of a ported number whose network has none; empty = it cannot be answered.
    pub unmapped_routing_number: String,
    /// How serial and age go out.
    pub tell: Tell,
}

/// Whether serial and age go out, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tell {
    /// They do not.
    #[default]
    No,
    /// In a TXT record, to who asks for it.
    Txt,
    /// In an option of EDNS, to who speaks it.
    Edns,
}

/// How one client is answered.
#[derive(Debug, Default)]
pub struct Profile {
    /// The longest apex first.
    zones: Vec<Zone>,
    services: Vec<Service>,
    ttl: u32,
    unported: Unported,
    parameters: Parameters,
    unmapped_routing_number: Option<String>,
    tell: Tell,
    /// `rn` and `cic` together: with more the regular expression would be longer than its length can say.
    rn_and_cic_bytes_max: usize,
}

/// One apex of a profile.
#[derive(Debug, Default)]
pub struct Zone {
    /// Wire form.
    apex: Vec<u8>,
    soa: Records,
    /// With the SOA that goes with what does not exist.
    negative: Records,
    servers: Records,
    /// Of the servers that lie in this zone.
    addresses: Records,
    hosts: Vec<Host>,
    /// Labels before the apex of names that have nothing themselves and a server below; in lower case.
    above: Vec<Vec<u8>>,
}

/// A name server inside its zone.
#[derive(Debug)]
struct Host {
    /// Before the apex, in lower case.
    labels: Vec<u8>,
    v4: Records,
    v6: Records,
}

/// One service's record, but for what differs from number to number.
#[derive(Debug)]
struct Service {
    /// From the owner to what stands before the parameters, without the two lengths.
    head: Vec<u8>,
    /// Behind the parameters: the regular expression's end.
    tail: Vec<u8>,
}

/// Where in `Service::head` the data begin, and the length before them.
const DATA_AT: usize = 12;
const DATA_LENGTH_AT: usize = DATA_AT - 2;
/// What stands before the parameters in the regular expression of every service: it takes the whole number, and puts
/// it back.
const REGEXP_START_BYTES: usize = "!^(.*)$!tel:\\1".len();

/// What a name in a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The apex.
    Apex,
    /// A name server, by its place.
    Host(usize),
    /// A number.
    Number(Dialled),
    /// A name that has nothing itself, and something below.
    Above,
    /// A name that there is not.
    Nothing,
}

/// A number's digits behind a `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    text: [u8; 1 + E164_DIGITS_MAX],
    digits: u8,
}

impl Dialled {
    /// The number that the labels before an apex say, its last digit first; None if they are something else.
    #[inline]
    fn read(labels: &[u8]) -> Option<Dialled> {
        let (pairs, rest) = labels.as_chunks::<2>();
        if !rest.is_empty() || !(1..=E164_DIGITS_MAX).contains(&pairs.len()) {
            return None;
        }
        let mut text = [b'+'; 1 + E164_DIGITS_MAX];
        for (to, [length, digit]) in text.iter_mut().skip(1).zip(pairs.iter().rev()) {
            if *length != 1 || !digit.is_ascii_digit() {
                return None;
            }
            *to = *digit;
        }
        Some(Dialled { text, digits: pairs.len() as u8 })
    }

    /// As plans read it.
    #[inline]
    pub fn dialled(&self) -> &[u8] {
        self.text.get(..=usize::from(self.digits)).unwrap_or_default()
    }

    /// Its digits, 1 to 15.
    #[inline]
    pub fn digits(&self) -> &[u8] {
        self.dialled().get(1..).unwrap_or_default()
    }
}

/// What a number's records say; without records there is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    rn: Option<&'a str>,
    cic: Option<&'a str>,
}

/// What is said of the data that an answer was made from.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The store's, mod 2^32.
    pub serial: u32,
    /// Of the data.
    pub age_seconds: Option<u64>,
}

impl Profile {
    /// Compiled settings; Err says what is wrong with them, which `profiles.check_enum` would have said better.
    pub fn new(settings: Settings) -> Result<Profile, String> {
        let mut zones = settings.apexes.iter().map(|apex| Zone::new(apex, &settings)).collect::<Result<Vec<_>, _>>()?;
        zones.sort_by_key(|zone| usize::MAX - zone.apex.len());
        let services = settings.services.iter().enumerate();
        let services =
            services.map(|(at, service)| Service::new(at, service, &settings)).collect::<Result<Vec<_>, _>>()?;
        let parameters = &settings.parameters;
        let mut longest = Vec::new();
        parameters.write(Some(""), parameters.cic("0").and(Some("")), &mut longest);
        let tail_bytes = services.iter().map(|service| service.tail.len()).max().unwrap_or(0);
        let unmapped = settings.unmapped_routing_number;
        Ok(Profile {
            zones,
            services,
            rn_and_cic_bytes_max: NAPTR_TEXT_BYTES_MAX.saturating_sub(REGEXP_START_BYTES + longest.len() + tail_bytes),
            ttl: settings.ttl,
            unported: settings.unported,
            parameters: settings.parameters,
            unmapped_routing_number: (!unmapped.is_empty()).then_some(unmapped),
            tell: settings.tell,
        })
    }

    /// The zone that a name lies in, and its labels before the apex; None if it lies in none.
    ///
    /// Of several apexes the longest one that fits is meant.
    #[inline]
    pub fn find<'m>(&self, name: &Name<'m>) -> Option<(&Zone, &'m [u8])> {
        self.zones.iter().find_map(|zone| name.before(&zone.apex).map(|labels| (zone, labels)))
    }

    /// What the records of a number say; None if it has none: it is as unknown here. Err: it was ported, and there is
    /// no route to tell; `npdi` alone would be a wrong answer.
    #[inline]
    pub fn parts<'a>(&'a self, outcome: Outcome, route: Option<&'a Route>) -> Result<Option<Parts<'a>>, NoRoute> {
        let Some(route) = route else { return Ok(None) };
        let routing_number = route.routing_number.as_deref();
        let parts = match (outcome, self.unported) {
            (Outcome::Ported, _) => Parts {
                rn: routing_number.filter(|rn| !rn.is_empty()).or(self.unmapped_routing_number.as_deref()),
                cic: self.parameters.cic(&route.network_code),
            },
            (Outcome::NotPorted, Unported::Npdi) => Parts { rn: None, cic: None },
            (Outcome::NotPorted, Unported::RoutingNumber) => Parts { rn: routing_number, cic: None },
            _ => return Ok(None),
        };
        let bytes = parts.rn.map_or(0, str::len) + parts.cic.map_or(0, str::len);
        let says_nothing = outcome == Outcome::Ported && parts.rn.is_none() && parts.cic.is_none();
        if says_nothing || bytes > self.rn_and_cic_bytes_max { Err(NoRoute) } else { Ok(Some(parts)) }
    }

    /// Whether numbers that were not ported exist.
    #[inline]
    pub fn answers_unported(&self) -> bool {
        self.unported != Unported::Unknown
    }

    /// Write what a number that exists has of this type; false if it has none of it.
    #[inline]
    pub fn answer(&self, kind: u16, parts: Parts<'_>, version: Version, reply: &mut Reply<'_>) -> bool {
        match kind {
            dns::NAPTR | dns::ANY => reply.answer_by(self.services.len() as u16, |out| {
                for service in &self.services {
                    service.write(&self.parameters, parts, out);
                }
            }),
            dns::TXT if self.tell == Tell::Txt => reply.answer_by(1, |out| self.write_txt(version, out)),
            _ => return false,
        }
        true
    }

    fn write_txt(&self, version: Version, out: &mut Vec<u8>) {
        let start = out.len();
        write_record_head(dns::TXT, self.ttl, out);
        out.push(0);
        // A vector takes all that is written.
        let _ = match version.age_seconds {
            Some(age) => write!(out, "serial={} age={age}", version.serial),
            None => write!(out, "serial={} age=-", version.serial),
        };
        let data_bytes = out.len() - start - DATA_AT;
        patch(out, start + DATA_AT, &[(data_bytes - 1) as u8]);
        patch(out, start + DATA_LENGTH_AT, &(data_bytes as u16).to_be_bytes());
    }

    /// The option of EDNS that says the same, and another one if a restriction is in force; empty if this profile does
    /// not send them. room: where they are written.
    #[inline]
    pub fn option<'r>(
        &self,
        version: Version,
        restriction: Option<InForce>,
        room: &'r mut [u8; TOLD_BYTES_MAX],
    ) -> &'r [u8] {
        if self.tell != Tell::Edns {
            return &[];
        }
        let age = version.age_seconds.map_or(NO_AGE, |age| u32::try_from(age).unwrap_or(NO_AGE));
        room[..2].copy_from_slice(&TELL_OPTION.to_be_bytes());
        room[2..4].copy_from_slice(&8_u16.to_be_bytes());
        room[4..8].copy_from_slice(&version.serial.to_be_bytes());
        room[8..12].copy_from_slice(&age.to_be_bytes());
        let Some(restriction) = restriction else { return &room[..TELL_OPTION_BYTES] };
        room[12..14].copy_from_slice(&RESTRICTION_OPTION.to_be_bytes());
        room[14..16].copy_from_slice(&8_u16.to_be_bytes());
        room[16..20].copy_from_slice(&[restriction.measure as u8, 0, 0, 0]);
        room[20..].copy_from_slice(&u32::try_from(restriction.until).unwrap_or(NO_AGE).to_be_bytes());
        room
    }
}

/// A number was ported to a network that has neither a routing number nor a code to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

impl Zone {
    fn new(apex: &str, settings: &Settings) -> Result<Zone, String> {
        let default = [(format!("ns.{apex}"), Vec::new())];
        let servers =
            if settings.nameservers.is_empty() { default.as_slice() } else { settings.nameservers.as_slice() };
        let apex = encode_name(apex)?;
        let servers =
            servers.iter().map(|(name, hosts)| Server::new(name, hosts, &apex)).collect::<Result<Vec<_>, _>>()?;
        let mut zone = Zone { apex, ..Zone::default() };
        let owner = Data::default().pointer();
        if let Some(first) = servers.first() {
            let data = soa_data(&first.data, settings.negative_ttl);
            zone.soa.add(&owner, dns::SOA, SOA_TTL, &data);
            zone.negative.add(&owner, dns::SOA, SOA_TTL.min(settings.negative_ttl), &data);
        }
        for server in &servers {
            zone.servers.add(&owner, dns::NS, SOA_TTL, &server.data);
        }
        for server in &servers {
            let Some(labels) = &server.labels else { continue };
            zone.above.extend(parents(labels).map(<[u8]>::to_vec));
            zone.addresses.append(&server.records(&server.data, dns::ANY));
            let owner = Data::default().bytes(&POINTER_TO_QUESTION);
            zone.hosts.push(Host {
                labels: labels.clone(),
                v4: server.records(&owner, dns::A),
                v6: server.records(&owner, dns::AAAA),
            });
        }
        Ok(zone)
    }

    /// What the name with these labels before the apex is.
    #[inline]
    pub fn asked(&self, labels: &[u8]) -> Asked {
        if labels.is_empty() {
            return Asked::Apex;
        }
        if let Some(at) = self.hosts.iter().position(|host| host.labels.eq_ignore_ascii_case(labels)) {
            return Asked::Host(at);
        }
        if let Some(number) = Dialled::read(labels) {
            return Asked::Number(number);
        }
        let is_above = self.above.iter().any(|above| above.eq_ignore_ascii_case(labels));
        if is_above { Asked::Above } else { Asked::Nothing }
    }

    /// Write what the zone says of itself, or of a name that is no number.
    pub fn own_records(&self, asked: Asked, kind: u16, filling: Filling, reply: &mut Reply<'_>) -> Rcode {
        let mut found = 0;
        let mut answer = |records: &Records, reply: &mut Reply<'_>| {
            reply.answer(records, filling);
            found += records.count();
        };
        match asked {
            Asked::Apex => {
                if matches!(kind, dns::SOA | dns::ANY) {
                    answer(&self.soa, reply);
                }
                if matches!(kind, dns::NS | dns::ANY) {
                    answer(&self.servers, reply);
                }
                if kind == dns::NS {
                    reply.extra(&self.addresses, filling);
                }
            }
            Asked::Host(at) => {
                let Some(host) = self.hosts.get(at) else { return Rcode::ServFail };
                if matches!(kind, dns::A | dns::ANY) {
                    answer(&host.v4, reply);
                }
                if matches!(kind, dns::AAAA | dns::ANY) {
                    answer(&host.v6, reply);
                }
            }
            Asked::Number(_) | Asked::Above | Asked::Nothing => {}
        }
        if found == 0 {
            self.nothing(filling, reply);
        }
        if asked == Asked::Nothing { Rcode::NxDomain } else { Rcode::NoError }
    }

    /// Write that there is no such name, or none of this type.
    #[inline]
    pub fn nothing(&self, filling: Filling, reply: &mut Reply<'_>) {
        reply.authority(&self.negative, filling);
    }
}

/// A name server while its zone is compiled.
struct Server<'s> {
    /// Before the apex, in lower case; None if it lies elsewhere.
    labels: Option<Vec<u8>>,
    /// Its name as records of the zone have it: inside the zone it ends in a pointer.
    data: Data,
    addresses: &'s [IpAddr],
}

impl Server<'_> {
    fn new<'s>(name: &str, addresses: &'s [IpAddr], apex: &[u8]) -> Result<Server<'s>, String> {
        let wire = encode_name(name)?;
        let read = Name::read(&wire).and_then(|(name, _)| name.before(apex));
        let data = match read {
            Some(labels) => Data::default().bytes(labels).pointer(),
            None => Data::default().bytes(&wire),
        };
        Ok(Server { labels: read.map(<[u8]>::to_ascii_lowercase), data, addresses })
    }

    /// Its addresses of a type, or of ANY: those of IPv4 first.
    fn records(&self, owner: &Data, kind: u16) -> Records {
        let mut records = Records::default();
        for address in self.addresses {
            if let (IpAddr::V4(address), dns::A | dns::ANY) = (address, kind) {
                records.add(owner, dns::A, SOA_TTL, &Data::default().bytes(&address.octets()));
            }
        }
        for address in self.addresses {
            if let (IpAddr::V6(address), dns::AAAA | dns::ANY) = (address, kind) {
                records.add(owner, dns::AAAA, SOA_TTL, &Data::default().bytes(&address.octets()));
            }
        }
        records
    }
}

/// server: the first one's name.
fn soa_data(server: &Data, minimum: u32) -> Data {
    let data = server.clone().bytes(b"\x0ahostmaster").pointer().serial();
    [SOA_NUMBERS[0], SOA_NUMBERS[1], SOA_NUMBERS[2], minimum]
        .iter()
        .fold(data, |data, number| data.bytes(&number.to_be_bytes()))
}

/// The wire form of a name, a last dot of which may be there or not.
fn encode_name(name: &str) -> Result<Vec<u8>, String> {
    let mut wire = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    let is_name = name.is_ascii() && Name::read(&wire).is_some_and(|(_, behind)| behind.is_empty());
    if is_name { Ok(wire) } else { Err(format!("{name}: no domain name of at most {DNS_NAME_BYTES_MAX} bytes")) }
}

/// What is left of whole labels when some are taken off the front; not all of them.
fn parents(labels: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(labels), |rest: &&[u8]| {
        let (length, behind): (&u8, &'_ [u8]) = (*rest).split_first()?;
        behind.get(usize::from(*length)..)
    })
    .skip(1)
    .filter(|rest| !rest.is_empty())
}

impl Service {
    fn new(at: usize, service: &str, settings: &Settings) -> Result<Service, String> {
        let (scheme, tail) = match service {
            "E2U+pstn:tel" => ("tel", "!".to_owned()),
            "E2U+pstn:sip" => ("sip", format!("@{};user=phone!", settings.domain)),
            _ => return Err(format!("{service}: not a service of this engine")),
        };
        let mut head = Vec::new();
        write_record_head(dns::NAPTR, settings.ttl, &mut head);
        head.extend(ORDER.to_be_bytes());
        head.extend((PREFERENCE_STEP * (at + 1) as u16).to_be_bytes());
        head.extend(b"\x01u");
        head.push(service.len() as u8);
        head.extend(service.as_bytes());
        head.push(0);
        head.extend(format!("!^(.*)$!{scheme}:\\1").as_bytes());
        Ok(Service { head, tail: tail.into_bytes() })
    }

    #[inline]
    fn write(&self, parameters: &Parameters, parts: Parts<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        let regexp_at = out.len() - REGEXP_START_BYTES;
        parameters.write(parts.rn, parts.cic, out);
        out.extend_from_slice(&self.tail);
        let regexp_bytes = out.len() - regexp_at;
        out.push(0); // the replacement: none
        let data_bytes = out.len() - start - DATA_AT;
        patch(out, regexp_at - 1, &[regexp_bytes as u8]);
        patch(out, start + DATA_LENGTH_AT, &(data_bytes as u16).to_be_bytes());
    }
}

/// Of a record of the question's name; the data's length is put in when they are there.
#[inline]
fn write_record_head(kind: u16, ttl: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&POINTER_TO_QUESTION);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&dns::IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
}

#[cfg(test)]
mod tests;
