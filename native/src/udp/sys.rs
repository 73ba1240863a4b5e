//! The system calls of UDP sockets: many datagrams a call, runs of equal datagrams joined, ancillary data read.
//!
//! The only module for sockets that may be `unsafe`; its callers hold borrowed descriptors and see slices. What a
//! datagram means, and who may ask, is decided elsewhere. Linux only: the calls have no other home.
//!
//! Called directly, since no crate joins what these have in common: `quinn-udp` has no `sendmmsg`, so that
//! replies to different peers cost a call each.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::limits::DATAGRAM_BYTES_MAX;

mod beside;

use beside::{ADDRESS_BYTES, CONTROL_BYTES, Control, fill_control, read_control};
pub use beside::{Destination, Peer};

/// Datagrams that the kernel cuts out of one send at most (`UDP_MAX_SEGMENTS` before Linux 6.9; later ones: 128).
pub const SEGMENTS_MAX: usize = 64;
/// Bytes of a slot that holds any datagram, also a joined one.
pub const SLOT_BYTES: usize = 1 << 16;

// -- receiving -------------------------------------------------------------------------------------------

/// One datagram, or several of one size that arrived joined; borrowed from the `Inbox` until it receives again.
pub struct Received<'a> {
    /// What came, cut off at the slot's end.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub peer: Peer,
    /// Bytes of each datagram in `bytes`, the last one may be shorter; 0 = `bytes` is one datagram.
    pub segment: usize,
    /// `CLOCK_REALTIME` in nanoseconds; 0 = the kernel did not tell.
    pub arrived_ns: u64,
    /// Told on sockets with `set_packet_info`.
    pub destination: Option<Destination>,
    /// Longer than the slot: what did not fit is gone.
    pub truncated: bool,
}

impl<'a> Received<'a> {
    /// Each datagram by itself; an empty one counts as one.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let segment = if self.segment == 0 { self.bytes.len().max(1) } else { self.segment };
        let empty = if self.bytes.is_empty() { Some(self.bytes) } else { None };
        empty.into_iter().chain(self.bytes.chunks(segment))
    }
}

/// Receive buffers, made once. Memory of a slot is touched only as far as datagrams reach.
pub struct Inbox {
    slot_bytes: usize,
    received: usize,
    bytes: Vec<u8>,
    peers: Vec<Peer>,
    controls: Vec<Control>,
    // Never read: the headers point to them.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `_vectors` and `headers` lead to the other vectors' memory, which moves with the Inbox and
// is never reallocated; nothing is tied to a thread.
unsafe impl Send for Inbox {}

impl Inbox {
    /// slots: datagrams a call, 1 and more. `slot_bytes`: of each; `SLOT_BYTES` where datagrams may come joined.
    pub fn new(slots: usize, slot_bytes: usize) -> Inbox {
        let slots = slots.max(1);
        let mut bytes = vec![0; slots * slot_bytes];
        let mut peers = vec![Peer::CONNECTED; slots];
        let mut controls = vec![Control([0; CONTROL_BYTES]); slots];
        let mut vectors: Vec<libc::iovec> = (0..slots)
            .map(|at| libc::iovec { iov_base: bytes[at * slot_bytes..].as_mut_ptr().cast(), iov_len: slot_bytes })
            .collect();
        let headers = (0..slots)
            .map(|at| {
                // SAFETY: mmsghdr is plain data; all zero is its empty value.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut peers[at]).cast();
                header.msg_hdr.msg_iov = &raw mut vectors[at];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut controls[at]).cast();
                header
            })
            .collect();
        // As after a call that filled every slot: `receive` gives each its room before it is used.
        Inbox { slot_bytes, received: slots, bytes, peers, controls, _vectors: vectors, headers }
    }

    /// Take what is there, up to the number of slots; returns how many slots are filled.
    ///
    /// wait: block until there is at least one, or the socket's receive timeout has passed. Errors: `WouldBlock`
    /// when nothing is there, `Interrupted`, and what an earlier send on a connected socket met.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        for header in &mut self.headers[..self.received] {
            header.msg_hdr.msg_namelen = ADDRESS_BYTES as u32;
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let slots = self.headers.len() as u32;
        // SAFETY: `headers` are `slots` whole structures; each points to a Peer's address bytes, one iovec over the
        // slot's own bytes and one Control, all owned by self, unmoved since `new`, and not borrowed now (&mut self).
        // The kernel writes at most the lengths given, all restored above.
        let count =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), slots, flags as _, ptr::null_mut()) };
        // Only slots that were filled need their room back.
        self.received = usize::try_from(count).unwrap_or(0).min(self.headers.len());
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(self.received) }
    }

    /// What the last `receive` put into a slot. at: below the count it returned.
    pub fn get(&self, at: usize) -> Received<'_> {
        let header = &self.headers[at].msg_hdr;
        let length = (self.headers[at].msg_len as usize).min(self.slot_bytes);
        let mut peer = self.peers[at];
        peer.length = header.msg_namelen.min(ADDRESS_BYTES as u32) as u8;
        let mut found = Received {
            bytes: &self.bytes[at * self.slot_bytes..][..length],
            peer,
            segment: 0,
            arrived_ns: 0,
            destination: None,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        };
        let control_bytes = header.msg_controllen.min(CONTROL_BYTES);
        if control_bytes != 0 {
            read_control(&self.controls[at].0[..control_bytes], &mut found);
        }
        found
    }
}

