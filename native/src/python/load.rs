//! The asking side and the echo, for `lookupd.bench` and `bench/`: arguments in, plain values out.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::load::echo::echo as echo_until;
use crate::load::questions::{NUMBERS_DRAWN, draw_numbers, read_numbers};
use crate::load::replies::labels;
use crate::load::{Control, Dialect, Loop, Options, Questions, Report, run};
use crate::udp::sys::{duplicate, set_receive_timeout};

/// How long an echo on which nothing arrives takes to see that it shall end.
const ECHO_LOOK: Duration = Duration::from_millis(50);

/// Stop and progress of a run in another thread.
#[pyclass(name = "LoadControl", frozen)]
#[derive(Default)]
pub struct LoadControl(Arc<Control>);

#[pymethods]
impl LoadControl {
    #[new]
    fn new() -> LoadControl {
        LoadControl::default()
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn progress(&self) -> (u64, u64, u64) {
        self.0.progress()
    }
}

/// Arguments as `_native.pyi` has them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Asked {
    host: String,
    port: u16,
    tcp: bool,
    dialect: String,
    apex: String,
    numbers: Option<PathBuf>,
    first: u64,
    last: u64,
    seed: u64,
    sockets: usize,
    threads: usize,
    window: u32,
    rate: u64,
    batch: usize,
    gso: bool,
    seconds: Option<f64>,
    count: Option<u64>,
    timeout: f64,
}

impl Asked {
    fn dialect(&self) -> PyResult<Dialect> {
        match self.dialect.as_str() {
            "npq" => Ok(Dialect::Npq),
            "pdb" if !self.tcp && self.batch == 1 => Ok(Dialect::Pdb),
            "enum" if self.batch == 1 => Ok(Dialect::Enum),
            "sip" if self.batch == 1 => Ok(Dialect::Sip),
            "pdb" => Err(PyValueError::new_err("pdb: one number a datagram")),
            "enum" | "sip" => Err(PyValueError::new_err(format!("{}: one number a message", self.dialect))),
            other => Err(PyValueError::new_err(format!("{other}: npq, pdb, enum or sip"))),
        }
    }

    fn options(&self) -> PyResult<Options> {
        let host: IpAddr =
            self.host.parse().map_err(|_| PyValueError::new_err(format!("{}: no address", self.host)))?;
        let pace = match (self.window, self.rate) {
            (1.., 0) => Loop::Closed { window: self.window },
            (0, 1..) => Loop::Open { rate: self.rate },
            _ => return Err(PyValueError::new_err("a window or a rate")),
        };
        if !(1..=usize::from(u16::MAX) + 1).contains(&self.sockets)
            || self.threads == 0
            || (self.seconds.is_none() && self.count.is_none())
        {
            return Err(PyValueError::new_err("a socket, a thread, and an end"));
        }
        Ok(Options {
            server: (host, self.port).into(),
            tcp: self.tcp,
            sockets: self.sockets,
            threads: self.threads,
            pace,
            gso: self.gso && !self.tcp,
            asking_ns: self.seconds.map_or(u64::MAX, nanoseconds),
            count: self.count.unwrap_or(u64::MAX),
            timeout_ns: nanoseconds(self.timeout),
        })
    }

    fn questions(&self, server: SocketAddr) -> PyResult<Questions> {
        let dialect = self.dialect()?;
        let mut numbers = match &self.numbers {
            None if self.first <= self.last => draw_numbers(self.first, self.last, self.seed, NUMBERS_DRAWN),
            None => return Err(PyValueError::new_err("the range ends before it begins")),
            Some(path) => std::fs::read(path)
                .map_err(|error| error.to_string())
                .and_then(|text| read_numbers(&text))
                .map_err(|reason| PyValueError::new_err(format!("{}: {reason}", path.display())))?,
        };
        match dialect {
            Dialect::Npq | Dialect::Pdb => Ok(Questions::new(dialect, &numbers, self.batch, self.tcp)),
            Dialect::Enum => Questions::of_enum(&numbers, &self.apex, self.tcp).map_err(PyValueError::new_err),
            Dialect::Sip => {
                if self.numbers.is_none() {
                    // Switches ask in the global form; a file's numbers stand as they are to be asked.
                    numbers = numbers.into_iter().map(|number| format!("+{number}").into()).collect();
                }
                Ok(Questions::of_sip(&numbers, server, self.tcp, RandomState::new().hash_one(0) as u32))
            }
        }
    }
}

