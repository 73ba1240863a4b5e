//! One thread and its socket: a batch of datagrams in, their replies out, nothing shared but counters and terms.
//!
//! Mirrors `lookupd/transports/udp.py`. The socket is made elsewhere; what a message means is the dialect's.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::access::Clients;
use crate::counters::{Counters, Usage};
use crate::engine::{Engine, Located, Service};
use crate::limits::DRAIN_NS;
use crate::model::Drop;
use crate::responder::{Asker, Dialect, Silence, Tally, Told};
use crate::tap::{Asking, Tape};
use crate::udp::server::Shared;
use crate::udp::sys::{Destination, Inbox, Outbox, Peer, Received, SLOT_BYTES, now_monotonic_ns, now_realtime_ns};

/// Datagrams, or with GRO trains of datagrams, read in one system call.
const SLOTS: usize = 32;

/// Questions that are answered and sent before the next ones of a train are read: one train of replies, and the
/// blocks of so many questions (2 kB each) stay in the processor's second cache.
const QUESTIONS_AHEAD: usize = 64;

/// Errors of the socket one after another, without one datagram between them, that end the worker.
const ERRORS_IN_A_ROW_MAX: u32 = 10_000;

/// One worker, before and while it runs.
pub struct Worker<D: Dialect> {
    socket: OwnedFd,
    dialect: D,
    engine: Engine,
    inbox: Inbox,
    replies: Replies,
    sources: Sources,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    /// Until this moment of the monotonic clock a datagram of which no time of arrival was told is not late.
    fresh_until: u64,
}

/// A question on its way to its reply.
struct Waiting<'b, Q> {
    question: Q,
    located: Located<'b>,
    origin: Origin,
}

/// Where a question came from, and when.
#[derive(Clone, Copy)]
struct Origin {
    peer: Peer,
    destination: Option<Destination>,
    client: usize,
    arrived_ns: u64,
}

impl Origin {
    /// For the query log.
    fn asking(&self) -> Asking {
        Asking { client: self.client, source: self.peer.ip(), at_ns: self.arrived_ns }
    }
}

/// A reply that is made and has not left.
struct Draft {
    /// Of `Replies::bytes`.
    bytes: Range<usize>,
    peer: Peer,
    told: Told,
    origin: Origin,
    /// Of the tape.
    noted: Range<usize>,
}

/// Replies on their way out, and what is to be counted when they have left.
struct Replies {
    outbox: Outbox,
    drafts: Vec<Draft>,
    bytes: Vec<u8>,
    tally: Tally,
    tape: Tape,
    /// Whose usage is in the tally.
    client: usize,
    /// Whether replies to one peer leave joined.
    joins: bool,
}

/// The client of the last source address; most datagrams come from the same one as the datagram before.
#[derive(Default)]
struct Sources {
    last: Option<(IpAddr, Option<usize>)>,
}

impl Sources {
    fn find(&mut self, clients: &Clients, host: IpAddr) -> Option<usize> {
        match self.last {
            Some((known, client)) if known == host => client,
            _ => {
                let client = clients.find(host);
                self.last = Some((host, client));
                client
            }
        }
    }
}

impl<D: Dialect> Worker<D> {
    /// socket: bound, with a receive timeout, so that the worker sees `stop` and new terms when nothing is asked.
    pub fn new(
        socket: OwnedFd,
        dialect: D,
        service: Arc<Service>,
        counters: Arc<Counters>,
        stop: Arc<AtomicBool>,
        shared: Arc<Shared>,
    ) -> Worker<D> {
        let tape = service.tap().tape(D::INDEX, "udp");
        Worker {
            socket,
            dialect,
            engine: Engine::new(service),
            inbox: Inbox::new(SLOTS, SLOT_BYTES),
            replies: Replies {
                outbox: Outbox::new(true),
                drafts: Vec::with_capacity(QUESTIONS_AHEAD),
                bytes: Vec::with_capacity(QUESTIONS_AHEAD * 256),
                tally: Tally::default(),
                tape,
                client: 0,
                joins: true,
            },
            sources: Sources::default(),
            counters,
            stop,
            shared,
            fresh_until: 0,
        }
    }

