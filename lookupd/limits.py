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
"""Nine are in use; the rest is room for later format versions."""

WRITER_WAIT_SECONDS = 10.0
"""How long a command waits for another writer before it says who holds the store."""

BLOCKS_CACHED_MAX = 8192
"""Blocks that a write transaction keeps unpacked, about 50 MB, before it writes them out and starts again."""

BLOCKS_PER_WINDOW = 4096
"""Blocks that a bulk comparison holds at a time: 8 MB of entries, which stays in a processor's cache."""

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

PARSE_CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes parsed at a time: large enough that the cost per chunk vanishes, small enough to stay in cache."""

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
"""How long it waits for the first server before it asks the second too."""
