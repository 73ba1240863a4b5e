//! What stands beside a datagram's bytes, in the kernel's layout: addresses and control messages. No system calls.
#![deny(unsafe_code)]

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Received;

/// A `sockaddr_in6`; the shorter `sockaddr_in` fits too.
pub(super) const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for a time of arrival (32), packet information (40) and a segment size (24), and the same again.
pub(super) const CONTROL_BYTES: usize = 192;
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const CONTROL_ALIGN: usize = size_of::<usize>();

// -- addresses -------------------------------------------------------------------------------------------

/// A peer's socket address as the kernel wrote it; comparing two compares address, port and scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct Peer {
    address: [u8; ADDRESS_BYTES],
    /// Bytes that count; 0 = no address.
    pub(super) length: u8,
}

impl Peer {
    /// Whoever the socket is connected to: no address goes along, which spares the kernel a route look-up.
    pub const CONNECTED: Peer = Peer { address: [0; ADDRESS_BYTES], length: 0 };

    fn family(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.address[0], self.address[1]]))
    }

    /// The address; `0.0.0.0` when the kernel told none.
    pub fn ip(&self) -> IpAddr {
        let at = &self.address;
        if self.length != 0 && self.family() == libc::AF_INET6 {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&at[8..24]);
            return IpAddr::V6(Ipv6Addr::from(bytes));
        }
        IpAddr::V4(Ipv4Addr::new(at[4], at[5], at[6], at[7]))
    }

    /// Address and port, without flow and scope.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port())
    }

    /// The same address at another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Peer {
        self.address[2..4].copy_from_slice(&port.to_be_bytes());
        self
    }

    /// The port; 0 when the kernel told none.
    pub fn port(&self) -> u16 {
        u16::from_be_bytes([self.address[2], self.address[3]])
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let mut peer = Peer::CONNECTED;
        let at = &mut peer.address;
        at[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                at[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                at[4..8].copy_from_slice(&v4.ip().octets());
                peer.length = size_of::<libc::sockaddr_in>() as u8;
            }
            SocketAddr::V6(v6) => {
                at[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                at[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                at[8..24].copy_from_slice(&v6.ip().octets());
                at[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                peer.length = ADDRESS_BYTES as u8;
            }
        }
        peer
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}", self.address())
    }
}

/// The local address that a datagram came to; given back with the reply, it leaves from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The kernel picks the interface.
    V4([u8; 4]),
    /// With the interface, which a link-local address needs.
    V6([u8; 16], u32),
}

// -- ancillary data --------------------------------------------------------------------------------------

/// What came beside a datagram, or goes beside it: control messages in the kernel's layout.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL_BYTES]);

/// Control messages of a buffer: level, kind, data. Lengths that cannot be right end it.
fn control_messages(mut bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(*bytes.first_chunk()?);
        let level = i32::from_ne_bytes(*bytes.get(size_of::<usize>()..)?.first_chunk()?);
        let kind = i32::from_ne_bytes(*bytes.get(size_of::<usize>() + 4..)?.first_chunk()?);
        let data = bytes.get(CONTROL_HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(CONTROL_ALIGN)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// Append one control message; returns where the next one begins. `control` has room for what this module sends.
pub(super) fn put_control(control: &mut Control, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
    let length = CONTROL_HEADER_BYTES + data.len();
    let to = &mut control.0[at..at + length];
    to[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
    to[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
    to[size_of::<usize>() + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
    to[CONTROL_HEADER_BYTES..].copy_from_slice(data);
    at + length.next_multiple_of(CONTROL_ALIGN)
}

/// Write what a send needs; returns its bytes. segment: 0 = a single datagram.
pub(super) fn fill_control(control: &mut Control, destination: Option<Destination>, segment: usize) -> usize {
    let mut at = 0;
    match destination {
        Some(Destination::V4(address)) => {
            let mut data = [0; size_of::<libc::in_pktinfo>()];
            data[4..8].copy_from_slice(&address);
            at = put_control(control, at, libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
        }
        Some(Destination::V6(address, interface)) => {
            let mut data = [0; size_of::<libc::in6_pktinfo>()];
            data[..16].copy_from_slice(&address);
            data[16..].copy_from_slice(&interface.to_ne_bytes());
            at = put_control(control, at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
        }
        None => {}
    }
    if segment != 0 {
        at = put_control(control, at, libc::SOL_UDP, libc::UDP_SEGMENT, &(segment as u16).to_ne_bytes());
    }
    at
}

/// Take over what we know of the control messages; others are passed over.
pub(super) fn read_control(bytes: &[u8], found: &mut Received<'_>) {
    for (level, kind, data) in control_messages(bytes) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = data.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                let size = usize::try_from(size).unwrap_or(0);
                found.segment = if size < found.bytes.len() { size } else { 0 };
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                let word = size_of::<libc::c_long>();
                let mut parts = data.chunks_exact(word).map(|part| {
                    part.try_into().map_or(0, |bytes| u64::try_from(libc::c_long::from_ne_bytes(bytes)).unwrap_or(0))
                });
                let (seconds, nanoseconds) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
                found.arrived_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // Interface, local address, address of the header.
                found.destination = data.get(8..12).and_then(|at| at.try_into().ok()).map(Destination::V4);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let interface = data.get(16..).and_then(|at| at.first_chunk()).map(|at| u32::from_ne_bytes(*at));
                found.destination = data.first_chunk().zip(interface).map(|(at, index)| Destination::V6(*at, index));
            }
            _ => {}
        }
    }
}
