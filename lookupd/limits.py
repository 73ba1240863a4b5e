"""Every bound of the project, each with its reason. A bound that an operator may move is a setting."""

from __future__ import annotations

# -- numbers ---------------------------------------------------------------------------------------------

E164_DIGITS_MAX = 15
"""ITU-T E.164 section 6.2.1."""

TN_DIGITS_MIN = 5
"""The shortest number the feed format lets in; shorter ones are short codes, which are never ported."""

ROUTING_NUMBER_CHARS_MAX = 15
"""Hex digits of an `rn`: room for a prefix before a number (RFC 4694 section 4 sets no bound)."""

NETWORK_CODE_CHARS_MAX = 8
"""What the feed format gives a network code."""

NUMBER_CHARS_MAX = 40
"""Characters of a number as a person or a switch writes it: 15 digits and as many separators, with room."""

# -- the store -------------------------------------------------------------------------------------------

ROUTES_MAX = 0x7FFF
"""A block's entry has 15 bits for the route; 0 means "not ported"."""

STORE_READERS_MAX = 1024
"""Reader slots in the lock file: one a process and thread that reads, 64 bytes each."""

STORE_DATABASES_MAX = 16
"""Eleven are in use; the rest is room for later format versions."""

WRITER_WAIT_SECONDS = 10.0
"""How long a command waits for another writer before it says who holds the store."""

BLOCKS_CACHED_MAX = 8192
"""Blocks that a write transaction keeps unpacked, about 50 MB, before it writes them out and starts again."""

JOURNAL_ROWS_MAX = 4096
"""Journal rows that a write transaction keeps before it puts them down in one lot: under 1 MB."""

BLOCKS_PER_WINDOW = 4096
"""Blocks that a bulk comparison holds at a time: 8 MB of entries, which stays in a processor's cache."""

BLOCKS_PER_LOT = 1024
"""Blocks that are packed natively while the lot before them is put: up to 20 MB of values in two lots."""

READER_CHECK_SECONDS = 60.0
"""How often slots of readers that died are given back."""

STORE_POLL_SECONDS = 1.0
"""How often `serve` looks whether the store appeared, or was replaced by a restored one."""

# -- feeds -----------------------------------------------------------------------------------------------

RANGE_NUMBERS_MAX = 100_000
"""Numbers in one notice's range, from the feed format."""

SNAPSHOT_LINE_BYTES_MAX = 256
"""The longest row that the format allows is under 100 bytes."""

DELTA_LINE_BYTES_MAX = 4096
"""The longest notice that the format allows is under 500 bytes; a longer line is not one."""

MANIFEST_BYTES_MAX = 16_384
"""A manifest holds seven short values."""

TABLE_BYTES_MAX = 64 * 1024 * 1024
"""`networks.csv` and `ranges.csv` are read whole: over a million rows."""

DELTA_NOTICES_MAX = 5_000_000
"""Notices in one delta: more than any country moves in a day, and what a few GB of memory hold."""

DECOMPRESSED_BYTES_MAX = 64 * 1024**3
"""A compressed file that grows beyond this is a bomb: 1,000 million rows would be 50 GB."""

REFERENCE_CHARS_MAX = 64
"""Characters of a notice's `ref`, from the feed format."""

PARSE_CHUNK_BYTES = 2 * 1024 * 1024
"""Bytes parsed at a time: large enough that the cost per chunk vanishes, small enough to stay in cache. At 8 MB
a snapshot of 20 million rows cost as much of the processor, and a second more of the kernel, for memory."""

PROGRESS_SECONDS = 5.0
"""Between two progress lines when no terminal shows a bar."""

# -- datagrams and frames --------------------------------------------------------------------------------

DATAGRAM_BYTES_MAX = 65_507
"""The largest UDP payload over IPv4."""

DATAGRAMS_PER_BATCH = 32
"""Datagrams read from one socket before other sockets and timers get their turn: about 0.3 ms of work."""

REPLIES_JOINED_MAX = 32
"""Replies of one length to one peer that leave in one system call: a batch's worth; the kernel takes 64."""