/// Negative and odd values become the nearest bound.
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Ask, and return what came of it; see `_native.pyi`.
#[expect(clippy::needless_pass_by_value, reason = "arguments of Python come by value")]
#[pyfunction]
pub fn load<'py>(py: Python<'py>, asked: Asked, control: &LoadControl) -> PyResult<Bound<'py, PyDict>> {
    let options = asked.options()?;
    let dialect = asked.dialect()?;
    let control = Arc::clone(&control.0);
    let report = py.detach(|| -> PyResult<Report> {
        let questions = asked.questions(options.server)?;
        Ok(run(&options, &questions, &control)?)
    })?;
    as_dict(py, dialect, &report)
}

fn as_dict<'py>(py: Python<'py>, dialect: Dialect, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let (found, tally) = (PyDict::new(py), &report.tally);
    let counts = [
        ("sent", tally.sent),
        ("received", tally.received),
        ("lost", tally.lost),
        ("unsent", tally.unsent),
        ("late", tally.late),
        ("duplicate", tally.duplicate),
        ("unknown", tally.unknown),
        ("numbers", tally.numbers),
        ("turned_away", tally.turned_away),
        ("behind_ns_max", tally.behind_ns_max),
        ("asking_ns", report.asking_ns),
        ("answering_ns", report.answering_ns),
        ("cpu_ns", tally.cpu_ns),
    ];
    for (name, count) in counts {
        found.set_item(name, count)?;
    }
    found.set_item("gso", report.gso)?;
    found.set_item("gro", report.gro)?;
    let outcomes = PyDict::new(py);
    for (name, count) in labels(dialect).into_iter().zip(tally.outcomes) {
        if !name.is_empty() {
            outcomes.set_item(name, count)?;
        }
    }
    found.set_item("outcomes", outcomes)?;
    found.set_item("latency_ns", latency(py, report)?)?;
    found.set_item("histogram", tally.histogram())?;
    Ok(found)
}

fn latency<'py>(py: Python<'py>, report: &Report) -> PyResult<Option<Bound<'py, PyDict>>> {
    let latency = &report.tally.latency;
    if latency.is_empty() {
        return Ok(None);
    }
    let found = PyDict::new(py);
    found.set_item("min", latency.min())?;
    found.set_item("mean", latency.mean() as u64)?;
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999)] {
        found.set_item(name, latency.value_at_quantile(quantile))?;
    }
    found.set_item("max", latency.max())?;
    Ok(Some(found))
}

/// Send back what arrives until told to stop; see `_native.pyi`.
#[pyfunction]
#[pyo3(signature = (fd, gso=false, gro=false, control=None))]
pub fn echo(py: Python<'_>, fd: RawFd, gso: bool, gro: bool, control: Option<&LoadControl>) -> PyResult<u64> {
    let socket = UdpSocket::from(duplicate(fd).map_err(|error| PyOSError::new_err(format!("{fd}: {error}")))?);
    socket.set_nonblocking(false)?;
    set_receive_timeout(socket.as_fd(), ECHO_LOOK)?;
    let control = control.map(|control| Arc::clone(&control.0));
    let mut signalled = Ok(());
    let echoed = py.detach(|| {
        echo_until(socket.as_fd(), gso, gro, || {
            #[expect(clippy::redundant_closure_for_method_calls, reason = "the method alone has too short a lifetime")]
            let heard = Python::attach(|py| py.check_signals());
            signalled = heard;
            signalled.is_ok() && !control.as_ref().is_some_and(|control| control.is_stopped())
        })
    })?;
    signalled.map(|()| echoed)
}
