//! The order in which replies leave.

use super::*;

fn drafts(replies: &[(u16, usize)]) -> Vec<Draft> {
    let mut start = 0;
    let made = replies.iter().map(|&(port, length)| {
        start += length;
        let peer = Peer::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let origin = Origin { peer, destination: None, client: 0, arrived_ns: 1 };
        Draft { bytes: start - length..start, peer, told: Told::Other, origin, noted: 0..0 }
    });
    made.collect()
}

fn ordered(replies: &[(u16, usize)]) -> Vec<(u16, usize, usize)> {
    let mut drafts = drafts(replies);
    order_for_joining(&mut drafts);
    drafts.iter().map(|draft| (draft.peer.port(), draft.bytes.len(), draft.bytes.start)).collect()
}

#[test]
fn replies_of_one_length_to_one_peer_become_neighbours() {
    assert_eq!(
        ordered(&[(1, 50), (1, 90), (1, 50), (1, 90), (2, 7), (1, 40), (1, 60)]),
        [(1, 90, 50), (1, 90, 190), (1, 50, 0), (1, 50, 140), (2, 7, 280), (1, 60, 327), (1, 40, 287)]
    );
}

#[test]
fn replies_in_order_stay() {
    let replies = [(1, 90), (1, 90), (1, 50), (2, 50), (1, 50)];
    assert_eq!(ordered(&replies), [(1, 90, 0), (1, 90, 90), (1, 50, 180), (2, 50, 230), (1, 50, 280)]);
}
