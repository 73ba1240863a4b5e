//! What `lookupd serve` calls: terms in, counts out, a listener's workers, and a responder for frames over TCP.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::codecs::{Clients as PyClients, Plan as PyPlan, parse_host};
use super::store::PyEnvironment;
use crate::counters::Counts;
use crate::engine::{Engine, Service, Terms};
use crate::limits::NPQ_DATAGRAM_ANSWER_BYTES_MAX;
use crate::model::OUTCOMES;
use crate::responder::{Asker, Dialect, Enum, Npq, Pdb, Sip, Tally, respond_noted, respond_to};
use crate::tap::{Asking, Tape};
use crate::udp::server::{Server, join};
use crate::udp::sys::{duplicate, now_realtime_ns};

/// What is answered, from which data and to whom; shared by listeners and responders.
#[pyclass(name = "Service", module = "lookupd._native", frozen)]
pub struct PyService {
    inner: Arc<Service>,
}

impl PyService {
    pub(super) fn inner(&self) -> Arc<Service> {
        Arc::clone(&self.inner)
    }
}

fn terms(
    store: Option<&PyEnvironment>,
    plan: &PyPlan,
    stale_after: f64,
    clients: &PyClients,
    withdrawn: bool,
) -> Terms {
    Terms {
        store: store.map(|environment| Arc::clone(&environment.inner)),
        plan: Arc::clone(&plan.inner),
        stale_after,
        withdrawn,
        usage: Arc::clone(&clients.usage),
        clients: Arc::clone(&clients.inner),
    }
}

#[pymethods]
impl PyService {
    #[new]
    fn new(store: Option<&PyEnvironment>, plan: &PyPlan, stale_after: f64, clients: &PyClients) -> PyService {
        PyService { inner: Service::new(terms(store, plan, stale_after, clients, false)) }
    }

    /// Other terms, from the next batch on. withdrawn: answer nothing from the data.
    #[pyo3(signature = (store, plan, stale_after, clients, *, withdrawn = false))]
    fn use_terms(
        &self,
        store: Option<&PyEnvironment>,
        plan: &PyPlan,
        stale_after: f64,
        clients: &PyClients,
        withdrawn: bool,
    ) {
        self.inner.use_terms(terms(store, plan, stale_after, clients, withdrawn));
    }

    /// What the query log notes from the next batch on. sample: one of so many queries; 0 = nothing. outcomes: a bit for
    /// each of `lookupd.tap.OUTCOMES`. full: write numbers whole.
    fn use_tap(&self, sample: u32, outcomes: u32, full: bool) {
        self.inner.tap().set(sample, outcomes, full);
    }

    /// The lines of what was noted since the last time, and how many. The interpreter runs on meanwhile.
    fn drain_tap<'p>(&self, python: Python<'p>) -> (Bound<'p, PyBytes>, usize) {
        let mut lines = Vec::new();
        let count = python.detach(|| self.inner.tap().drain(&mut lines));
        (PyBytes::new(python, &lines), count)
    }

    /// Records that found no room, since the start.
    fn tap_lost(&self) -> u64 {
        self.inner.tap().lost()
    }

    /// Blocks that look-ups found damaged in the state of this serial.
    fn damaged_blocks(&self, serial: u64) -> Vec<u64> {
        self.inner.damaged_blocks(serial)
    }
}

/// Counts of a listener; see `lookupd.observe.counters`.
#[pyclass(name = "Counts", module = "lookupd._native", frozen, get_all)]
pub struct PyCounts {
    received: u64,
    odd: u64,
    other: u64,
    unreadable: u64,
    answered: Vec<u64>,
    refused: Vec<u64>,
    dropped: Vec<u64>,
    /// By outcome: answers by bucket; bucket i holds what took at most 2^i us, the last one what took longer.
    latency: Vec<Vec<u64>>,
    latency_ns: Vec<u64>,
}

impl From<&Counts> for PyCounts {
    fn from(counts: &Counts) -> PyCounts {
        PyCounts {
            received: counts.received(),
            odd: counts.odd_queries(),
            other: counts.other_messages(),
            unreadable: counts.unreadable_lookups(),
            answered: counts.answered().to_vec(),
            refused: counts.refused().to_vec(),
            dropped: counts.dropped().to_vec(),
            latency: (0..OUTCOMES).map(|outcome| counts.latency(outcome).to_vec()).collect(),
            latency_ns: counts.latency_ns().to_vec(),
        }
    }
}

/// Records that are handed on at the latest: a lot of frames over TCP has as many questions as its peer likes.
const NOTED_MAX: usize = 1024;

/// How each dialect is served.
#[derive(Clone)]
enum AnyDialect {
    Npq(Npq),
    Pdb(Pdb),
    Enum(Enum),
    Sip(Sip),
}

