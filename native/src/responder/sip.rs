//! The sip dialect: a redirect for a number that is served, a failure for any other. Mirrors `lookupd/fastpath/sip.py`.

use std::net::SocketAddr;

use super::{Asker, Dialect, Silence, Told};
use crate::engine::{Engine, Found, Located};
use crate::limits::{AMPLIFICATION_MAX, SIP_DATAGRAM_BYTES_MAX, TN_DIGITS_MIN};
use crate::model::{Drop, Outcome};
use crate::plan::Digits;
use crate::protocols::sip::message::{Request, is_empty, read_request};
use crate::protocols::sip::reply::{
    ALLOW, ALLOW_AND_ACCEPT, PING, PONG, RETRY_LATER, RETRY_SOON, write_end, write_head, write_restriction,
    write_version,
};
use crate::protocols::sip::uri::Target;
use crate::protocols::sip::{Form, Profile};
use crate::protocols::tel_parameters::Unported;

/// See `Dialect`.
#[derive(Clone)]
pub struct Sip {
    /// Messages come from streams; otherwise they are datagrams, whose sources may be forged.
    pub over_tcp: bool,
    /// Of To tags: 64 bits that nobody else knows.
    pub tag_seed: u64,
}

/// A message of sip that gets a reply.
#[allow(clippy::large_enum_variant)] // nearly all are requests
pub enum SipQuestion<'m> {
    /// Keep-alive in a stream.
    Ping,
    /// All else.
    Asked(Asked<'m>),
}

/// A request on its way to its reply.
pub struct Asked<'m> {
    request: Request<'m>,
    wants: Wants,
    profile: &'m Profile,
    peer: SocketAddr,
    /// Of the message.
    bytes: usize,
}

/// What a request gets, as far as it can be told without data.
enum Wants {
    /// This status, and header line.
    Status(u16, &'static [u8], Told),
    /// To know whether there is data.
    Health,
    /// A number's route.
    Route(Target),
}

impl Wants {
    fn fault(status: u16) -> Wants {
        let reason = if matches!(status, 400 | 513) { Drop::Malformed } else { Drop::NotAQuery };
        Wants::Status(status, &[], Told::Fault(reason))
    }

    /// Of a request within its client's rate.
    fn of(request: &Request<'_>) -> Wants {
        if request.fault != 0 {
            return Wants::fault(request.fault);
        }
        match &*request.method {
            b"OPTIONS" => Wants::Health,
            _ if request.max_forwards == Some(0) => Wants::fault(483),
            b"CANCEL" => Wants::Status(200, &[], Told::Other),
            b"INVITE" => match Target::read(&request.uri) {
                Ok(target) if target.is_dipped => Wants::Status(404, &[], Told::Other),
                Ok(target) => Wants::Route(target),
                Err(Drop::Malformed) => Wants::fault(400),
                Err(_) => Wants::fault(416),
            },
            _ => Wants::Status(405, ALLOW, Told::Fault(Drop::NotAQuery)),
        }
    }
}

impl Dialect for Sip {
    const INDEX: usize = 3;
    const LATE_NS: u64 = 0; // an answer belongs to its request by Via and CSeq: a late one does no harm
    const BYTES_MAX: usize = SIP_DATAGRAM_BYTES_MAX;
    type Question<'m> = SipQuestion<'m>;

    /// What never has an answer (keep-alive, ACK, a response) takes nothing of the allowance.
    fn read<'m>(&self, message: &'m [u8], asker: Asker<'m>, now_ns: u64) -> Result<SipQuestion<'m>, Silence> {
        if is_empty(message) {
            return if self.over_tcp && message == PING { Ok(SipQuestion::Ping) } else { Err(Silence::NotDue) };
        }
        let request = match read_request(message, self.over_tcp) {
            Ok(request) => request,
            Err(Drop::Malformed) if !self.may_be_read(asker, now_ns) => return Err(Silence::OverRate),
            Err(reason) => return Err(Silence::Dropped(reason)),
        };
        if *request.method == *b"ACK" {
            return Err(if request.fault == 0 { Silence::NotDue } else { Silence::Dropped(Drop::Malformed) });
        }
        let wants = if self.is_within_rate(&request, asker, now_ns)? {
            Wants::of(&request)
        } else {
            Wants::Status(503, RETRY_SOON, Told::Refusal)
        };
        let profile = asker.client.sip_profile();
        Ok(SipQuestion::Asked(Asked { request, wants, profile, peer: asker.peer, bytes: message.len() }))
    }

    #[inline]
    fn number(&self, question: &SipQuestion<'_>, engine: &Engine) -> Option<Digits> {
        match question {
            SipQuestion::Asked(Asked { request, wants: Wants::Route(target), .. }) => {
                let dialled = target.dialled(&request.uri);
                match dialled.context() {
                    [] => engine.digits(dialled.as_bytes()),
                    context => engine.digits_in(context, dialled.digits(), dialled.as_bytes()),
                }
            }
            _ => None,
        }
    }

