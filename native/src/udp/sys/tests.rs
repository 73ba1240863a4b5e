//! Real sockets on loopback; and control messages of any bytes.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::beside::put_control;
use super::*;

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    set_receive_timeout(socket.as_fd(), Duration::from_secs(2)).unwrap();
    socket
}

fn pair() -> (UdpSocket, UdpSocket) {
    (socket("127.0.0.1:0"), socket("127.0.0.1:0"))
}

fn peer_of(socket: &UdpSocket) -> Peer {
    socket.local_addr().unwrap().into()
}

/// Everything that arrives until `count` datagrams are there: bytes, and how they were joined.
fn take(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut inbox = Inbox::new(32, SLOT_BYTES);
    let mut found = Vec::new();
    while found.len() < count {
        let filled = inbox.receive(socket.as_fd(), true).unwrap();
        for at in 0..filled {
            found.extend(inbox.get(at).datagrams().map(<[u8]>::to_vec));
        }
    }
    found
}

fn push_all(outbox: &mut Outbox, peer: Peer, replies: &[Vec<u8>]) {
    for reply in replies {
        outbox.push(peer, None, reply);
    }
}

fn lengths(outbox: &Outbox) -> Vec<usize> {
    outbox.runs.iter().map(|run| run.replies.len()).collect()
}

fn of_lengths(lengths: &[usize]) -> Vec<Vec<u8>> {
    lengths.iter().enumerate().map(|(at, length)| vec![at as u8; *length]).collect()
}

#[test]
fn replies_of_one_length_to_one_peer_join_and_arrive_in_order() {
    let (ours, theirs) = pair();
    let replies = of_lengths(&[20, 20, 20, 7, 20, 20, 30, 0, 0, 20]);
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer_of(&theirs), &replies);
    assert_eq!(lengths(&outbox), [4, 2, 1, 1, 1, 1]); // a shorter one ends a run, a longer or empty one begins anew
    let flushed = outbox.flush(ours.as_fd());
    assert_eq!((flushed.sent, flushed.joining), (10, true));
    assert!(flushed.unsent.is_empty() && outbox.is_empty());
    assert_eq!(take(&theirs, 10), replies);
}

#[test]
fn runs_end_at_64_replies_and_at_what_a_datagram_holds() {
    let peer = Peer::from(SocketAddr::from(([127, 0, 0, 1], 9)));
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer, &of_lengths(&[1; 129]));
    assert_eq!(lengths(&outbox), [64, 64, 1]);
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer, &of_lengths(&[DATAGRAM_BYTES_MAX - 10, 10, 1]));
    assert_eq!(lengths(&outbox), [2, 1]);
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer, &of_lengths(&[DATAGRAM_BYTES_MAX - 10, 11]));
    assert_eq!(lengths(&outbox), [1, 1]);
}

#[test]
fn neither_peers_nor_destinations_are_mixed_in_a_run() {
    let (one, other) =
        (Peer::from(SocketAddr::from(([127, 0, 0, 1], 9))), Peer::from(SocketAddr::from(([127, 0, 0, 1], 10))));
    let mut outbox = Outbox::new(true);
    for (peer, destination) in
        [(one, None), (other, None), (one, None), (one, Some(Destination::V4([127, 0, 0, 1]))), (one, None)]
    {
        outbox.push(peer, destination, b"x");
    }
    assert_eq!(lengths(&outbox), [1; 5]);
}

#[test]
fn nothing_is_joined_when_told_not_to() {
    let (ours, theirs) = pair();
    let mut outbox = Outbox::new(false);
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[5; 40]));
    assert_eq!(lengths(&outbox), [1; 40]);
    assert_eq!(outbox.flush(ours.as_fd()).sent, 40);
    assert_eq!(take(&theirs, 40), of_lengths(&[5; 40]));
}

#[test]
fn kernel_that_cannot_join_gets_them_singly_and_is_not_asked_again() {
    let (ours, theirs) = pair();
    // Without checksums the kernel refuses to cut (EINVAL), as a device without the offload does.
    set(ours.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1_i32).unwrap();
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[9; 10]));
    assert_eq!(lengths(&outbox), [10]);
    let flushed = outbox.flush(ours.as_fd());
    assert_eq!((flushed.sent, flushed.joining), (10, false));
    assert!(flushed.unsent.is_empty());
    assert_eq!(take(&theirs, 10), of_lengths(&[9; 10]));
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[9; 3]));
    assert_eq!(lengths(&outbox), [1; 3]);
    assert!(!outbox.flush(ours.as_fd()).joining);
    assert_eq!(take(&theirs, 3), of_lengths(&[9; 3]));
}