impl AnyDialect {
    fn new(name: &str, answer_bytes_max: usize, tells_errors: bool, pdb: Pdb, sip: Sip) -> PyResult<AnyDialect> {
        match name {
            "npq" => Ok(AnyDialect::Npq(Npq { answer_bytes_max, tells_errors })),
            "pdb" => Ok(AnyDialect::Pdb(pdb)),
            "enum" => Ok(AnyDialect::Enum(Enum { over_udp: !tells_errors })),
            "sip" => Ok(AnyDialect::Sip(sip)),
            _ => Err(PyValueError::new_err(format!("{name}: not a dialect of the native engine"))),
        }
    }
}

/// The workers of one UDP listener: they serve from the moment it is made.
#[pyclass(name = "UdpServer", module = "lookupd._native", frozen)]
pub struct PyUdpServer {
    server: Mutex<Server>,
}

#[pymethods]
impl PyUdpServer {
    /// sockets: descriptors of bound sockets, one a worker; they are duplicated, the caller closes its own.
    #[new]
    #[pyo3(signature = (service, dialect, sockets, *, legacy = true, unmapped_carrier_id = 1000, tag_seed = 0))]
    fn new(
        service: &PyService,
        dialect: &str,
        sockets: Vec<RawFd>,
        legacy: bool,
        unmapped_carrier_id: u16,
        tag_seed: u64,
    ) -> PyResult<PyUdpServer> {
        let owned = sockets.into_iter().map(duplicate).collect::<Result<Vec<_>, _>>()?;
        let name = format!("udp-{dialect}");
        let server = match AnyDialect::new(
            dialect,
            NPQ_DATAGRAM_ANSWER_BYTES_MAX,
            false,
            Pdb { legacy, unmapped_carrier_id },
            Sip { over_tcp: false, tag_seed },
        )? {
            AnyDialect::Npq(npq) => Server::start(&name, &service.inner, &npq, owned),
            AnyDialect::Pdb(pdb) => Server::start(&name, &service.inner, &pdb, owned),
            AnyDialect::Enum(enum_) => Server::start(&name, &service.inner, &enum_, owned),
            AnyDialect::Sip(sip) => Server::start(&name, &service.inner, &sip, owned),
        };
        Ok(PyUdpServer { server: Mutex::new(server.map_err(PyOSError::new_err)?) })
    }

    /// Answer what has arrived, then end the workers.
    fn stop(&self, python: Python<'_>) {
        // Counts are read meanwhile: who waits for the threads must not hold the lock.
        let threads = self.locked().begin_stop();
        python.detach(|| join(threads));
    }

    /// Of all workers together.
    fn counts(&self) -> PyCounts {
        PyCounts::from(&self.locked().counts())
    }

    /// Why a worker cannot serve any more; None as long as all can.
    fn failure(&self) -> Option<String> {
        self.locked().failure()
    }

    /// Which offloads are in use: datagrams joined on receipt (gro), replies joined on sending (gso).
    fn offloads(&self) -> (bool, bool) {
        let server = self.locked();
        (server.gro(), server.gso())
    }
}

impl PyUdpServer {
    fn locked(&self) -> std::sync::MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers messages that Python hands in: of frames over TCP, and of tests. Of one state from `begin` to `begin`.
#[pyclass(name = "Responder", module = "lookupd._native", frozen)]
pub struct PyResponder {
    inner: Mutex<Inner>,
}

struct Inner {
    dialect: AnyDialect,
    engine: Engine,
    tally: Tally,
    tape: Tape,
    total: Counts,
    reply: Vec<u8>,
    /// Of the last reply.
    reply_port: u16,
}

#[pymethods]
impl PyResponder {
    #[new]
    #[pyo3(signature = (
        service, dialect, *, answer_bytes_max, tells_errors, legacy = true, unmapped_carrier_id = 1000, tag_seed = 0,
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        service: &PyService,
        dialect: &str,
        answer_bytes_max: usize,
        tells_errors: bool,
        legacy: bool,
        unmapped_carrier_id: u16,
        tag_seed: u64,
    ) -> PyResult<PyResponder> {
        let pdb = Pdb { legacy, unmapped_carrier_id };
        let sip = Sip { over_tcp: tells_errors, tag_seed };
        let dialect = AnyDialect::new(dialect, answer_bytes_max, tells_errors, pdb, sip)?;
        let engine = Engine::new(Arc::clone(&service.inner));
        let index = match &dialect {
            AnyDialect::Npq(_) => Npq::INDEX,
            AnyDialect::Pdb(_) => Pdb::INDEX,
            AnyDialect::Enum(_) => Enum::INDEX,
            AnyDialect::Sip(_) => Sip::INDEX,
        };
        let tape = service.inner.tap().tape(index, if tells_errors { "tcp" } else { "udp" });
        let (tally, total) = (Tally::default(), Counts::default());
        let inner = Inner { dialect, engine, tally, tape, total, reply: Vec::new(), reply_port: 0 };
        Ok(PyResponder { inner: Mutex::new(inner) })
    }