    fn reply_port(&self, question: &SipQuestion<'_>) -> Option<u16> {
        match question {
            SipQuestion::Asked(asked) if !self.over_tcp => asked.request.via.reply_port(),
            _ => None,
        }
    }

    fn reply(
        &self,
        question: &SipQuestion<'_>,
        located: &Located<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Result<Told, Silence> {
        let SipQuestion::Asked(asked) = question else {
            out.extend_from_slice(PONG);
            return Ok(Told::Other);
        };
        let start = out.len();
        let told = match &asked.wants {
            Wants::Status(status, line, told) => {
                self.write(asked, *status, line, out);
                *told
            }
            Wants::Health if engine.is_usable() => {
                self.write(asked, 200, ALLOW_AND_ACCEPT, out);
                Told::Other
            }
            Wants::Health => {
                self.write(asked, 503, RETRY_LATER, out);
                answer(Outcome::Unavailable)
            }
            Wants::Route(target) => {
                let found = engine.find(located);
                let outcome = self.write_route(asked, target, located, &found, engine, out);
                if let Some(restriction) = found.restriction {
                    write_restriction(restriction, out);
                }
                if asked.profile.tells_version {
                    write_version(engine.version(), out);
                }
                answer(outcome)
            }
        };
        write_end(out);
        if !self.over_tcp && out.len() - start > AMPLIFICATION_MAX * asked.bytes {
            out.truncate(start);
            return Err(Silence::Dropped(Drop::NoRoom));
        }
        Ok(told)
    }
}

fn answer(outcome: Outcome) -> Told {
    Told::Answer { outcome, odd: false }
}

impl Sip {
    /// Whether a message that has no answer is within the rate all the same.
    fn may_be_read(&self, Asker { client, peer }: Asker<'_>, now_ns: u64) -> bool {
        !client.is_limited() || client.take(1, now_ns, (!self.over_tcp).then(|| peer.ip()))
    }

    /// Silence for most of what is not: a prefix over its rate may be forged, and only a new call is told to go
    /// elsewhere.
    fn is_within_rate(
        &self,
        request: &Request<'_>,
        Asker { client, peer }: Asker<'_>,
        now_ns: u64,
    ) -> Result<bool, Silence> {
        if !client.is_limited() {
            return Ok(true);
        }
        if !self.over_tcp && !client.take_from(peer.ip(), now_ns) {
            return Err(Silence::OverRate);
        }
        if client.take(1, now_ns, None) {
            return Ok(true);
        }
        let is_told = request.fault == 0 && matches!(&*request.method, b"INVITE" | b"OPTIONS");
        if is_told { Ok(false) } else { Err(Silence::OverRate) }
    }

    /// An answer up to its end, with one header line, or several.
    fn write(&self, asked: &Asked<'_>, status: u16, lines: &[u8], out: &mut Vec<u8>) {
        write_head(&asked.request, status, asked.peer, self.tag_seed, out);
        out.extend_from_slice(lines);
    }

    /// The answer to a number, up to its end.
    fn write_route(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        located: &Located<'_>,
        found: &Found<'_>,
        engine: &Engine,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let Asked { request, profile, .. } = asked;
        let (rn, cic) = match (found.outcome, found.route) {
            (Outcome::Unavailable, _) => {
                self.write(asked, 503, RETRY_LATER, out);
                return Outcome::Unavailable;
            }
            (Outcome::Ported, Some(route)) => {
                let rn = route.routing_number.as_deref().or(profile.unmapped_routing_number.as_deref());
                let cic = profile.parameters.cic(&route.network_code);
                if rn.is_none() && (cic.is_none() || profile.form != Form::Parameter) {
                    // The number alone would say that it was not ported.
                    self.write(asked, 500, &[], out);
                    return Outcome::Unavailable;
                }
                (rn, cic)
            }
            (Outcome::NotPorted, Some(route)) if profile.unported != Unported::Unknown => {
                let holder = route.routing_number.as_deref();
                (holder.filter(|_| profile.unported == Unported::RoutingNumber), None)
            }
            (outcome, _) => {
                let may_go_on = outcome == Outcome::NotPortable && is_incomplete(asked, target, located, engine);
                self.write(asked, if may_go_on { 484 } else { 404 }, &[], out);
                return outcome;
            }
        };
        self.write(asked, if profile.is_permanent { 301 } else { 302 }, b"Contact: ", out);
        target.write_contact(&request.uri, profile, rn, cic, out);
        out.extend_from_slice(b"\r\n");
        found.outcome
    }
}

/// Whether more digits might have made a number of it.
fn is_incomplete(asked: &Asked<'_>, target: &Target, located: &Located<'_>, engine: &Engine) -> bool {
    let dialled = target.dialled(&asked.request.uri);
    let digits = dialled.as_bytes().strip_prefix(b"+").unwrap_or(dialled.as_bytes());
    match digits.len() {
        0 => false,
        length => length < TN_DIGITS_MIN || engine.is_incomplete(located),
    }
}

#[cfg(test)]
mod tests;
