//! What carries questions and answers: a connected UDP socket, or a TCP connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::Options;
use super::asking::Asking;
use super::frames;
use super::tally::Tally;
use crate::limits::NPQ_FRAME_BYTES_MAX;
use crate::udp::sys::{Inbox, Outbox, Peer, SEGMENTS_MAX, SLOT_BYTES, now_monotonic_ns, set_gro, set_receive_buffer};

/// Datagrams, or runs of them, that one call takes.
const SLOTS: usize = 32;
/// Questions asked at one visit: what one joined send holds. Between two of them answers are taken.
const BURST: usize = SEGMENTS_MAX;
/// Asked of the kernel for each socket: the answers to a few thousand questions.
const RECEIVE_BUFFER_BYTES: i32 = 4 << 20;
const READ_BYTES: usize = 1 << 18;
/// Bytes waiting for the connection, above which nothing more is asked on it.
const WRITE_BYTES_MAX: usize = 1 << 18;
const CONNECT_SECONDS: u64 = 5;

/// Buffers of one thread, used for one line after another.
pub struct Desk {
    inbox: Inbox,
    outbox: Outbox,
    gso: bool,
    ids: Vec<u32>,
}

impl Desk {
    /// Made once for a thread.
    pub fn new(options: &Options) -> Desk {
        let slots = if options.tcp { 1 } else { SLOTS };
        Desk {
            inbox: Inbox::new(slots, SLOT_BYTES),
            outbox: Outbox::new(options.gso),
            gso: options.gso && !options.tcp,
            ids: Vec::new(),
        }
    }

    /// Whether queries left joined to the end, and whether replies could arrive joined.
    pub fn offloads(&self, lines: &[Line<'_>]) -> (bool, bool) {
        (self.gso, lines.iter().all(|line| matches!(line.wire, Wire::Udp { gro: true, .. })))
    }
}

enum Wire {
    Udp { socket: UdpSocket, gro: bool },
    Tcp(Connection),
}

/// One socket with what it asks.
pub struct Line<'a> {
    /// Its questions and answers.
    pub asking: Asking<'a>,
    wire: Wire,
}

