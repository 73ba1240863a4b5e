use super::*;
use crate::model::Measure;
use crate::protocols::dns::{ANY, IN, decode_query};

fn settings() -> Settings {
    Settings {
        apexes: vec!["np.example".to_owned(), "E164.arpa".to_owned(), "i.np.example.".to_owned()],
        services: vec!["E2U+pstn:tel".to_owned(), "E2U+pstn:sip".to_owned()],
        ttl: 300,
        negative_ttl: 60,
        domain: "gw.example".to_owned(),
        nameservers: vec![
            ("Ns.np.example".to_owned(), vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()]),
            ("ns.other.test.".to_owned(), vec!["192.0.2.2".parse().unwrap()]),
            ("a.b.np.example".to_owned(), vec![]),
        ],
        ..Settings::default()
    }
}

fn wire(name: &str) -> Vec<u8> {
    encode_name(name).unwrap()
}

fn route(routing_number: Option<&str>, network_code: &str) -> Route {
    Route {
        network_code: network_code.to_owned(),
        routing_number: routing_number.map(str::to_owned),
        operator: "Alpha".to_owned(),
        pdb_carrier_id: None,
        own: true,
    }
}

/// What a reply holds behind its question, and its header's counts.
fn replied(name: &str, kind: u16, write: impl FnOnce(&mut Reply<'_>) -> Rcode) -> (Rcode, [u8; 6], Vec<u8>) {
    let question = [&wire(name), &kind.to_be_bytes()[..], &IN.to_be_bytes()].concat();
    let message = [b"\0\x01\0\0\0\x01\0\0\0\0\0\0", &question[..]].concat();
    let query = decode_query(&message).unwrap();
    let mut out = Vec::new();
    let mut reply = Reply::new(&query, true, &mut out);
    let rcode = write(&mut reply);
    reply.end(&query, rcode, &[], 65_535);
    (rcode, out[6..12].try_into().unwrap(), out[12 + question.len()..].to_vec())
}

/// What the zone of a name says of itself there.
fn own(profile: &Profile, name: &str, kind: u16) -> (Rcode, [u8; 6], Vec<u8>) {
    let wire = wire(name);
    let (zone, labels) = profile.find(&Name::read(&wire).unwrap().0).unwrap();
    replied(name, kind, |reply| zone.own_records(zone.asked(labels), kind, Filling::new(labels, 7), reply))
}

#[test]
fn longest_apex_that_fits_is_meant() {
    let profile = Profile::new(settings()).unwrap();
    let found = |name: &str| {
        let wire = wire(name);
        profile.find(&Name::read(&wire).unwrap().0).map(|(zone, labels)| (zone.apex.clone(), labels.to_vec()))
    };
    for (name, apex, labels) in [
        ("8.8.NP.example", "np.example", "8.8"),
        ("np.exAmple", "np.example", ""),
        ("8.i.np.example", "i.np.example", "8"),
        ("x.e164.ARPA", "E164.arpa", "x"),
    ] {
        let labels = if labels.is_empty() { Vec::new() } else { wire(labels).split_last().unwrap().1.to_vec() };
        assert_eq!(found(name), Some((wire(apex), labels)), "{name}");
    }
    for name in ["example", "xnp.example", "np.example.test", "arpa", "np"] {
        assert_eq!(found(name), None, "{name}");
    }
    assert_eq!(Profile::default().zones.len(), 0, "who has no profile has no zone");
}

#[test]
fn number_is_one_digit_a_label_and_the_last_one_first() {
    let read = |text: &str| Dialled::read(wire(text).split_last().unwrap().1);
    let number = read("8.7.6.5.4.3.2.1.9.6.8.8").unwrap();
    assert_eq!((number.dialled(), number.digits()), (b"+886912345678".as_slice(), b"886912345678".as_slice()));
    assert_eq!(read("0").unwrap().digits(), b"0");
    assert_eq!(read(&["1"; 15].join(".")).unwrap().digits(), [b'1'; 15]);
    for text in [&["1"; 16].join("."), "12", "1.22", "1.a", "a.1", "1.2.x.4"] {
        assert_eq!(read(text), None, "{text}");
    }
    assert_eq!(Dialled::read(b""), None);
}

#[test]
fn name_in_a_zone_is_told_apart() {
    let profile = Profile::new(settings()).unwrap();
    let zone = profile.zones.iter().find(|zone| zone.apex == wire("np.example")).unwrap();
    let asked = |text: &str| zone.asked(wire(text).split_last().unwrap().1);
    assert_eq!(zone.asked(b""), Asked::Apex);
    assert_eq!((asked("nS"), asked("A.b")), (Asked::Host(0), Asked::Host(1)));
    assert_eq!((asked("b"), asked("B")), (Asked::Above, Asked::Above));
    for text in ["x.ns", "a", "c.b", "ns.other.test", "1.ns", "hostmaster"] {
        assert_eq!(asked(text), Asked::Nothing, "{text}");
    }
    assert!(matches!(asked("1.2"), Asked::Number(_)));
}

#[test]
fn number_that_does_not_exist_has_the_sheets_soa() {
    let profile = Profile::new(Settings { nameservers: Vec::new(), ..settings() }).unwrap();
    let (zone, filling) = (&profile.zones[1], Filling::new(&[0; 24], 2_026_112_201));
    assert_eq!(zone.apex, wire("np.example"));
    let (_, counts, authority) = replied("9.7.6.5.4.3.2.1.9.6.8.8.np.example", dns::NAPTR, |reply| {
        zone.nothing(filling, reply);
        Rcode::NxDomain
    });
    let mut expected = b"\xc0\x24\0\x06\0\x01\0\0\0\x3c\0\x26\x02ns\xc0\x24\x0ahostmaster\xc0\x24".to_vec();
    expected.extend(b"\x78\xc4\x04\xc9\0\0\x0e\x10\0\0\x02\x58\0\x09\x3a\x80\0\0\0\x3c");
    assert_eq!((counts, authority), ([0, 0, 0, 1, 0, 0], expected));
}

#[test]
fn zone_says_what_it_is() {
    let profile = Profile::new(settings()).unwrap();
    let ns = |data: &[u8]| [b"\xc0\x0c\0\x02\0\x01\0\0\x0e\x10\0", &[data.len() as u8][..], data].concat();
    let servers = [ns(b"\x02Ns\xc0\x0c"), ns(b"\x02ns\x05other\x04test\0"), ns(b"\x01a\x01b\xc0\x0c")].concat();
    let v4 = |owner: &[u8]| [owner, b"\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01"].concat();
    let v6 =
        |owner: &[u8]| [owner, b"\0\x1c\0\x01\0\0\x0e\x10\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"].concat();
    let glue = [v4(b"\x02Ns\xc0\x0c"), v6(b"\x02Ns\xc0\x0c")].concat();
    let at_ns = b"\xc0\x0c".as_slice();
    let (_, counts, found) = own(&profile, "np.example", dns::NS);
    assert_eq!((counts, found), ([0, 3, 0, 0, 0, 2], [&servers[..], &glue].concat()));
    let (_, counts, found) = own(&profile, "np.example", ANY);
    assert_eq!(counts, [0, 4, 0, 0, 0, 0]);
    assert!(found.starts_with(b"\xc0\x0c\0\x06\0\x01\0\0\x0e\x10") && found.ends_with(&servers));
    for (kind, records) in [(dns::A, v4(at_ns)), (dns::AAAA, v6(at_ns)), (ANY, [v4(at_ns), v6(at_ns)].concat())] {
        let count = if kind == ANY { 2 } else { 1 };
        assert_eq!(own(&profile, "ns.np.example", kind), (Rcode::NoError, [0, count, 0, 0, 0, 0], records));
    }
    for (name, kind, rcode) in [
        ("np.example", dns::A, Rcode::NoError),
        ("a.b.np.example", dns::A, Rcode::NoError),
        ("b.np.example", ANY, Rcode::NoError),
        ("ns.np.example", dns::TXT, Rcode::NoError),
        ("x.np.example", dns::A, Rcode::NxDomain),
        ("ns.e164.arpa", dns::A, Rcode::NxDomain),
    ] {
        let (found, counts, _) = own(&profile, name, kind);
        assert_eq!((found, counts), (rcode, [0, 0, 0, 1, 0, 0]), "{name} {kind}");
    }
}

/// The records of a number whose parts these are.
fn answered(profile: &Profile, kind: u16, parts: Parts<'_>, version: Version) -> Option<Vec<u8>> {
    let mut has_records = false;
    let (_, _, records) = replied("1.np.example", kind, |reply| {
        has_records = profile.answer(kind, parts, version, reply);
        Rcode::NoError
    });
    has_records.then_some(records)
}

const VERSION: Version = Version { serial: 3, age_seconds: Some(42) };

fn naptr(preference: u8, service: &str, regexp: &str) -> Vec<u8> {
    let data = [
        &[0, 100, 0, preference, 1, b'u', service.len() as u8],
        service.as_bytes(),
        &[regexp.len() as u8],
        regexp.as_bytes(),
        &[0],
    ]
    .concat();
    [b"\xc0\x0c\0\x23\0\x01\0\0\x01\x2c\0", &[data.len() as u8][..], &data].concat()
}

#[test]
fn number_has_a_record_for_each_service() {
    let plain = Profile::new(settings()).unwrap();
    let contexts =
        Parameters { rn_context: "np.example".to_owned(), cic_context: "+886".to_owned(), ..Parameters::default() };
    let local = Profile::new(Settings { parameters: contexts, ..settings() }).unwrap();
    for (profile, rn, cic, said) in [
        (&plain, Some("88693500"), None, ";npdi;rn=+88693500"),
        (&plain, None, None, ";npdi"),
        (&local, Some("1435"), None, ";npdi;rn=1435;rn-context=np.example"),
        (&local, None, Some("123"), ";cic=123;cic-context=+886;npdi"),
        (&local, Some("D0"), Some("A1"), ";cic=A1;cic-context=+886;npdi;rn=D0;rn-context=np.example"),
    ] {
        let expected = [
            naptr(10, "E2U+pstn:tel", &format!("!^(.*)$!tel:\\1{said}!")),
            naptr(20, "E2U+pstn:sip", &format!("!^(.*)$!sip:\\1{said}@gw.example;user=phone!")),
        ]
        .concat();
        for kind in [dns::NAPTR, ANY] {
            assert_eq!(answered(profile, kind, Parts { rn, cic }, VERSION).as_ref(), Some(&expected));
        }
        assert_eq!(answered(profile, dns::TXT, Parts { rn, cic }, VERSION), None);
    }
}

#[test]
fn serial_and_age_are_told_as_the_profile_says() {
    let with = |tell| Profile::new(Settings { tell, ..settings() }).unwrap();
    let parts = Parts { rn: None, cic: None };
    let none = Version { serial: u32::MAX, age_seconds: None };
    for (version, text) in [(VERSION, "serial=3 age=42"), (none, "serial=4294967295 age=-")] {
        let length = text.len() as u8;
        let expected = [b"\xc0\x0c\0\x10\0\x01\0\0\x01\x2c\0", &[length + 1, length][..], text.as_bytes()].concat();
        assert_eq!(answered(&with(Tell::Txt), dns::TXT, parts, version), Some(expected));
    }
    let mut room = [0; TOLD_BYTES_MAX];
    assert_eq!(with(Tell::Txt).option(VERSION, None, &mut room), b"");
    let profile = with(Tell::Edns);
    assert_eq!(profile.option(VERSION, None, &mut room), b"\xfd\xe9\0\x08\0\0\0\x03\0\0\0\x2a");
    for age_seconds in [None, Some(1 << 32)] {
        let version = Version { serial: 3, age_seconds };
        assert_eq!(profile.option(version, None, &mut room), b"\xfd\xe9\0\x08\0\0\0\x03\xff\xff\xff\xff");
    }
    let held = Some(InForce { measure: Measure::NoRoaming, until: 0x6b49_d200 });
    let told = b"\xfd\xe9\0\x08\0\0\0\x03\0\0\0\x2a\xfd\xea\0\x08\x03\0\0\0\x6b\x49\xd2\0";
    assert_eq!(profile.option(VERSION, held, &mut room), told);
    assert_eq!(with(Tell::Txt).option(VERSION, held, &mut room), b"");
}

#[test]
fn outcome_and_profile_decide_what_is_said() {
    let both = Parameters { cic_context: "+886".to_owned(), ..Parameters::default() };
    let with = |unported, parameters: &Parameters, unmapped: &str| {
        let parameters = parameters.clone();
        let unmapped_routing_number = unmapped.to_owned();
        Profile::new(Settings { unported, parameters, unmapped_routing_number, ..settings() }).unwrap()
    };
    let (mapped, hex, neither) = (route(Some("D0401"), "1401"), route(None, "1A"), route(None, "ZAIN"));
    let plain = with(Unported::Npdi, &Parameters::default(), "");
    let cic = with(Unported::RoutingNumber, &both, "");
    let filled = with(Unported::Unknown, &both, "FFF");
    let parts = |rn, cic| Ok(Some(Parts { rn, cic }));
    for (profile, outcome, route, expected) in [
        (&plain, Outcome::Ported, Some(&mapped), parts(Some("D0401"), None)),
        (&plain, Outcome::Ported, Some(&hex), Err(NoRoute)),
        (&cic, Outcome::Ported, Some(&mapped), parts(Some("D0401"), Some("1401"))),
        (&cic, Outcome::Ported, Some(&hex), parts(None, Some("1A"))),
        (&cic, Outcome::Ported, Some(&neither), Err(NoRoute)),
        (&filled, Outcome::Ported, Some(&neither), parts(Some("FFF"), None)),
        (&plain, Outcome::NotPorted, Some(&mapped), parts(None, None)),
        (&cic, Outcome::NotPorted, Some(&mapped), parts(Some("D0401"), None)),
        (&cic, Outcome::NotPorted, Some(&hex), parts(None, None)),
        (&filled, Outcome::NotPorted, Some(&mapped), Ok(None)),
        (&plain, Outcome::NotAllocated, None, Ok(None)),
        (&plain, Outcome::NotPortable, None, Ok(None)),
    ] {
        assert_eq!(profile.parts(outcome, route), expected, "{outcome:?} {route:?}");
    }
}

#[test]
fn regular_expression_never_outgrows_its_length() {
    let parameters = Parameters { rn_context: "r".repeat(63), ..Parameters::default() };
    let longest = Settings { domain: "h".repeat(100), parameters, ..settings() };
    let profile = Profile::new(longest).unwrap();
    let room = profile.rn_and_cic_bytes_max;
    for (digits, fits) in [(room, true), (room + 1, false)] {
        let route = route(Some(&"1".repeat(digits)), "1");
        let parts = profile.parts(Outcome::Ported, Some(&route));
        assert_eq!(parts.is_ok(), fits);
        if let Ok(Some(parts)) = parts {
            let records = answered(&profile, dns::NAPTR, parts, VERSION).unwrap();
            let second = &records[records.len() - 257..];
            assert_eq!((second[0], second[255], second[256]), (255, b'!', 0));
        }
    }
}

#[test]
fn settings_that_no_record_could_hold_are_refused() {
    let long = ["a".repeat(63).as_str(); 4].join(".");
    for changed in [
        Settings { apexes: vec![String::new()], ..settings() },
        Settings { apexes: vec!["a..b".to_owned()], ..settings() },
        Settings { apexes: vec!["é.test".to_owned()], ..settings() },
        Settings { nameservers: vec![(long, Vec::new())], ..settings() },
        Settings { nameservers: vec![("a".repeat(64), Vec::new())], ..settings() },
        Settings { services: vec!["E2U+sip".to_owned()], ..settings() },
    ] {
        assert!(Profile::new(changed.clone()).is_err(), "{changed:?}");
    }
}
