//! The workers of one listener: started together, counted together, ended together.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::counters::{Counters, Counts};
use crate::engine::Service;
use crate::responder::Dialect;
use crate::udp::sys::{set_blocking, set_gro, set_receive_timeout};
use crate::udp::worker::Worker;

/// How long a worker that is asked nothing sleeps before it looks whether it shall stop, or serve another store.
const LOOK_UP_AFTER: Duration = Duration::from_millis(100);

/// One listener's workers.
pub struct Server {
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

/// What the workers tell.
pub struct Shared {
    /// Why a worker cannot serve any more.
    failure: Mutex<Option<String>>,
    /// Whether the kernel joins datagrams that arrive back to back.
    gro: AtomicBool,
    /// Whether replies to one peer leave joined; false once the kernel or the device has refused.
    pub gso: AtomicBool,
}

impl Server {
    /// A worker for each socket. sockets: bound to one address, owned from now on.
    pub fn start<D: Dialect + Clone + 'static>(
        name: &str,
        service: &Arc<Service>,
        dialect: &D,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<Server> {
        let mut server = Server {
            threads: Vec::new(),
            counters: Vec::new(),
            stop: Arc::default(),
            shared: Arc::new(Shared {
                failure: Mutex::default(),
                gro: AtomicBool::new(true),
                gso: AtomicBool::new(true),
            }),
        };
        for (at, socket) in sockets.into_iter().enumerate() {
            set_blocking(socket.as_fd())?;
            set_receive_timeout(socket.as_fd(), LOOK_UP_AFTER)?;
            if set_gro(socket.as_fd(), true).is_err() {
                server.shared.gro.store(false, Ordering::Relaxed); // an older kernel: each datagram comes alone
            }
            let counters = Arc::new(Counters::default());
            server.counters.push(Arc::clone(&counters));
            let (dialect, service) = (dialect.clone(), Arc::clone(service));
            let (stop, shared) = (Arc::clone(&server.stop), Arc::clone(&server.shared));
            let serve = move || {
                let told = Arc::clone(&shared);
                run(&shared, || Worker::new(socket, dialect, service, counters, stop, told).run());
            };
            match Builder::new().name(format!("{name}-{at}")).spawn(serve) {
                Ok(thread) => server.threads.push(thread),
                Err(error) => {
                    server.stop();
                    return Err(error);
                }
            }
        }
        Ok(server)
    }

    /// Answer what has arrived, then end; returns when all have ended, which takes a tenth of a second, or `DRAIN_NS`
    /// when peers do not cease to ask.
    pub fn stop(&mut self) {
        join(self.begin_stop());
    }

    /// The same without waiting for the threads, which are the caller's to join.
    pub fn begin_stop(&mut self) -> Vec<JoinHandle<()>> {
        self.stop.store(true, Ordering::Release);
        std::mem::take(&mut self.threads)
    }

    /// Of all workers together.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counters in &self.counters {
            sum.add(&counters.read());
        }
        sum
    }

    /// Why a worker cannot serve any more, if one cannot.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether datagrams are joined on receipt.
    pub fn gro(&self) -> bool {
        self.shared.gro.load(Ordering::Relaxed)
    }

    /// Whether replies are joined.
    pub fn gso(&self) -> bool {
        self.shared.gso.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Wait for the threads of `begin_stop`.
pub fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join(); // what a worker has to say it says itself
    }
}

/// A worker's life. What escapes it is our own fault: the process ends, and its supervisor starts it anew.
fn run(shared: &Shared, serve: impl FnOnce() -> io::Result<()>) {
    match catch_unwind(AssertUnwindSafe(serve)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        Err(_) => {
            eprintln!("failed: a worker of the native engine met a fault of ours, told above: the process ends");
            std::process::abort();
        }
    }
}
