//! Any message of the ENUM dialect.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lookupd_native::limits::{DNS_ADDITIONAL_MAX, DNS_ANSWER_BYTES_MAX, DNS_MESSAGE_BYTES_MAX};
use lookupd_native::model::{Drop, InForce, Measure, Outcome, Route};
use lookupd_native::protocols::dns::{self, Fault, Filling, Query, Rcode, Reply};
use lookupd_native::protocols::enum_dns::{Asked, Profile, Settings, TOLD_BYTES_MAX, Tell, Version};
use lookupd_native::protocols::tel_parameters::{Parameters, Unported};

static PROFILES: LazyLock<[Profile; 3]> = LazyLock::new(|| {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let plain = Settings {
        apexes: texts(&["np.example", "e164.arpa"]),
        services: texts(&["E2U+pstn:tel"]),
        tell: Tell::Txt,
        ..Settings::default()
    };
    let addresses = |name: &str| {
        (name.to_owned(), vec!["192.0.2.1".parse().expect("an address"), "2001:db8::1".parse().expect("an address")])
    };
    let full = Settings {
        services: texts(&["E2U+pstn:sip", "E2U+pstn:tel"]),
        domain: "gw.example".to_owned(),
        nameservers: vec![addresses("ns.np.example"), addresses("a.b.np.example"), addresses("ns.test")],
        unported: Unported::RoutingNumber,
        parameters: Parameters {
            rn_context: "np.example".to_owned(),
            cic_context: "+886".to_owned(),
            ..Parameters::default()
        },
        unmapped_routing_number: "FFF".to_owned(),
        tell: Tell::Edns,
        ..plain.clone()
    };
    let short = Settings { apexes: texts(&["a"]), unported: Unported::Unknown, ..plain.clone() };
    [plain, full, short].map(|settings| Profile::new(settings).expect("settings that can be"))
});

/// Where the name that begins here ends; every pointer in it leads back, to something that is a name.
fn skip_name(reply: &[u8], mut at: usize) -> usize {
    loop {
        match reply[at] {
            0 => return at + 1,
            length @ 1..=63 => at += 1 + usize::from(length),
            high => {
                let to = usize::from(u16::from_be_bytes([high, reply[at + 1]]) & 0x3FFF);
                assert!(high >= 0xC0 && (12..at).contains(&to));
                skip_name(reply, to);
                return at + 2;
            }
        }
    }
}

/// The reply is one whole message that answers the query and is no query itself.
fn check_reply(query: &Query<'_>, reply: &[u8], bytes_max: usize) {
    assert!(reply.len() <= bytes_max);
    assert_eq!(reply[..2], query.id);
    assert!(reply[12..].starts_with(query.question));
    assert!(matches!(dns::decode_query(reply), Err(Fault::Drop(Drop::NotAQuery))));
    let count = |at: usize| usize::from(u16::from_be_bytes([reply[at], reply[at + 1]]));
    assert_eq!(count(4), 1);
    let mut at = 12 + query.question.len();
    let mut opts = 0;
    for _ in 0..count(6) + count(8) + count(10) {
        at = skip_name(reply, at);
        opts += usize::from(count(at) == usize::from(dns::OPT));
        at += 10 + count(at + 8);
    }
    assert_eq!((at, opts), (reply.len(), usize::from(query.edns.is_some())));
}

fn reply(query: &Query<'_>, bytes_max: usize, option: &[u8], write: impl FnOnce(&mut Reply<'_>) -> Rcode) {
    let mut out = b"before".to_vec();
    let mut reply = Reply::new(query, true, &mut out);
    let rcode = write(&mut reply);
    reply.end(query, rcode, option, bytes_max);
    check_reply(query, out.strip_prefix(b"before").expect("appended"), bytes_max);
}

fn check_number(profile: &Profile, query: &Query<'_>, bytes_max: usize) {
    let route = |routing_number: Option<&str>, network_code: &str| Route {
        network_code: network_code.to_owned(),
        routing_number: routing_number.map(str::to_owned),
        operator: "Alpha Telecom".to_owned(),
        pdb_carrier_id: None,
        own: true,
    };
    let mut room = [0; TOLD_BYTES_MAX];
    let version = Version { serial: 3, age_seconds: Some(42) };
    let held = InForce { measure: Measure::Stop, until: 1_858_000_000 };
    let option = profile.option(version, Some(held), &mut room);
    for route in [route(Some("D0401"), "1401"), route(None, "1401"), route(Some(&"1".repeat(200)), "ZAIN")] {
        for outcome in [Outcome::Ported, Outcome::NotPorted] {
            let Ok(Some(parts)) = profile.parts(outcome, Some(&route)) else { continue };
            reply(query, bytes_max, option, |reply| {
                profile.answer(query.kind, parts, version, reply);
                Rcode::NoError
            });
        }
    }
}

fuzz_target!(|message: &[u8]| {
    let query = match dns::decode_query(message) {
        Ok(query) => query,
        Err(Fault::Refused(query, rcode)) => {
            assert!(query.edns.is_some() || rcode == Rcode::Refused);
            return reply(&query, DNS_MESSAGE_BYTES_MAX, &[], |_| rcode);
        }
        Err(fault) => {
            assert!(matches!(fault.reason(), Drop::Malformed | Drop::NotAQuery));
            if let Fault::Bare(bare) = fault {
                let mut out = Vec::new();
                bare.write(&mut out);
                assert!(out.len() == 12 && out.len() <= message.len() && out[2] & 0x80 != 0);
            }
            return;
        }
    };
    assert!(usize::from(u16::from_be_bytes([message[10], message[11]])) <= DNS_ADDITIONAL_MAX);
    for bytes_max in [query.datagram_bytes_max(), DNS_MESSAGE_BYTES_MAX] {
        assert!(bytes_max <= DNS_ANSWER_BYTES_MAX || bytes_max == DNS_MESSAGE_BYTES_MAX);
        for profile in &*PROFILES {
            let Some((zone, labels)) = profile.find(&query.name) else { continue };
            assert!(query.question.starts_with(labels));
            let filling = Filling::new(labels, 3);
            match zone.asked(labels) {
                Asked::Number(number) => {
                    assert!(number.digits().iter().all(u8::is_ascii_digit));
                    assert_eq!(2 * number.digits().len(), labels.len());
                    check_number(profile, &query, bytes_max);
                    reply(&query, bytes_max, &[], |reply| {
                        zone.nothing(filling, reply);
                        Rcode::NxDomain
                    });
                }
                asked => reply(&query, bytes_max, &[], |reply| zone.own_records(asked, query.kind, filling, reply)),
            }
        }
    }
});
