//! The asking side against an echo, on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::udp::sys::set_receive_timeout;

fn options(server: SocketAddr) -> Options {
    Options {
        server,
        tcp: false,
        sockets: 1,
        threads: 1,
        pace: Loop::Closed { window: 8 },
        gso: false,
        asking_ns: u64::MAX,
        count: 5_000,
        timeout_ns: 2_000_000_000,
    }
}

fn questions(dialect: Dialect, batch: usize, framed: bool) -> Questions {
    let numbers = ["886912345678".into(), "886912345679".into(), "110".into()];
    match dialect {
        Dialect::Npq | Dialect::Pdb => Questions::new(dialect, &numbers, batch, framed),
        Dialect::Enum => Questions::of_enum(&numbers, "np.example", framed).unwrap(),
        Dialect::Sip => Questions::of_sip(&numbers, "127.0.0.1:5060".parse().unwrap(), framed, 7),
    }
}

/// Run against the echo; everything asked must be accounted for.
fn against_echo(change: impl FnOnce(&mut Options), questions: &Questions) -> Report {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    set_receive_timeout(socket.as_fd(), Duration::from_millis(10)).unwrap();
    let mut options = options(socket.local_addr().unwrap());
    change(&mut options);
    let done = AtomicBool::new(false);
    let gso = options.gso;
    let report = thread::scope(|scope| {
        let echo = scope.spawn(|| echo::echo(socket.as_fd(), gso, gso, || !done.load(Relaxed)).unwrap());
        let report = run(&options, questions, &Control::default()).unwrap();
        done.store(true, Relaxed);
        assert!(echo.join().unwrap() >= report.tally.received);
        report
    });
    assert_eq!(report.tally.sent, report.tally.received + report.tally.lost);
    report
}

#[test]
fn closed_loop_asks_its_count_and_gets_every_answer() {
    for (dialect, sockets, threads, gso) in [
        (Dialect::Npq, 1, 1, false),
        (Dialect::Npq, 3, 2, true),
        (Dialect::Pdb, 7, 1, false),
        (Dialect::Pdb, 1, 1, true),
        (Dialect::Enum, 3, 1, false),
        (Dialect::Enum, 1, 1, true),
        (Dialect::Sip, 3, 2, false),
        (Dialect::Sip, 1, 1, true),
    ] {
        let report = against_echo(
            |options| (options.sockets, options.threads, options.gso) = (sockets, threads, gso),
            &questions(dialect, 1, false),
        );
        let tally = &report.tally;
        assert_eq!((tally.sent, tally.received, tally.lost), (5_000, 5_000, 0));
        assert_eq!((tally.late, tally.duplicate, tally.unknown), (0, 0, 0));
        assert_eq!((tally.outcomes[7], tally.numbers, tally.latency.len()), (5_000, 5_000, 5_000));
        assert_eq!((report.gso, report.gro), (gso, gso));
        assert!(tally.cpu_ns > 0);
    }
}

#[test]
fn ids_of_two_bytes_begin_again() {
    for dialect in [Dialect::Pdb, Dialect::Enum] {
        let report = against_echo(|options| options.count = 150_000, &questions(dialect, 1, false));
        // A busy machine may lose some; each id has been given out twice all the same.
        assert!(report.tally.received > 2 << 16, "{}", report.tally.received);
        assert_eq!((report.tally.unknown, report.tally.duplicate), (0, 0));
    }
}

#[test]
fn open_loop_asks_no_faster_than_its_rate() {
    let rate = Loop::Open { rate: 2_000 };
    let report = against_echo(
        |options| (options.pace, options.count, options.sockets) = (rate, 600, 3),
        &questions(Dialect::Npq, 1, false),
    );
    assert_eq!(report.tally.sent, 600);
    assert!(report.asking_ns >= 299_500_000, "the last one is due at 299.5 ms: {}", report.asking_ns);
    let report = against_echo(
        |options| (options.pace, options.count, options.asking_ns) = (rate, u64::MAX, 200_000_000),
        &questions(Dialect::Npq, 1, false),
    );
    assert!((1..=400).contains(&report.tally.sent), "{}", report.tally.sent);
}

#[test]
fn batches_count_their_numbers() {
    let report = against_echo(|options| options.count = 10, &questions(Dialect::Npq, 40, false));
    assert_eq!((report.tally.received, report.tally.numbers), (10, 400));
}

#[test]
fn nobody_there_is_all_lost_and_soon_over() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = options(address);
    (options.count, options.timeout_ns) = (u64::MAX, 20_000_000);
    let report = run(&options, &questions(Dialect::Npq, 1, false), &Control::default()).unwrap();
    assert_eq!((report.tally.received, report.tally.sent), (0, report.tally.lost));
    assert!(report.tally.turned_away > 0);
}

#[test]
fn connection_carries_frames_until_the_server_closes_it() {
    // 300 messages of numbers of 12 digits, and some of 3
    for (dialect, bytes) in [(Dialect::Npq, 300 * 27), (Dialect::Enum, 300 * 65), (Dialect::Sip, 300 * 1_000)] {
        let tally = carried(dialect, bytes);
        assert!(tally.received > 300, "{dialect:?}: {}", tally.received);
        assert_eq!((tally.sent, tally.turned_away), (tally.received + tally.lost, 1));
        assert_eq!((tally.unknown, tally.duplicate, tally.late), (0, 0, 0));
    }
}

/// A connection to a server that sends back what comes, and closes after so many bytes.
fn carried(dialect: Dialect, bytes: usize) -> Tally {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(listener.local_addr().unwrap());
    (options.tcp, options.count) = (true, u64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut piece, mut echoed) = ([0; 37], 0); // frames come cut anywhere
            while echoed < bytes {
                let count = stream.read(&mut piece).unwrap();
                stream.write_all(&piece[..count]).unwrap();
                echoed += count;
            }
        });
        run(&options, &questions(dialect, 1, true), &Control::default()).unwrap().tally
    })
}

#[test]
fn stop_ends_a_run() {
    let control = Control::default();
    control.stop();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = options(socket.local_addr().unwrap());
    options.count = u64::MAX;
    let report = run(&options, &questions(Dialect::Npq, 1, false), &control).unwrap();
    assert_eq!(report.tally.sent, 0);
}