PDB_DIGITS_MAX = 32
"""Digits in a `pdb` query that are looked at; longer numbers are NOT_FOUND (protocol sheet, section 6)."""

PDB_MESSAGE_BYTES_MAX = 255
"""What a length byte can say."""

PDB_DATAGRAM_BYTES_MAX = 1024
"""Bytes of a `pdb` datagram that are read: far more than a message has, and a smaller buffer to make."""

PDB_LATE_NS = 30_000_000
"""A `pdb` answer that would leave more than 30 ms after its question arrived is not sent: the client's
default patience is 50 ms, and it takes a late answer for the answer to its next question."""

NPQ_DATAGRAM_ANSWER_BYTES_MAX = 1232
"""An answer that crosses any IPv6 path in one packet: 1,280 less the IPv6 and UDP headers."""

NPQ_NUMBERS_MAX = 1000
"""Numbers in one batch query."""

NPQ_FRAME_BYTES_MAX = 262_144
"""A frame over TCP: 1,000 numbers with operator names need under 200 kB."""

DNS_NAME_BYTES_MAX = 255
"""A domain name in its wire form (RFC 1035 section 2.3.4)."""

DNS_QUERY_BYTES_MAX = 4096
"""Bytes of a DNS query over UDP that are read: a question and its options need under 512."""

DNS_ANSWER_BYTES_MAX = 1232
"""Of an answer over UDP, and what our OPT says: it crosses any IPv6 path in one packet."""

DNS_MESSAGE_BYTES_MAX = 65_535
"""Over TCP, what the length before it can say."""

DNS_ADDITIONAL_MAX = 8
"""Records behind the question that are looked through for an OPT; a query with more is malformed."""

DNS_TTL_MAX = 604_800
"""Seconds; a route that is remembered for longer than a week is a wrong route."""

AMPLIFICATION_MAX = 4
"""An answer over UDP to ENUM or SIP is at most so many times as long as its question: forged ones gain little."""

ENUM_APEXES_MAX = 16
"""Apexes of one profile."""

NAMESERVERS_MAX = 8
"""Of one profile, and addresses of each: their records fit an answer."""

NAPTR_TEXT_BYTES_MAX = 255
"""A NAPTR record's regular expression, and every other text in a DNS record (RFC 1035 section 3.3)."""

URI_DOMAIN_CHARS_MAX = 100
"""Host and port of a URI: a NAPTR's regular expression has 255 bytes in all (RFC 3403 section 4.1)."""

SIP_DATAGRAM_BYTES_MAX = 8192
"""Bytes of a SIP request over UDP that are read; a dip with SDP has 600 to 1,500."""

SIP_MESSAGE_BYTES_MAX = 65_535
"""A SIP request over TCP, head and body."""

SIP_LINES_MAX = 128
"""Header lines of a SIP request."""

SIP_VIAS_MAX = 70
"""Via values of a SIP request: Max-Forwards starts at 70."""

SIP_IDLE_SECONDS = 600.0
"""Switches hold their connections for minutes without a word."""

PREFIX_SLOTS = 16_384
"""Allowances of address prefixes that are kept, whoever asks: those that share a slot share an allowance."""

PREFIX_BITS_V4, PREFIX_BITS_V6 = 24, 56
"""Addresses that share an allowance: what one household or site has, as DNS servers limit responses."""

ENGINE_THREADS_MAX = 128
"""Workers of a listener: each holds a reader slot in the store, of which there are 1,024 for all processes."""

ENGINE_WORKERS_MAX = 512
"""Workers of all listeners: half of the store's reader slots, the other half is for whoever else reads."""

# -- connections -----------------------------------------------------------------------------------------

CONNECTIONS_MAX = 1024
"""TCP connections at a time; a further one is closed at once and counted."""

CONNECTIONS_PER_SOURCE_MAX = 64
"""TCP connections at a time from one address: one peer cannot take all the places."""

CONNECTION_IDLE_SECONDS = 60.0
"""A connection with no frame for this long is closed."""

FRAME_SECONDS = 10.0
"""A frame that has begun must be complete within this time, and an answer must be taken within it."""

WRITE_BUFFER_BYTES_MAX = 1_048_576
"""Answers waiting for a slow peer; above it no more of its questions are read."""

