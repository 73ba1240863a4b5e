//! The yardstick: what the kernel itself takes for a datagram in and a datagram out. Sends back what it got.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use crate::udp::sys::{Inbox, Outbox, SLOT_BYTES, set_gro};

/// Datagrams, or joined runs of them, that one call takes: as many as the workers that are measured against it.
pub const SLOTS: usize = 32;
/// Batches between two looks at whether to go on, when datagrams never cease.
const BATCHES_PER_LOOK: u32 = 1024;

/// Echo until `go_on` says no; it is asked now and then, and whenever the socket's receive timeout has passed.
///
/// fd: bound and blocking, with a receive timeout. gso: join neighbouring replies. gro: take queries joined.
/// Returns how many datagrams were sent back. Errors: the socket is none, or closed; gro where the kernel has none.
pub fn echo(fd: BorrowedFd<'_>, gso: bool, gro: bool, mut go_on: impl FnMut() -> bool) -> io::Result<u64> {
    set_gro(fd, gro)?;
    let (mut inbox, mut outbox) = (Inbox::new(SLOTS, SLOT_BYTES), Outbox::new(gso));
    let (mut echoed, mut batches) = (0, 0);
    loop {
        let filled = match inbox.receive(fd, true) {
            Ok(filled) => filled,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        for at in 0..filled {
            let found = inbox.get(at);
            for datagram in found.datagrams() {
                outbox.push(found.peer, found.destination, datagram);
            }
        }
        if filled > 0 {
            echoed += outbox.flush(fd).sent as u64;
        }
        batches += 1;
        if (filled == 0 || batches % BATCHES_PER_LOOK == 0) && !go_on() {
            return Ok(echoed);
        }
    }
}