#[test]
fn peer_that_cannot_be_reached_is_told_by_place_and_stops_neither_others_nor_joining() {
    let (ours, theirs) = pair();
    let nowhere = Peer::from(SocketAddr::from(([127, 0, 0, 1], 0))); // port 0: EINVAL
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[4; 3]));
    push_all(&mut outbox, nowhere, &of_lengths(&[4; 2]));
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[4; 2]));
    outbox.push(Peer::from(SocketAddr::from(([255, 255, 255, 255], 9))), None, b"to all"); // EACCES
    outbox.push(peer_of(&theirs), None, &vec![0; DATAGRAM_BYTES_MAX + 1]); // EMSGSIZE
    outbox.push(peer_of(&theirs), None, b"last");
    let flushed = outbox.flush(ours.as_fd());
    assert_eq!((flushed.sent, flushed.joining), (6, true));
    assert_eq!(flushed.unsent, [3..4, 4..5, 7..8, 8..9]);
    assert_eq!(take(&theirs, 6).last().unwrap(), b"last");
}

#[test]
fn more_runs_than_one_call_takes_all_leave() {
    let (ours, theirs) = pair();
    set_receive_buffer(theirs.as_fd(), 4 << 20).unwrap();
    let mut outbox = Outbox::new(false);
    let nowhere = Peer::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    push_all(&mut outbox, nowhere, &of_lengths(&[1; 1500])); // 1,024 a call; every one fails
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[1; 50]));
    let flushed = outbox.flush(ours.as_fd());
    assert_eq!((flushed.sent, flushed.unsent.len()), (50, 1500));
    assert_eq!(take(&theirs, 50).len(), 50);
}

#[test]
fn closed_socket_is_an_error_and_no_more() {
    let (ours, theirs) = pair();
    let (reading, _writing) = std::io::pipe().unwrap(); // no socket at all, as a number reused by a file
    let mut outbox = Outbox::new(true);
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[4; 3]));
    assert_eq!(outbox.flush(reading.as_fd()).unsent.as_slice(), std::slice::from_ref(&(0..3)));
    assert!(Inbox::new(2, 100).receive(reading.as_fd(), true).is_err());
    assert!(duplicate(1 << 20).is_err());
    assert!(duplicate(ours.as_raw_fd()).is_ok());
}

