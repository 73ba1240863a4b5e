//! Workers over real sockets: a panic ends the process with a message, and stopping answers what has arrived.
#![allow(clippy::unwrap_used)] // what fails to be set up fails the test

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lookupd_native::access::{Clients, Rule};
use lookupd_native::counters::{DIALECTS, USAGE_CELLS, Usage};
use lookupd_native::engine::{Engine, Located, Service, Terms};
use lookupd_native::plan::{Digits, Plan};
use lookupd_native::responder::{Asker, Dialect, Silence, Told};
use lookupd_native::udp::server::Server;
use lookupd_native::udp::sys::{Outbox, Peer, can_join, set_packet_info, set_timestamps};

const AS_CHILD: &str = "LOOKUPD_TEST_PANICKING_WORKER";

fn service() -> Arc<Service> {
    let sources = vec![([127, 0, 0, 0].into(), 8)];
    let clients = Clients::new(vec![Rule { sources, ..Rule::default() }]);
    Service::new(Terms {
        store: None,
        plan: Arc::new(Plan::new("886", "0", Vec::new())),
        stale_after: 0.0,
        withdrawn: false,
        usage: Arc::new(Usage::new(clients.len())),
        clients: Arc::new(clients),
    })
}

/// Sends each message back; the message `fault` is one of ours.
#[derive(Clone)]
struct Mirror<const LATE_NS: u64>;

impl<const LATE_NS: u64> Dialect for Mirror<LATE_NS> {
    const INDEX: usize = 0;
    const LATE_NS: u64 = LATE_NS;
    const BYTES_MAX: usize = 2048;
    type Question<'m> = &'m [u8];

    fn read<'m>(&self, message: &'m [u8], _: Asker<'m>, _: u64) -> Result<&'m [u8], Silence> {
        assert_ne!(message, b"fault", "a fault of ours");
        Ok(message)
    }

    fn number(&self, _: &&[u8], _: &Engine) -> Option<Digits> {
        None
    }

    fn reply(&self, question: &&[u8], _: &Located<'_>, _: &Engine, out: &mut Vec<u8>) -> Result<Told, Silence> {
        out.extend_from_slice(question);
        Ok(Told::Refusal)
    }
}

fn client_of(port: u16) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client
}

fn serve(socket: UdpSocket) -> Server {
    Server::start("udp-mirror", &service(), &Mirror::<0>, vec![socket.into()]).unwrap()
}

fn start() -> (Server, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = client_of(socket.local_addr().unwrap().port());
    (serve(socket), client)
}

/// Until a condition holds; fails the test when it does not.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn panic_in_a_worker_ends_the_process_with_a_message() {
    if std::env::var_os(AS_CHILD).is_some() {
        let (_server, client) = start();
        client.send(b"fault").unwrap();
        std::thread::sleep(Duration::from_secs(30));
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "panic_in_a_worker_ends_the_process_with_a_message"])
        .env(AS_CHILD, "1")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(6), "SIGABRT; it said: {told}");
    assert!(told.contains("a fault of ours") && told.contains("the process ends"), "{told}");
}

#[test]
fn stopping_answers_what_has_arrived_and_every_query_is_counted() {
    let (mut server, client) = start();
    let mut room = [0; 2048];
    for at in 0..200_u32 {
        client.send(&at.to_be_bytes()).unwrap();
    }
    server.stop();
    for at in 0..200_u32 {
        let length = client.recv(&mut room).unwrap();
        assert_eq!(room[..length], at.to_be_bytes());
    }
    let counts = server.counts();
    assert_eq!((counts.received(), counts.refused()[1], counts.balance()), (200, 200, 0));
    assert_eq!(server.failure(), None);
}