SOURCES_CACHED_MAX = 65_536
"""Source addresses whose client is remembered; forged ones only empty the memory, they cannot fill it."""

UDP_RECEIVE_BUFFER_BYTES = 1_048_576
"""Room for a burst of about 1,300 datagrams (the kernel counts about 770 bytes each), which is answered
within 20 ms. A longer queue would only hold questions whose client has given up."""

HTTP_BODY_BYTES_MAX = 16_384
"""No request to the HTTP listener has a body yet."""

DRAIN_SECONDS = 2.0
"""How long a stopping daemon waits for answers to leave."""

# -- client ----------------------------------------------------------------------------------------------

CLIENT_TIMEOUT_SECONDS = 1.0
"""How long the client library waits for an answer, all servers and tries together."""

CLIENT_HEDGE_SECONDS = 0.02
"""How long it waits for the first server before it asks the second too, at most; and what is not answered within this
counts against a server."""

CLIENT_HEDGE_SECONDS_MIN = 0.002
"""The shortest such wait: a busy client's event loop is late by as much, and would ask everybody everything."""

CLIENT_OUTCOMES_KEPT = 32
"""Questions by which a server is judged: two of them that were not answered put it behind the others."""

CLIENT_PROBE_QUESTIONS = 16
"""One question of so many goes to a second server at once: 6 % more questions, and what it would do is known."""

CLIENT_UNDER_WAY_MAX = 4096
"""Questions to one server whose answers are waited for, to measure it; beyond these the oldest is forgotten."""

# -- comparing and mending -------------------------------------------------------------------------------

WORDS_CHARS_MIN = 3
"""Of who and of why, when a person lets a change through: initials and a ticket are shorter than a sentence."""

WORDS_CHARS_MAX = 200
"""Of both together: the journal keeps them for half a year, a report prints them in one line."""

PARSE_THREADS = 2
"""Threads that parse chunks of a snapshot: numpy lets go of the interpreter, and each chunk in flight costs
about ten times its bytes in columns. A third one finds nothing to do beside decompression and assembly."""

DIFFERENCES_SHOWN = 20
"""Differences that a command shows one by one; `--report` writes all of them."""

GROUP_BLOCKS = 256
"""Blocks summed up by one digest of a group: 100,000 blocks are some 400 groups, which fit one answer."""

PEER_BLOCKS_SCANNED_MAX = 65_536
"""Blocks that one request for digests passes over: 50 ms of work, in slices; the next request goes on there."""

PEER_SLICE_BLOCKS = 256
"""Blocks that a peer's request reads before queries have their turn: about half a millisecond."""

PEER_BLOCKS_MAX = 64
"""Blocks whose numbers go into one answer: at most 64,000 numbers, about 3 MB."""

PEER_ANSWER_BYTES_MAX = 32 * 1024 * 1024
"""What is read of a peer's answer. The largest is the ranges table, 30 bytes a row: room for a million rows."""

PEER_TIMEOUT_SECONDS = 10.0
"""How long one request to a peer may take, from the connection to the last byte."""

PEER_RESTARTS_MAX = 5
"""A comparison starts again when the peer's state moved on meanwhile; a delta comes every few seconds at most."""

PEER_BLOCKS_COMPARED_MAX = 20_000
"""Differing blocks whose numbers are fetched, a few hundred MB; stores that differ in more are loaded afresh."""

# -- health ----------------------------------------------------------------------------------------------

HEALTH_INTERVAL_SECONDS = 0.1
"""Between two looks: ten a second cost nothing."""

HEALTH_ANSWER_SECONDS = 0.4
"""For an answer of the daemon on the same machine: one on a busy machine that comes late is an answer still."""

HEALTH_SILENCE_SECONDS = 0.4
"""Since the last good look began, before an address moves: with keepalived's share it moves within a second."""

HEALTH_STEADY_SECONDS = 2.0
"""Without trouble, before an address may come back."""

HEALTH_BAD = -100
"""What the file says then: far more than two machines' priorities differ by."""

HEALTH_ANSWER_BYTES_MAX = 4096
"""Of one answer that is read; what we ask for needs under 1,000."""