// -- sending ---------------------------------------------------------------------------------------------

/// Replies that leave in one send: all of `segment` bytes, the last one may be shorter.
struct Run {
    bytes: Range<usize>,
    segment: usize,
    /// Places among the replies pushed since the last flush.
    replies: Range<usize>,
    peer: Peer,
    destination: Option<Destination>,
    /// A shorter reply has ended it.
    ended: bool,
}

/// What became of the replies pushed since the flush before.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Replies that the kernel took.
    pub sent: usize,
    /// Those that it did not, by their order of being pushed; empty, and not allocated, in the usual case.
    pub unsent: Vec<Range<usize>>,
    /// Whether replies will be joined from now on.
    pub joining: bool,
}

/// Replies gathered into runs, sent with one call. Its memory is kept from flush to flush.
pub struct Outbox {
    joining: bool,
    pushed: usize,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: `vectors` and `headers` are filled and used within one `flush`; between two, nobody follows their pointers.
unsafe impl Send for Outbox {}

impl Outbox {
    /// joining: send neighbours of one length to one peer as one (`UDP_SEGMENT`), as long as the kernel can.
    pub fn new(joining: bool) -> Outbox {
        Outbox {
            joining,
            pushed: 0,
            bytes: Vec::new(),
            runs: Vec::new(),
            controls: Vec::new(),
            vectors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Take over one reply, copied. bytes: up to what a datagram holds; longer ones come back as unsent.
    pub fn push(&mut self, peer: Peer, destination: Option<Destination>, bytes: &[u8]) {
        let (start, place) = (self.bytes.len(), self.pushed);
        self.bytes.extend_from_slice(bytes);
        self.pushed += 1;
        let end = self.bytes.len();
        let joining = self.joining && !bytes.is_empty();
        let last = self.runs.last_mut().filter(|run| joining && run.takes(peer, destination, bytes.len()));
        if let Some(run) = last {
            run.bytes.end = end;
            run.replies.end = place + 1;
            run.ended = bytes.len() < run.segment;
            return;
        }
        let (segment, replies) = (bytes.len(), place..place + 1);
        self.runs.push(Run { bytes: start..end, segment, replies, peer, destination, ended: false });
    }

    /// Whether a flush would do nothing.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Send everything, without blocking. A run that the kernel refuses does not keep back those behind it.
    pub fn flush(&mut self, fd: BorrowedFd<'_>) -> Flushed {
        self.point_headers();
        let mut flushed = Flushed { joining: self.joining, ..Flushed::default() };
        let mut at = 0;
        while at < self.headers.len() {
            let rest = &mut self.headers[at..];
            // SAFETY: `rest` are whole structures filled by `point_headers`, whose pointers lead to self's own
            // vectors; none of those is touched until the call has returned. The kernel writes `msg_len` alone.
            let sent = unsafe {
                libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT as _)
            };
            if let Ok(sent @ 1..) = usize::try_from(sent) {
                let upto = (at + sent).min(self.runs.len());
                flushed.sent += self.runs[at..upto].iter().map(|run| run.replies.len()).sum::<usize>();
                at = upto;
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            self.refused(fd, at, &error, &mut flushed);
            at += 1;
        }
        self.joining = flushed.joining;
        self.pushed = 0;
        self.bytes.clear();
        self.runs.clear();
        flushed
    }

    /// Make one header a run.
    fn point_headers(&mut self) {
        self.headers.clear();
        self.vectors.clear();
        self.controls.clear();
        self.controls.resize(self.runs.len(), Control([0; CONTROL_BYTES]));
        for run in &mut self.runs {
            let base = self.bytes[run.bytes.clone()].as_mut_ptr().cast();
            self.vectors.push(libc::iovec { iov_base: base, iov_len: run.bytes.len() });
        }
        for (at, run) in self.runs.iter_mut().enumerate() {
            let segment = if run.replies.len() > 1 { run.segment } else { 0 };
            let control_bytes = fill_control(&mut self.controls[at], run.destination, segment);
            let control = (&raw mut self.controls[at]).cast();
            self.headers.push(header(&mut run.peer, &raw mut self.vectors[at], control, control_bytes));
        }
    }

    /// A run that could not be sent: in pieces if joining may be why, and joining is given up if that helps.
    fn refused(&self, fd: BorrowedFd<'_>, at: usize, error: &io::Error, flushed: &mut Flushed) {
        let run = &self.runs[at];
        let code = error.raw_os_error().unwrap_or(0);
        let no_joining = matches!(code, libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP);
        // EMSGSIZE: over this path's size; sent singly, they are cut up on the way as any large datagram.
        if run.replies.len() == 1 || !(no_joining || code == libc::EMSGSIZE) {
            return flushed.unsent.push(run.replies.clone());
        }
        let mut sent = 0;
        for (place, bytes) in run.replies.clone().zip(self.bytes[run.bytes.clone()].chunks(run.segment)) {
            match send(fd, run.peer, run.destination, bytes) {
                Ok(()) => sent += 1,
                Err(_) => flushed.unsent.push(place..place + 1),
            }
        }
        flushed.sent += sent;
        // A peer that cannot be reached at all says nothing about the kernel.
        if no_joining && sent > 0 {
            flushed.joining = false;
        }
    }
}

impl Run {
    fn takes(&self, peer: Peer, destination: Option<Destination>, length: usize) -> bool {
        !self.ended
            && length <= self.segment
            && self.replies.len() < SEGMENTS_MAX
            && self.bytes.len() + length <= DATAGRAM_BYTES_MAX
            && self.peer == peer
            && self.destination == destination
    }
}

/// What `sendmmsg` takes. The caller keeps all that is pointed to in place until the call has returned.
fn header(
    peer: &mut Peer,
    vector: *mut libc::iovec,
    control: *mut libc::c_void,
    control_bytes: usize,
) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data; all zero is its empty value.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    if peer.length != 0 {
        header.msg_hdr.msg_name = (&raw mut *peer).cast();
        header.msg_hdr.msg_namelen = peer.length.into();
    }
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    if control_bytes != 0 {
        header.msg_hdr.msg_control = control;
        header.msg_hdr.msg_controllen = control_bytes as _;
    }
    header
}

/// Send one datagram without blocking.
pub fn send(fd: BorrowedFd<'_>, mut peer: Peer, destination: Option<Destination>, bytes: &[u8]) -> io::Result<()> {
    let mut control = Control([0; CONTROL_BYTES]);
    let control_bytes = fill_control(&mut control, destination, 0);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let message = header(&mut peer, &raw mut vector, (&raw mut control).cast(), control_bytes).msg_hdr;
    loop {
        // SAFETY: `message` points to `peer`, `vector`, `control` and `bytes`, which all outlive the call; the
        // kernel reads them only.
        if unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

// -- options and clocks ----------------------------------------------------------------------------------

fn set<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `bytes` long and lives through the call, which reads it only.
    let failed = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Let datagrams of one peer arrive joined, with their size beside them. An error: the kernel cannot.
pub fn set_gro(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_UDP, libc::UDP_GRO, i32::from(on))
}

/// Whether the kernel knows how to cut a send into datagrams; a device may still refuse.
pub fn can_join(fd: BorrowedFd<'_>) -> bool {
    set(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0_i32).is_ok()
}

/// How long `receive` with `wait` blocks on a blocking socket; zero = for ever.
pub fn set_receive_timeout(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let value = libc::timeval { tv_sec: timeout.as_secs() as _, tv_usec: timeout.subsec_micros().into() };
    set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value)
}

/// Have the kernel note when each datagram arrived.
pub fn set_timestamps(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, i32::from(on))
}

/// Have the kernel tell which local address each datagram came to. v6: of a socket of that family.
pub fn set_packet_info(fd: BorrowedFd<'_>, v6: bool, on: bool) -> io::Result<()> {
    if v6 {
        return set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, i32::from(on));
    }
    set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, i32::from(on))
}

/// Ask for room for waiting datagrams, in bytes; the kernel grants up to its own bound (`net.core.rmem_max`).
pub fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
}

/// A descriptor of our own for the same socket, which stays open whatever becomes of the caller's number.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl looks the number up and reads no memory of ours; any number is allowed.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Let `receive` with `wait` sleep on a socket that was made not to block.
pub fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl with these commands reads and writes no memory of ours.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is one timespec, written by the call; these clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Nanoseconds since 1970, which a step of the clock moves.
pub fn now_realtime_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// Nanoseconds of a clock that only grows.
pub fn now_monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Processor time that this thread has used, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

#[cfg(test)]
mod tests;