#[test]
fn datagrams_of_any_length_are_taken() {
    let (server, client) = start();
    let mut room = vec![0; 65_536];
    let lengths = [0, 1, 2047, 2048, 2049, 9000, 65_507];
    for length in lengths {
        client.send(&vec![7; length]).unwrap();
        if length == 0 {
            continue; // the reply of no byte is a datagram too
        }
        let replied = loop {
            match client.recv(&mut room).unwrap() {
                0 => {}
                replied => break replied,
            }
        };
        assert_eq!(replied, length.min(2048));
    }
    drop(server);
}

#[test]
fn trains_are_answered_one_by_one_and_in_order() {
    let (mut server, client) = start();
    if !(can_join(client.as_fd()) && server.gro()) {
        return; // an older kernel joins nothing
    }
    let mut room = [0; 2048];
    // 64 of one length leave as one send and arrive as one; a shorter one may end a train.
    for (count, length) in [(64, 40), (64, 1000), (3, 1), (2, 1400)] {
        let mut outbox = Outbox::new(true);
        let mut sent: Vec<Vec<u8>> = (0..count).map(|at| vec![at; length]).collect();
        sent.push(vec![99; length.div_ceil(2)]);
        for message in &sent {
            outbox.push(Peer::CONNECTED, None, message);
        }
        let flushed = outbox.flush(client.as_fd());
        assert_eq!((flushed.sent, flushed.joining), (sent.len(), true));
        for message in &sent {
            let length = client.recv(&mut room).unwrap();
            assert_eq!(room[..length], message[..]);
        }
    }
    server.stop();
    let counts = server.counts();
    assert_eq!((counts.received(), counts.refused()[1], counts.balance()), (137, 137, 0));
    assert!(server.gso());
}

#[test]
fn reply_leaves_from_the_address_that_was_asked() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    set_packet_info(socket.as_fd(), false, true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let _server = serve(socket);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut room = [0; 16];
    for host in [[127, 0, 0, 1], [127, 0, 0, 7], [127, 9, 9, 9], [127, 0, 0, 1]] {
        client.send_to(&host, (std::net::Ipv4Addr::from(host), port)).unwrap();
        let (length, from) = client.recv_from(&mut room).unwrap();
        assert_eq!((&room[..length], from.ip()), (&host[..], std::net::IpAddr::from(host)));
    }
}

#[test]
fn question_that_waited_too_long_is_dropped_as_late_and_later_ones_are_answered() {
    const LATE_NS: u64 = 50_000_000;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    set_timestamps(socket.as_fd(), true).unwrap();
    let client = client_of(socket.local_addr().unwrap().port());
    // The kernel begins to note times a moment after it was first asked to.
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..3 {
        client.send(b"early").unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let service = service();
    let mut server = Server::start("udp-mirror", &service, &Mirror::<LATE_NS>, vec![socket.into()]).unwrap();
    wait_until("the late ones are counted", || server.counts().received() == 3);
    assert_eq!(server.counts().dropped()[lookupd_native::model::Drop::Late as usize], 3);
    // A machine that is busy may let this one wait too: what counts is that it is not lost.
    let mut room = [0; 16];
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut asked = 3;
    while client.send(b"again").is_ok() && client.recv(&mut room).is_err() {
        asked += 1;
        assert!(asked < 30, "nothing is answered");
    }
    server.stop();
    let counts = server.counts();
    assert_eq!((counts.received(), counts.refused()[1], counts.balance()), (asked + 1, 1, 0));
    assert_eq!(service.terms().usage.read()[0][0], [0, 0, 0, 0, 0, 0, 1, asked, 0]);
}

#[test]
fn question_whose_time_nobody_told_is_late_unless_the_socket_was_empty_just_before() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = client_of(socket.local_addr().unwrap().port());
    client.send(b"who knows when").unwrap();
    let mut server = Server::start("udp-mirror", &service(), &Mirror::<{ u64::MAX / 4 }>, vec![socket.into()]).unwrap();
    wait_until("the first one is counted", || server.counts().received() == 1);
    assert_eq!(server.counts().dropped()[lookupd_native::model::Drop::Late as usize], 1);
    client.send(b"now").unwrap();
    let mut room = [0; 16];
    assert_eq!(client.recv(&mut room).unwrap(), 3);
    server.stop();
}

