use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn rule(sources: &[(&str, u8)]) -> Rule {
    let sources = sources.iter().map(|(address, bits)| (address.parse().unwrap(), *bits)).collect();
    Rule { sources, ..Rule::default() }
}

#[test]
fn first_rule_that_holds_the_address_wins() {
    let clients = Clients::new(vec![
        rule(&[("192.0.2.7", 32), ("2001:db8::", 32)]),
        rule(&[("192.0.2.0", 24), ("10.1.2.3", 8)]),
        rule(&[]),
        rule(&[("192.0.2.8", 32), ("10.0.0.0", 16), ("::", 1)]),
    ]);
    let cases = [
        ("192.0.2.7", Some(0)),
        ("192.0.2.8", Some(1)),
        ("192.0.3.1", None),
        ("10.0.0.1", Some(1)),
        ("11.0.0.0", None),
        ("2001:db8::1", Some(0)),
        ("2001:db9::1", Some(3)),
        ("8000::", None),
        ("::ffff:192.0.2.7", Some(3)), // no IPv4 address
    ];
    for (host, found) in cases {
        assert_eq!(clients.find(host.parse().unwrap()), found, "{host}");
    }
    assert_eq!((clients.len(), clients.is_empty()), (4, false));
    assert!(Clients::new(vec![]).is_empty());
    assert_eq!(Clients::new(vec![]).find("::1".parse().unwrap()), None);
}

#[test]
fn network_of_no_bits_holds_every_address_of_its_family() {
    let clients = Clients::new(vec![rule(&[("1.2.3.4", 0)]), rule(&[("::1", 0)]), rule(&[("1.2.3.4", 99)])]);
    assert_eq!(clients.find("255.255.255.255".parse().unwrap()), Some(0));
    assert_eq!(clients.find("ffff::".parse().unwrap()), Some(1));
}

#[test]
fn rate_allows_a_second_at_once_and_then_a_steady_stream() {
    let client = Client::new(10);
    assert!(client.is_limited());
    assert_eq!((0..25).filter(|_| client.take(1, 100_000 * MS, None)).count(), 10);
    assert!(!client.take(1, 100_050 * MS, None));
    assert!(client.take(1, 100_200 * MS, None));
    assert_eq!((0..25).filter(|_| client.take(1, 200_000 * MS, None)).count(), 10);
}

#[test]
fn batch_over_a_seconds_allowance_needs_a_full_bucket_and_leaves_a_debt() {
    let client = Client::new(10);
    assert!(client.take(30, 100_000 * MS, None));
    assert!(!client.take(1, 101_900 * MS, None));
    assert!(client.take(1, 102_200 * MS, None));
}

#[test]
fn debt_far_in_the_future_does_not_overflow() {
    let client = Client::new(1);
    assert!(client.take(u64::MAX, 5, None));
    assert!(!client.take(u64::MAX, 6, None));
    assert!(client.take(u64::MAX, u64::MAX, None));
    assert!(!client.take(1, 0, None));
    let widest = Client::new(u64::MAX);
    assert!(widest.take(u64::MAX, 0, None));
    assert!(!widest.take(u64::MAX, 0, None));
}

#[test]
fn no_rate_is_no_limit() {
    let client = Client::new(0);
    assert!(!client.is_limited());
    assert!((0..1000).all(|_| client.take(u64::MAX, 1, None)));
}

#[test]
fn threads_that_share_a_bucket_take_no_more_than_it_holds() {
    let clients = Arc::new(Clients::new(vec![Rule { queries_per_second: 10_000, ..Rule::default() }]));
    let takers: Vec<_> = (0..4)
        .map(|_| {
            let clients = Arc::clone(&clients);
            thread::spawn(move || (0..10_000).filter(|_| clients.client(0).take(1, 1000 * MS, None)).count())
        })
        .collect();
    assert_eq!(takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>(), 10_000);
}

proptest! {
    #[test]
    fn client_is_the_one_that_a_search_in_order_finds(
        lists in proptest::collection::vec(proptest::collection::vec((any::<u32>(), 0_u8..33), 0..4), 0..6),
        hosts in proptest::collection::vec(any::<u32>(), 1..20),
    ) {
        let rules = lists.iter().map(|sources| Rule {
            sources: sources.iter().map(|&(word, bits)| (IpAddr::from(word.to_be_bytes()), bits)).collect(),
            ..Rule::default()
        });
        let clients = Clients::new(rules.collect());
        for host in hosts.iter().copied().chain(lists.iter().flatten().map(|source| source.0 ^ 1)) {
            let holds = |&(word, bits): &(u32, u8)| bits == 0 || (word ^ host) >> (32 - u32::from(bits)) == 0;
            let found = lists.iter().position(|sources| sources.iter().any(holds));
            prop_assert_eq!(clients.find(IpAddr::from(host.to_be_bytes())), found);
        }
    }
}

#[test]
fn own_questions_are_told_by_address_and_port() {
    let clients = Clients::new(vec![Rule::default()]);
    let asker = |text: &str| {
        let asker: SocketAddr = text.parse().unwrap();
        clients.is_own(|| asker)
    };
    assert!(!asker("127.0.0.1:0") && !asker("192.0.2.1:9"));
    for own in ["127.0.0.1:4711", "[::1]:4711"] {
        clients.set_own(Some(own.parse().unwrap()));
        for other in
            ["127.0.0.1:4711", "[::1]:4711", "127.0.0.1:4712", "127.0.0.2:4711", "192.0.2.1:4711", "[::2]:4711"]
        {
            assert_eq!(asker(other), other == own, "{other} while {own} asks");
        }
    }
    clients.set_own(None);
    assert!(!asker("127.0.0.1:4711"));
    clients.set_own(Some("192.0.2.1:4711".parse().unwrap()));
    assert!(!asker("192.0.2.1:4711") && !asker("192.0.2.2:1"), "never another machine's address");
}