    /// Serve until `stop`, then answer what has arrived. Err: the socket cannot be read any more, and why.
    pub fn run(&mut self) -> io::Result<()> {
        let mut errors = 0;
        let mut stop_at = u64::MAX;
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            if stopping {
                let now = now_monotonic_ns();
                stop_at = stop_at.min(now + DRAIN_NS);
                if now >= stop_at {
                    return Ok(()); // peers that never cease to ask do not keep us
                }
            }
            match self.inbox.receive(self.socket.as_fd(), !stopping) {
                Ok(count) => {
                    errors = 0;
                    self.serve(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stopping {
                        return Ok(());
                    }
                    self.engine.rest();
                    self.replies.tape.publish();
                    self.socket_is_empty(now_monotonic_ns());
                }
                // An ICMP error of an earlier reply is told on this socket: the next read goes on.
                Err(error) => {
                    errors += 1;
                    // ECONNABORTED: an operator has destroyed the socket (`ss -K`); it has no address any more.
                    if errors > ERRORS_IN_A_ROW_MAX
                        || matches!(error.raw_os_error(), Some(libc::EBADF | libc::ECONNABORTED))
                    {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What is read from now on arrived after `now`; half the limit later it is not half the limit old.
    fn socket_is_empty(&mut self, now: u64) {
        self.fresh_until = now + D::LATE_NS / 2;
    }

    fn serve(&mut self, count: usize) {
        let (now, real_now) = (now_monotonic_ns(), now_realtime_ns());
        self.engine.begin(real_now / 1_000_000_000);
        self.replies.tape.begin();
        let Worker { dialect, engine, inbox, replies, sources, socket, .. } = self;
        let engine = &*engine;
        let fresh = now < self.fresh_until;
        let mut waiting = Vec::with_capacity(QUESTIONS_AHEAD);
        sources.last = None; // the clients list may be another one
        for received in (0..count).map(|at| inbox.get(at)) {
            let clients = engine.clients();
            let client = if clients.is_own(|| received.peer.address()) {
                clients.len().checked_sub(1)
            } else {
                sources.find(clients, received.peer.ip())
            };
            let late = D::LATE_NS != 0 && is_late::<D>(&received, real_now, fresh);
            for message in received.datagrams() {
                let Some(client) = client else {
                    replies.tally.refuse_unknown();
                    continue;
                };
                let arrived_ns = if received.arrived_ns == 0 { real_now } else { received.arrived_ns };
                let origin = Origin { peer: received.peer, destination: received.destination, client, arrived_ns };
                if late {
                    replies.silence::<D>(engine, &origin, Silence::Dropped(Drop::Late), None);
                    continue;
                }
                let message = &message[..message.len().min(D::BYTES_MAX)];
                let asker = Asker { client: engine.clients().client(client), peer: received.peer.address() };
                match dialect.read(message, asker, now) {
                    Ok(question) => {
                        let located = engine.locate(dialect.number(&question, engine));
                        waiting.push(Waiting { question, located, origin });
                    }
                    Err(silence) => replies.silence::<D>(engine, &origin, silence, None),
                }
                if waiting.len() == QUESTIONS_AHEAD {
                    replies.send(&mut waiting, dialect, engine, socket);
                }
            }
        }
        replies.send(&mut waiting, dialect, engine, socket);
        drop(waiting);
        replies.publish(engine, D::INDEX, &self.counters);
        if !replies.joins {
            self.shared.gso.store(false, Ordering::Relaxed);
        }
        if count < SLOTS {
            self.socket_is_empty(now);
        }
    }
}

fn is_late<D: Dialect>(received: &Received<'_>, real_now: u64, fresh: bool) -> bool {
    match received.arrived_ns {
        0 => !fresh,
        arrived => real_now.saturating_sub(arrived) > D::LATE_NS,
    }
}

/// Neighbours that go to one peer, the longest first: the kernel takes replies of one length as one, and a shorter
/// one at their end. Datagrams have no order, and every dialect's replies name their question.
fn order_for_joining(drafts: &mut [Draft]) {
    for run in drafts.chunk_by_mut(|one, next| one.peer == next.peer) {
        if run.windows(2).any(|pair| pair[0].bytes.len() < pair[1].bytes.len()) {
            run.sort_unstable_by_key(|draft| (Reverse(draft.bytes.len()), draft.bytes.start));
        }
    }
}

impl Replies {
    /// Make the tally this client's.
    fn turn_to(&mut self, usage: &Usage, dialect: usize, client: usize) {
        if client != self.client {
            usage.add(self.client, dialect, &mut self.tally.usage);
            self.client = client;
        }
    }

    /// number: if it was read so far.
    fn silence<D: Dialect>(&mut self, engine: &Engine, origin: &Origin, silence: Silence, number: Option<u64>) {
        self.turn_to(engine.usage(), D::INDEX, origin.client);
        silence.count(&mut self.tally);
        if self.tape.is_on() {
            self.tape.note_silence(silence, number, engine, origin.asking());
        }
    }

    /// Answer the questions that wait, send the replies, count them by what became of them.
    fn send<D: Dialect>(
        &mut self,
        waiting: &mut Vec<Waiting<'_, D::Question<'_>>>,
        dialect: &D,
        engine: &Engine,
        socket: &OwnedFd,
    ) {
        self.bytes.clear();
        for Waiting { question, located, origin } in waiting.drain(..) {
            let start = self.bytes.len();
            match dialect.reply(&question, &located, engine, &mut self.bytes) {
                Ok(told) => {
                    let port = dialect.reply_port(&question);
                    let peer = port.map_or(origin.peer, |port| origin.peer.with_port(port));
                    let mark = self.tape.mark();
                    if self.tape.is_on() {
                        self.tape.note_reply(dialect, &question, &located, told, engine, origin.asking());
                    }
                    let noted = mark..self.tape.mark();
                    self.drafts.push(Draft { bytes: start..self.bytes.len(), peer, told, origin, noted });
                }
                Err(silence) => self.silence::<D>(engine, &origin, silence, located.tn()),
            }
        }
        if self.drafts.is_empty() {
            return;
        }
        if self.joins {
            order_for_joining(&mut self.drafts);
        }
        for draft in &self.drafts {
            self.outbox.push(draft.peer, draft.origin.destination, &self.bytes[draft.bytes.clone()]);
        }
        let flushed = self.outbox.flush(socket.as_fd());
        self.joins = flushed.joining;
        let sent_at = now_realtime_ns();
        let mut drafts = std::mem::take(&mut self.drafts);
        for (at, Draft { told, origin, noted, .. }) in drafts.drain(..).enumerate() {
            self.turn_to(engine.usage(), D::INDEX, origin.client);
            let left = !flushed.unsent.iter().any(|range| range.contains(&at));
            let latency_ns = left.then(|| sent_at.saturating_sub(origin.arrived_ns));
            told.count(&mut self.tally, latency_ns);
            if !noted.is_empty() {
                self.tape.settle(noted, latency_ns);
            }
        }
        self.drafts = drafts;
    }

    /// The batch is over: let others see its counts.
    fn publish(&mut self, engine: &Engine, dialect: usize, counters: &Counters) {
        self.tally.counts.unreadable(engine.take_unreadable());
        counters.publish(&mut self.tally.counts);
        engine.usage().add(self.client, dialect, &mut self.tally.usage);
        self.tape.publish();
    }
}

#[cfg(test)]
mod tests;