#[test]
fn errors_of_replies_to_a_peer_that_has_gone_end_nothing() {
    let (socket, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (ours, theirs) = (socket.local_addr().unwrap(), client.local_addr().unwrap());
    socket.connect(theirs).unwrap(); // only so are such errors told on the socket
    client.connect(ours).unwrap();
    for _ in 0..20 {
        client.send(b"gone before the answer").unwrap();
    }
    drop(client);
    let mut server = serve(socket);
    wait_until("all were read", || server.counts().received() == 20);
    let client = UdpSocket::bind(theirs).unwrap();
    client.connect(ours).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.send(b"here").unwrap();
    let mut room = [0; 16];
    assert_eq!(client.recv(&mut room).unwrap(), 4);
    server.stop();
    let counts = server.counts();
    assert_eq!((counts.received(), counts.balance(), server.failure()), (21, 0, None));
}

#[test]
fn socket_that_gives_nothing_but_errors_is_a_failure_that_is_told() {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap(); // ENOTCONN, each time
    let (good, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    client.connect(good.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sockets: Vec<OwnedFd> = vec![listening.into(), good.into()];
    let mut server = Server::start("udp-mirror", &service(), &Mirror::<0>, sockets).unwrap();
    wait_until("the failure is told", || server.failure().is_some());
    assert!(server.failure().unwrap().contains("not connected"), "{:?}", server.failure());
    client.send(b"the other one serves").unwrap();
    let mut room = [0; 64];
    assert_eq!(client.recv(&mut room).unwrap(), 20);
    server.stop();
}

#[test]
fn start_that_fails_half_way_leaves_no_worker_and_no_socket() {
    let good = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = good.local_addr().unwrap();
    let no_socket: OwnedFd = File::open("/dev/null").unwrap().into();
    let service = service();
    assert!(Server::start("udp-mirror", &service, &Mirror::<0>, vec![good.into(), no_socket]).is_err());
    assert_eq!(Arc::strong_count(&service), 1, "its workers have ended");
    UdpSocket::bind(address).unwrap();
}

#[test]
fn clients_list_is_taken_over_while_questions_are_asked() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = client_of(socket.local_addr().unwrap().port());
    let service = service();
    let mut server = Server::start("udp-mirror", &service, &Mirror::<0>, vec![socket.into()]).unwrap();
    let mut room = [0; 16];
    let mut lists = vec![service.terms().usage.clone()];
    for at in 0..50_u8 {
        client.send(&[at]).unwrap();
        assert_eq!(client.recv(&mut room).unwrap(), 1);
        // Others stand before ours now and then: our place in the list changes.
        let rule = |host: [u8; 4], bits| Rule { sources: vec![(host.into(), bits)], ..Rule::default() };
        let mut rules = vec![rule([127, 0, 0, 0], 8)];
        (0..at % 3).for_each(|_| rules.insert(0, rule([192, 0, 2, 1], 32)));
        let (plan, clients) = (Arc::clone(&service.terms().plan), Arc::new(Clients::new(rules)));
        let usage = Arc::new(Usage::new(clients.len()));
        lists.push(Arc::clone(&usage));
        service.use_terms(Terms { store: None, plan, stale_after: 0.0, withdrawn: false, clients, usage });
    }
    server.stop();
    let mut refused = 0;
    for usage in &lists {
        let by_client = usage.read();
        let (ours, others) = by_client.split_last().unwrap();
        assert!(others.iter().all(|others| *others == [[0; USAGE_CELLS]; DIALECTS]), "{by_client:?}");
        refused += ours[0][6];
    }
    assert_eq!((refused, server.counts().received(), server.counts().balance()), (50, 50, 0));
}