    /// Take over the newest terms and pin the newest state. now: Unix seconds.
    fn begin(&self, now: u64) {
        let mut inner = self.locked();
        inner.engine.begin(now);
        inner.tape.begin();
    }

    /// Hold no state until the next `begin`.
    fn rest(&self) {
        let mut inner = self.locked();
        inner.engine.rest();
        inner.tape.publish();
    }

    /// The reply to one message, None for silence. client: its place in the clients list.
    fn respond<'p>(
        &self,
        python: Python<'p>,
        message: &[u8],
        client: usize,
        now_ns: u64,
        host: &str,
        port: u16,
    ) -> PyResult<Option<Bound<'p, PyBytes>>> {
        let mut inner = self.locked();
        let replied = inner.respond(message, client, now_ns, SocketAddr::new(parse_host(host)?, port))?;
        Ok(replied.then(|| PyBytes::new(python, &inner.reply)))
    }

    /// Where over UDP the last reply goes instead of where its question came from; 0 = there.
    fn reply_port(&self) -> u16 {
        self.locked().reply_port
    }

    /// The replies to many messages of one client.
    #[allow(clippy::needless_pass_by_value)] // a list from Python becomes a vector of ours
    fn respond_many<'p>(
        &self,
        python: Python<'p>,
        messages: Vec<Bound<'p, PyBytes>>,
        client: usize,
        now_ns: u64,
        host: &str,
        port: u16,
    ) -> PyResult<Vec<Option<Bound<'p, PyBytes>>>> {
        let respond =
            |message: &Bound<'p, PyBytes>| self.respond(python, message.as_bytes(), client, now_ns, host, port);
        messages.iter().map(respond).collect()
    }

    /// Of all messages so far.
    fn counts(&self) -> PyCounts {
        let mut inner = self.locked();
        let unreadable = inner.engine.take_unreadable();
        inner.total.unreadable(unreadable);
        PyCounts::from(&inner.total)
    }
}

impl PyResponder {
    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether there is a reply; it is in `reply` then.
    fn respond(&mut self, message: &[u8], client: usize, now_ns: u64, peer: SocketAddr) -> PyResult<bool> {
        let Inner { dialect, engine, tally, tape, total, reply, reply_port } = self;
        reply.clear();
        if client >= engine.clients().len() {
            return Err(PyValueError::new_err(format!("client {client}: there are {}", engine.clients().len())));
        }
        let from = Sender { client, peer, now_ns };
        let (dialect_at, replied) = match dialect {
            AnyDialect::Npq(npq) => (Npq::INDEX, answer(npq, engine, message, from, reply, tally, tape)),
            AnyDialect::Pdb(pdb) => (Pdb::INDEX, answer(pdb, engine, message, from, reply, tally, tape)),
            AnyDialect::Enum(enum_) => (Enum::INDEX, answer(enum_, engine, message, from, reply, tally, tape)),
            AnyDialect::Sip(sip) => (Sip::INDEX, answer(sip, engine, message, from, reply, tally, tape)),
        };
        total.add(&tally.counts);
        tally.counts = Counts::default();
        engine.usage().add(client, dialect_at, &mut tally.usage);
        if tape.mark() >= NOTED_MAX {
            tape.publish();
        }
        *reply_port = replied.unwrap_or(0);
        Ok(replied.is_some())
    }
}

/// Who sent a message, and when by a clock that only grows.
#[derive(Clone, Copy)]
struct Sender {
    client: usize,
    peer: SocketAddr,
    now_ns: u64,
}

/// Where the reply goes, 0 = where the message came from; None for silence.
fn answer<D: Dialect>(
    dialect: &D,
    engine: &Engine,
    message: &[u8],
    Sender { client, peer, now_ns }: Sender,
    reply: &mut Vec<u8>,
    tally: &mut Tally,
    tape: &mut Tape,
) -> Option<u16> {
    let asker = Asker { client: engine.clients().client(client), peer };
    let replied = if tape.is_on() {
        let asking = Asking { client, source: peer.ip(), at_ns: now_realtime_ns() };
        respond_noted(dialect, engine, message, asker, now_ns, reply, tape, asking)
    } else {
        respond_to(dialect, engine, message, asker, now_ns, reply)
    };
    match replied {
        // Sent in the same moment as far as this can tell: only UDP's workers measure.
        Ok((told, port)) => {
            told.count(tally, Some(0));
            Some(port.unwrap_or(0))
        }
        Err(silence) => {
            silence.count(tally);
            None
        }
    }
}
