//! Workers over real sockets: a panic ends the process with a message, and stopping answers what has arrived.
#![allow(clippy::unwrap_used)] // what fails to be set up fails the test

use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lookupd_native::access::{Client, Clients, Rule};
use lookupd_native::counters::Usage;
use lookupd_native::engine::{Engine, Located, Service, Terms};
use lookupd_native::plan::{Digits, Plan};
use lookupd_native::responder::{Dialect, Silence, Told};
use lookupd_native::udp::server::Server;

const AS_CHILD: &str = "LOOKUPD_TEST_PANICKING_WORKER";

fn service() -> Arc<Service> {
    let sources = vec![([127, 0, 0, 0].into(), 8)];
    let clients = Clients::new(vec![Rule { queries_per_second: 0, sources }]);
    Service::new(Terms {
        store: None,
        plan: Arc::new(Plan::new("886", "0", Vec::new())),
        stale_after: 0.0,
        usage: Arc::new(Usage::new(clients.len())),
        clients: Arc::new(clients),
    })
}

/// Sends each message back; the message `fault` is one of ours.
#[derive(Clone)]
struct Mirror;

impl Dialect for Mirror {
    const INDEX: usize = 0;
    const LATE_NS: u64 = 0;
    const BYTES_MAX: usize = 2048;
    type Question<'m> = &'m [u8];

    fn read<'m>(&self, message: &'m [u8], _: &Client, _: u64) -> Result<&'m [u8], Silence> {
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

fn start() -> (Server, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(socket.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (Server::start("udp-mirror", &service(), &Mirror, vec![socket.into()]).unwrap(), client)
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