impl<'a> Line<'a> {
    /// Connect to the server. Errors: as the system has them.
    pub fn open(options: &Options, asking: Asking<'a>) -> io::Result<Line<'a>> {
        let wire = if options.tcp {
            Wire::Tcp(Connection::open(options.server)?)
        } else {
            let any = match options.server {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(options.server)?;
            set_receive_buffer(socket.as_fd(), RECEIVE_BUFFER_BYTES)?;
            let gro = options.gso && set_gro(socket.as_fd(), true).is_ok();
            Wire::Udp { socket, gro }
        };
        Ok(Line { asking, wire })
    }

    /// Whether nothing more will be asked here.
    pub fn has_asked_all(&self) -> bool {
        self.asking.is_done() || matches!(&self.wire, Wire::Tcp(connection) if connection.is_closed)
    }

    /// Take the answers that are there, then ask what is due, unless it is `ask_until_ns` already.
    /// Returns the time, on the monotonic clock.
    pub fn visit(&mut self, desk: &mut Desk, tally: &mut Tally, ask_until_ns: u64) -> u64 {
        match &mut self.wire {
            Wire::Udp { socket, .. } => visit_socket(socket, &mut self.asking, desk, tally, ask_until_ns),
            Wire::Tcp(connection) => connection.visit(&mut self.asking, tally, ask_until_ns),
        }
    }
}

fn visit_socket(
    socket: &UdpSocket,
    asking: &mut Asking<'_>,
    desk: &mut Desk,
    tally: &mut Tally,
    ask_until_ns: u64,
) -> u64 {
    let filled = if asking.is_waiting() { desk.inbox.receive(socket.as_fd(), false) } else { Ok(0) };
    let now = now_monotonic_ns();
    match filled {
        Ok(filled) => {
            for at in 0..filled {
                for datagram in desk.inbox.get(at).datagrams() {
                    asking.take(datagram, now, tally);
                }
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(_) => tally.turned_away += 1, // nobody listens there, or the way is barred
    }
    if now < ask_until_ns {
        desk.ids.clear();
        while desk.ids.len() < BURST
            && let Some((id, message)) = asking.next(now, tally)
        {
            desk.outbox.push(Peer::CONNECTED, None, message);
            desk.ids.push(id);
        }
        if !desk.outbox.is_empty() {
            let flushed = desk.outbox.flush(socket.as_fd());
            desk.gso &= flushed.joining;
            for id in flushed.unsent.into_iter().flat_map(|places| &desk.ids[places]) {
                asking.not_sent(*id, tally);
            }
        }
    }
    now
}

/// A TCP connection: messages out in one piece, messages in as they come.
struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    read: Vec<u8>,
    /// Bytes of `read` that hold something.
    filled: usize,
    is_closed: bool,
}

impl Connection {
    fn open(server: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(CONNECT_SECONDS))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let read = vec![0; READ_BYTES + NPQ_FRAME_BYTES_MAX]; // no dialect has a longer message
        Ok(Connection { stream, out: Vec::new(), written: 0, read, filled: 0, is_closed: false })
    }

    fn visit(&mut self, asking: &mut Asking<'_>, tally: &mut Tally, ask_until_ns: u64) -> u64 {
        let come = if asking.is_waiting() { self.receive() } else { Ok(()) };
        let now = now_monotonic_ns();
        let gone = come.and_then(|()| self.take_frames(asking, now, tally)).and_then(|()| {
            for _ in 0..BURST {
                if now >= ask_until_ns || self.is_closed || self.out.len() > WRITE_BYTES_MAX {
                    break;
                }
                let Some((_, frame)) = asking.next(now, tally) else { break };
                self.out.extend_from_slice(frame);
            }
            self.send()
        });
        if gone.is_err() {
            tally.turned_away += u64::from(!self.is_closed);
            self.is_closed = true;
            asking.give_up_all(tally);
        }
        now
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.read[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(error) => may_go_on(error),
        }
    }

    /// Errors: bytes behind which no message can be found again.
    fn take_frames(&mut self, asking: &mut Asking<'_>, now: u64, tally: &mut Tally) -> io::Result<()> {
        let mut at = 0;
        let held = &self.read[..self.filled];
        while let Some(message) = frames::cut(asking.dialect(), &held[at..])? {
            asking.take(&held[at..][message.clone()], now, tally);
            at += message.end;
        }
        self.read.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

fn may_go_on(error: io::Error) -> io::Result<()> {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::load::pace::{Loop, Pace};
    use crate::load::questions::{Dialect, Questions};

    /// An answer in a frame, its result of so many bytes more.
    fn frame(id: u8, more: usize) -> Vec<u8> {
        let mut message = vec![0x96, 1, 1, 0xCE, 0, 1, 0, id, 5, 60, 0x92, 1, 0xA0 | more as u8];
        message.resize(message.len() + more, b'x');
        [&(message.len() as u32).to_be_bytes(), message.as_slice()].concat()
    }

    #[test]
    fn frames_are_found_wherever_they_were_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let frames: Vec<u8> = (0..20).flat_map(|id| frame(id, usize::from(id))).collect();
        let questions = Questions::new(Dialect::Npq, &["110".into()], 1, true);
        for size in 1..60 {
            let mut connection = Connection::open(listener.local_addr().unwrap()).unwrap();
            let pace = Pace::new(Loop::Closed { window: 20 }, 0, 1, 20);
            let (mut asking, mut tally) = (Asking::new(&questions, 0, 0, pace, 20, 1), Tally::new());
            while asking.next(0, &mut tally).is_some() {}
            for piece in frames.chunks(size) {
                connection.read[connection.filled..][..piece.len()].copy_from_slice(piece);
                connection.filled += piece.len();
                connection.take_frames(&mut asking, 1, &mut tally).unwrap();
            }
            assert_eq!((tally.received, tally.outcomes[1], connection.filled), (20, 20, 0), "pieces of {size}");
        }
    }
}