#[test]
fn received_tells_peer_time_truncation_and_segments() {
    let (ours, theirs) = pair();
    set_gro(theirs.as_fd(), true).unwrap();
    set_timestamps(theirs.as_fd(), true).unwrap();
    let mut inbox = Inbox::new(4, 100);
    let mut outbox = Outbox::new(true);
    // The kernel begins to note times a moment after the first socket asked.
    let told = (0..200).any(|_| {
        outbox.push(peer_of(&theirs), None, b"when");
        outbox.flush(ours.as_fd());
        assert_eq!(inbox.receive(theirs.as_fd(), true).unwrap(), 1);
        let found = inbox.get(0);
        assert_eq!((found.peer, found.segment, found.truncated), (peer_of(&ours), 0, false));
        assert_eq!(found.peer.port(), ours.local_addr().unwrap().port());
        assert_eq!(found.destination, None);
        std::thread::sleep(Duration::from_millis(1));
        found.arrived_ns != 0 && now_realtime_ns() - found.arrived_ns < 60_000_000_000
    });
    assert!(told);
    push_all(&mut outbox, peer_of(&theirs), &of_lengths(&[30, 30, 30, 5]));
    outbox.flush(ours.as_fd());
    let filled = inbox.receive(theirs.as_fd(), true).unwrap();
    let found: Vec<_> = (0..filled).map(|at| inbox.get(at)).collect();
    assert_eq!(found.iter().flat_map(Received::datagrams).collect::<Vec<_>>(), of_lengths(&[30, 30, 30, 5]));
    assert_eq!(found[0].segment, 30, "loopback hands over what was joined as it is");
    outbox.push(peer_of(&theirs), None, &[7; 101]);
    outbox.flush(ours.as_fd());
    assert_eq!(inbox.receive(theirs.as_fd(), true).unwrap(), 1);
    assert!(inbox.get(0).truncated);
    assert_eq!(inbox.get(0).bytes, [7; 100]);
    assert_eq!(inbox.receive(theirs.as_fd(), false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn slots_are_used_again_whatever_was_in_them() {
    let (ours, theirs) = pair();
    let mut inbox = Inbox::new(3, 50);
    for round in 0..20_u8 {
        for at in 0..=(round % 3) {
            ours.send_to(&vec![round; usize::from(at) + 1], theirs.local_addr().unwrap()).unwrap();
        }
        let filled = inbox.receive(theirs.as_fd(), true).unwrap();
        assert_eq!(filled, usize::from(round % 3) + 1);
        for at in 0..filled {
            assert_eq!(inbox.get(at).bytes, vec![round; at + 1]);
            assert_eq!(inbox.get(at).peer, peer_of(&ours));
        }
        assert!(inbox.receive(theirs.as_fd(), false).is_err());
    }
}

#[test]
fn reply_leaves_from_the_address_that_was_asked() {
    for (wildcard, asked) in [("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "::1")] {
        let server = socket(wildcard);
        let v6 = asked.contains(':');
        set_packet_info(server.as_fd(), v6, true).unwrap();
        let client = socket(if v6 { "[::1]:0" } else { "127.0.0.1:0" });
        let port = server.local_addr().unwrap().port();
        client.send_to(b"question", (asked, port)).unwrap();
        let mut inbox = Inbox::new(1, 100);
        assert_eq!(inbox.receive(server.as_fd(), true).unwrap(), 1);
        let found = inbox.get(0);
        assert!(found.destination.is_some());
        let mut outbox = Outbox::new(true);
        outbox.push(found.peer, found.destination, b"answer");
        outbox.push(found.peer, found.destination, b"answer");
        assert_eq!(outbox.flush(server.as_fd()).sent, 2);
        let (_, from) = client.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from.ip().to_string(), asked);
    }
}

#[test]
fn peers_keep_address_and_port() {
    for address in ["127.0.0.1:4700", "[2001:db8::7]:53"] {
        let address: SocketAddr = address.parse().unwrap();
        let peer = Peer::from(address);
        assert_eq!((peer.ip(), peer.port()), (address.ip(), address.port()));
    }
    assert_eq!(Peer::CONNECTED.port(), 0);
}

#[test]
fn receive_timeout_ends_a_wait() {
    let (ours, _) = pair();
    set_receive_timeout(ours.as_fd(), Duration::from_millis(10)).unwrap();
    let error = Inbox::new(1, 10).receive(ours.as_fd(), true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

fn received(bytes: &[u8]) -> Received<'_> {
    Received { bytes, peer: Peer::CONNECTED, segment: 0, arrived_ns: 0, destination: None, truncated: false }
}

#[test]
fn segment_sizes_that_cannot_be_right_leave_one_datagram() {
    for (size, expected) in [(-1, 0), (0, 0), (1, 1), (9, 9), (10, 0), (i32::MAX, 0)] {
        let mut control = Control([0; CONTROL_BYTES]);
        let end = put_control(&mut control, 0, libc::SOL_UDP, libc::UDP_GRO, &i32::to_ne_bytes(size));
        let mut found = received(&[0; 10]);
        read_control(&control.0[..end], &mut found);
        assert_eq!(found.segment, expected);
    }
}

proptest! {
    #[test]
    fn control_messages_of_any_bytes_are_read(bytes: Vec<u8>, size in 0..200_usize, kind in 0..4) {
        let (level, kind) = [
            (libc::SOL_UDP, libc::UDP_GRO),
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS),
            (libc::IPPROTO_IP, libc::IP_PKTINFO),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
        ][kind as usize];
        let mut whole = size.to_ne_bytes().to_vec();
        whole.extend(level.to_ne_bytes());
        whole.extend(kind.to_ne_bytes());
        whole.extend(&bytes);
        let payload = [0; 100];
        for buffer in [&bytes, &whole] {
            let mut found = received(&payload);
            read_control(buffer, &mut found);
            prop_assert!(found.datagrams().map(<[u8]>::len).sum::<usize>() == 100);
        }
    }
}
