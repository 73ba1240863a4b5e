//! The asking side, for `lookupd bench`: questions at a set rate or with a set number in flight, and what came of them.
//!
//! One thread asks over its share of the sockets and waits awake: a client that sleeps has to be woken, which is
//! the server's work, and would be late itself. Nothing here knows a store; any server of the dialects will do.

use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::udp::sys::{now_monotonic_ns, thread_cpu_ns};

mod asking;
pub mod echo;
mod enum_dns;
mod flight;
mod frames;
mod lines;
mod pace;
pub mod questions;
pub mod replies;
mod sip;
mod tally;

pub use pace::Loop;
pub use questions::{Dialect, Questions};
pub use tally::Tally;

use asking::Asking;
use lines::Line;
use pace::Pace;

/// How often queries over their time are looked for, and the counts of a run under way are told.
const LOOK_NS: u64 = 5_000_000;

/// What to ask, and how. Checked by the caller: at least one socket, as many threads at most.
pub struct Options {
    /// Who is asked.
    pub server: SocketAddr,
    /// Messages on connections instead of datagrams.
    pub tcp: bool,
    /// Sockets or connections, over all threads; 65,536 at most.
    pub sockets: usize,
    /// Threads that ask.
    pub threads: usize,
    /// When the next question is due.
    pub pace: Loop,
    /// Join queries that leave at once (`UDP_SEGMENT`), and let replies arrive joined.
    pub gso: bool,
    /// How long to ask, in nanoseconds; `u64::MAX` = until `count` is reached.
    pub asking_ns: u64,
    /// Queries in all; `u64::MAX` = as many as the time allows.
    pub count: u64,
    /// How long after it was sent a query counts as lost, in nanoseconds.
    pub timeout_ns: u64,
}

/// What whoever started a run may say and see while it is under way.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    lost: AtomicU64,
}

impl Control {
    /// Ask no more; what is in flight is still waited for.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether somebody said so.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Queries sent, received and lost until a moment ago.
    pub fn progress(&self) -> (u64, u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed), self.lost.load(Relaxed))
    }
}

/// What a run found.
pub struct Report {
    /// Of all threads.
    pub tally: Tally,
    /// From the first question until asking ended.
    pub asking_ns: u64,
    /// From the first question until asking ended or the last answer came, whichever was later.
    pub answering_ns: u64,
    /// Whether queries left joined until the end.
    pub gso: bool,
    /// Whether replies could arrive joined.
    pub gro: bool,
}

/// Ask until time or count is used up, or the caller says stop. Errors: a socket that cannot be made or connected.
pub fn run(options: &Options, questions: &Questions, control: &Control) -> io::Result<Report> {
    let threads = options.threads.clamp(1, options.sockets.max(1));
    let mut shares: Vec<Vec<Line>> = (0..threads).map(|_| Vec::new()).collect();
    for socket in 0..options.sockets {
        shares[socket % threads].push(Line::open(options, asking(options, questions, socket))?);
    }
    let ready = Barrier::new(threads);
    let found: Vec<Found> = thread::scope(|scope| {
        let running: Vec<_> =
            shares.into_iter().map(|lines| scope.spawn(|| ask_all(lines, options, control, &ready))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    Ok(merge(&found))
}

fn asking<'a>(options: &Options, questions: &'a Questions, socket: usize) -> Asking<'a> {
    let (turn, sockets) = (socket as u64, options.sockets as u64);
    let share = match options.count {
        u64::MAX => u64::MAX,
        count => count / sockets + u64::from(turn < count % sockets),
    };
    let pace = Pace::new(options.pace, turn, sockets, share);
    let in_flight = options.pace.in_flight_max(sockets, options.timeout_ns);
    let at = questions.len() * socket / options.sockets;
    Asking::new(questions, socket as u16, at, pace, in_flight, options.timeout_ns)
}

/// What one thread found.
struct Found {
    tally: Tally,
    start_ns: u64,
    asked_until_ns: u64,
    gso: bool,
    gro: bool,
}

fn merge(found: &[Found]) -> Report {
    let start = found.iter().map(|each| each.start_ns).min().unwrap_or(0);
    let asked_until = found.iter().map(|each| each.asked_until_ns).max().unwrap_or(start);
    let (gso, gro) = (found.iter().all(|each| each.gso), found.iter().all(|each| each.gro));
    let mut tally = Tally::new();
    for each in found {
        tally.add(&each.tally);
    }
    Report {
        asking_ns: asked_until - start,
        answering_ns: asked_until.max(tally.last_reply_ns) - start,
        tally,
        gso,
        gro,
    }
}

/// One thread: visit each line in turn until nothing is left to ask or to wait for.
fn ask_all(mut lines: Vec<Line<'_>>, options: &Options, control: &Control, ready: &Barrier) -> Found {
    let mut desk = lines::Desk::new(options);
    let mut tally = Tally::new();
    ready.wait();
    let cpu = thread_cpu_ns();
    let start = now_monotonic_ns();
    let end = start.saturating_add(options.asking_ns);
    for line in &mut lines {
        line.asking.begin(start);
    }
    let (mut now, mut look, mut asked_until) = (start, start + LOOK_NS, start);
    let mut told = (0, 0, 0);
    let mut is_asking = true;
    loop {
        if is_asking && (now >= end || control.is_stopped() || lines.iter().all(Line::has_asked_all)) {
            is_asking = false;
            for line in &lines {
                line.asking.end(now.min(end), &mut tally);
            }
        }
        let mut waiting = false;
        for line in &mut lines {
            now = line.visit(&mut desk, &mut tally, if is_asking { end } else { 0 });
            waiting |= line.asking.is_waiting();
        }
        if is_asking {
            asked_until = now.min(end);
        }
        if now >= look {
            look = now + LOOK_NS;
            for line in &mut lines {
                line.asking.expire(now, &mut tally);
            }
            tell(control, &tally, &mut told);
            // A host that says nobody listens, and nothing else, will not change its mind.
            if tally.received == 0 && tally.turned_away > 0 && now > start + options.timeout_ns {
                control.stop();
            }
        }
        if !is_asking && !waiting {
            break;
        }
    }
    tell(control, &tally, &mut told);
    tally.cpu_ns = thread_cpu_ns() - cpu;
    let (gso, gro) = desk.offloads(&lines);
    Found { tally, start_ns: start, asked_until_ns: asked_until, gso, gro }
}

/// Add what is new since it was last told.
fn tell(control: &Control, tally: &Tally, told: &mut (u64, u64, u64)) {
    control.sent.fetch_add(tally.sent - told.0, Relaxed);
    control.received.fetch_add(tally.received - told.1, Relaxed);
    control.lost.fetch_add(tally.lost - told.2, Relaxed);
    *told = (tally.sent, tally.received, tally.lost);
}

#[cfg(test)]
mod tests;
