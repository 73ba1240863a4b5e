//! Every bound, under the name it has in `lookupd/limits.py`, where its reason stands.

/// ITU-T E.164 section 6.2.1.
pub const E164_DIGITS_MAX: usize = 15;
/// The shortest number that can be ported.
pub const TN_DIGITS_MIN: usize = 5;
/// Characters of a number as a person or a switch writes it.
pub const NUMBER_CHARS_MAX: usize = 40;
/// A block's entry has 15 bits for the route.
pub const ROUTES_MAX: usize = 0x7FFF;
/// Named databases that an environment may have.
pub const STORE_DATABASES_MAX: u32 = 16;
/// Reader slots in the lock file.
pub const STORE_READERS_MAX: u32 = 1024;
/// The largest UDP payload over IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Digits in a `pdb` query that are looked at.
pub const PDB_DIGITS_MAX: usize = 32;
/// What a `pdb` length byte can say.
pub const PDB_MESSAGE_BYTES_MAX: usize = 255;
/// Bytes of a `pdb` datagram that are read.
pub const PDB_DATAGRAM_BYTES_MAX: usize = 1024;
/// A `pdb` answer that would leave later than this after its question arrived is not sent.
pub const PDB_LATE_NS: u64 = 30_000_000;
/// An `npq` answer over UDP.
pub const NPQ_DATAGRAM_ANSWER_BYTES_MAX: usize = 1232;
/// Numbers in one batch query.
pub const NPQ_NUMBERS_MAX: usize = 1000;
/// An `npq` frame over TCP.
pub const NPQ_FRAME_BYTES_MAX: usize = 262_144;
/// Characters of a network code.
pub const NETWORK_CODE_CHARS_MAX: usize = 8;
/// Hex digits of a routing number.
pub const ROUTING_NUMBER_CHARS_MAX: usize = 15;
/// Bytes of a snapshot's row.
pub const SNAPSHOT_LINE_BYTES_MAX: usize = 256;

/// Bytes of a DNS query over UDP that are read.
pub const DNS_QUERY_BYTES_MAX: usize = 4096;
/// A DNS answer over UDP.
pub const DNS_ANSWER_BYTES_MAX: usize = 1232;
/// A DNS message over TCP.
pub const DNS_MESSAGE_BYTES_MAX: usize = 65_535;
/// A domain name in its wire form.
pub const DNS_NAME_BYTES_MAX: usize = 255;
/// Records behind a DNS question that are looked through.
pub const DNS_ADDITIONAL_MAX: usize = 8;
/// A NAPTR record's regular expression.
pub const NAPTR_TEXT_BYTES_MAX: usize = 255;
/// How many times as long as its question an answer over UDP may be.
pub const AMPLIFICATION_MAX: usize = 4;
/// Bytes of a SIP request over UDP that are read.
pub const SIP_DATAGRAM_BYTES_MAX: usize = 8192;
/// A SIP request over TCP.
pub const SIP_MESSAGE_BYTES_MAX: usize = 65_535;
/// Header lines of a SIP request.
pub const SIP_LINES_MAX: usize = 128;
/// Via values of a SIP request.
pub const SIP_VIAS_MAX: usize = 70;
/// Allowances of address prefixes that are kept.
pub const PREFIX_SLOTS: usize = 16_384;
/// Leading bits of IPv4 addresses that share an allowance.
pub const PREFIX_BITS_V4: u32 = 24;
/// Of IPv6 addresses.
pub const PREFIX_BITS_V6: u32 = 56;

/// Records of the query log that one worker keeps until they are written.
pub const QUERY_LOG_QUEUE_MAX: usize = 65_536;

/// `DRAIN_SECONDS`: how long a stopping worker goes on answering when its peers do not cease to ask.
pub const DRAIN_NS: u64 = 2_000_000_000;

/// Bytes of a row of a list; `BATCH_ROW_BYTES_MAX` of Python.
pub const BATCH_ROW_BYTES_MAX: usize = 64 << 10;
