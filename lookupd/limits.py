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
"""Twelve are in use; the rest is room for later format versions."""

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
"""What is read of a body that nobody wants."""

HTTP_ARRAY_NUMBERS_MAX = 1000
"""Numbers in one JSON array, which is read and answered whole; more come as lines."""

HTTP_ARRAY_BYTES_MAX = 64 * 1024
"""So many numbers, as people write them."""

HTTP_ANSWER_BYTES_MAX = 2 * 1024 * 1024
"""What `lookupd query` reads of an answer over HTTP: so many numbers have a fifth of it."""

HTTP_LINE_BYTES_MAX = 256
"""A line that asks for a number: 40 characters, quoted, in an object, with room."""

HTTP_LINES_PER_SLICE = 200
"""Lines that are answered before others have their turn: about 2 ms."""

HTTP_LINES_MAX = 1_000_000
"""Lines of one request: their answers are 200 MB. More come in another one."""

HTTP_LINES_SECONDS = 600.0
"""How long a body of lines may take in all, with the answers to it: the most lines there may be, at 1,700 a second."""

HTTP_ENTRIES_MAX = 500
"""Entries of the journal in one answer: a few hundred kilobytes."""

HTTP_ENTRIES_PER_SLICE = 50
"""Entries that are read before others have their turn: a few milliseconds."""

HTTP_ENTRIES_SCANNED_MAX = 2000
"""Entries that one request passes over in search of those that were asked for; the next one goes on from there."""

EXCHANGE_ANSWER_SECONDS = 0.5
"""How long the daemon waits for the exchange beside it, which answers from memory."""

EXCHANGE_ANSWER_BYTES_MAX = 262_144
"""A few hundred bytes a feed."""

HTTP_STALL_SECONDS = 30.0
"""How long a body that has begun, or an answer that nobody takes, is waited for."""

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

# -- one process follows another -------------------------------------------------------------------------

HANDOVER_SECONDS = 300.0
"""How long a successor may take to open and warm its store: 100 million numbers take seconds from a cold disk."""

HANDOVER_READY_SECONDS = 20.0
"""How long it may then take to answer on each listener; a Python path before it reads nothing meanwhile."""

HANDOVER_STEP_SECONDS = 5.0
"""How long one word between the two may take, and an ending one to end."""

HANDOVER_MESSAGE_BYTES_MAX = 1_048_576
"""A connection's message begun, in base64: the longest frame has 262,144 bytes."""

# -- the machine, as `doctor` looks at it -----------------------------------------------------------------

DOCTOR_SECONDS = 4.0
"""How long all checks together may take: a person waits, perhaps in the middle of trouble."""

DOCTOR_ASK_SECONDS = 1.0
"""How long one of them waits for an answer: on a network between two replicas that is a hundred round trips."""

DOCTOR_ANSWER_BYTES_MAX = 65_536
"""What is read of an HTTP answer: a state with hundreds of feeds."""

NETDEV_BACKLOG_MIN = 2000
"""Packets that wait for one processor: 5 ms at 400,000 a second, while it does something else."""

FILES_BESIDE_LISTENERS = 128
"""Open files of a daemon beside its listeners and connections: the store, the loop, libraries, logs."""

KEY_WARNING_SECONDS = 30 * 86_400
"""Before a feed's key expires: the next one is asked for and put in place by people."""

FEED_SILENT_SECONDS = 86_400
"""A day without one file: some clearinghouses rest at night, none for a whole day and night."""

# -- what the supervisor is told -------------------------------------------------------------------------

CANARY_SECONDS = 5.0
"""Between two rounds of asking ourselves, where the supervisor's watchdog does not want it sooner."""

CANARY_ANSWER_SECONDS = 0.5
"""How long one of our own questions waits for its answer; it is asked CANARY_TRIES times."""

CANARY_TRIES = 3
"""A datagram may be dropped, and a `pdb` answer that would be late is not sent."""

EXTEND_SECONDS = 10
"""By how much a start is extended, each second: while a store warms up, or is not there yet."""

STATUS_SECONDS = 1.0
"""Between two lines for the supervisor's status."""

# -- the fleet's engine ----------------------------------------------------------------------------------

ENGINE_CONNECT_SECONDS = 5
"""From the first packet to a checked connection with one server; then the next one is tried."""

ENGINE_ANSWER_SECONDS = 5.0
"""For an answer of the engine: servers that lost their leader agree on another within about 4 s."""

ENGINE_CLOSE_SECONDS = 1.0
"""For taking leave of a server, which may be gone."""

ENGINE_PING_SECONDS = 5
ENGINE_PINGS_MAX = 2
"""A server that is gone without a word is noticed after some 15 s, and another one is asked."""

ENGINE_MONITOR_BYTES_MAX = 1 << 20
"""What is read of a monitoring port's answer, which has some 5 kB."""

RELAY_BACKOFF_SECONDS = (0.5, 30.0)
"""After the engine or a source failed: the first wait, and the longest. A port has an hour."""

RELAY_RETRY_SECONDS = (10.0, 300.0)
"""A file that cannot be used is fetched anew after the first, then twice as long each time up to the second."""

RELAY_LOT = 64
"""Deltas that one feed publishes before another one has its turn."""

FOREIGN_MESSAGES_MAX = 256
"""Messages of somebody else at the end of a subject that are passed over to find the last one of a relay."""

FLEET_REPLICAS_MAX = 2000
"""Replicas of one feed whose words are kept; those beyond are counted and not shown."""

FLEET_SEQUENCES_KEPT = 64
"""Of each feed, how many of the last published sequences have their time and the replicas' digests kept."""

FLEET_READ_SECONDS = 30.0
"""Between two readings of every replica's last word from the stream; what comes meanwhile is heard at once."""

# -- a replica of a fleet --------------------------------------------------------------------------------

STREAM_MESSAGES_PER_REQUEST = 32
"""Messages that the engine may send before it is asked again: at most 18 MB on their way to us."""

STREAM_BYTES_ON_THE_WAY_MAX = 64 << 20
"""An engine that sends more than it was asked for is not listened to any further."""

STREAM_REQUEST_SECONDS = 20.0
"""How long one request for messages stands; after each, the stream is compared with what we know of it."""

STREAM_HEARTBEAT_SECONDS = 5.0
"""While a request stands and nothing comes, the engine says so often that it is there."""

STREAM_SILENCE_SECONDS = 12.0
"""Two heartbeats missed, and the way there: the connection is taken for lost."""

STREAM_IDLE_SECONDS = 300.0
"""After so long without a request from us the engine forgets our consumer; we make another one."""

STREAM_BACKOFF_SECONDS = (0.25, 30.0)
"""After the engine failed: the first wait, and the longest. Meanwhile the files are followed at the feed's pace."""

STREAM_FIRST_LOOK_SECONDS = 5.0
"""How long a look waits for messages that are known to be on their way, or for the first connection."""

INCOMING_MESSAGES_MAX = 256
"""Checked deltas that wait for their turn, four lots; no more are read from the engine meanwhile. At most 150 MB."""

STREAM_PASSED_MAX = 1000
"""Messages that brought nothing new and are read again after a start, at most."""

MESSAGE_ID_CHARS_MAX = 256
"""Of a message's id, as it is kept: ours have some 110 characters."""

FILES_LIST_SECONDS = (240.0, 360.0)
"""Between two looks at the signed files while the engine brings everything, drawn anew each time: 200 replicas make
40 listings a minute. What an engine keeps from us is noticed by then; a port has an hour."""

ACK_BYTES_KEPT = 12 * 1024
"""Of an acknowledgement that goes to the engine, whose stream takes 16 KiB: rejections beyond it stay here."""

# -- the pair --------------------------------------------------------------------------------------------

PEER_POLL_SECONDS = 2.0
"""Between two looks at the peer: a divergence is seen three times, and told, within 10 s."""

PEER_POLL_WITHDRAWN_SECONDS = 0.5
"""The same while we stand back: nobody answers from the moment the peer goes away until we notice."""

PEER_POLL_TIMEOUT_SECONDS = 1.0
"""Of one look, from the connection to the last byte; a start waits for one of them."""

PEER_MISSES_MAX = 3
"""Looks in a row without an answer after which the peer counts as away: one lost packet does not."""

PEER_STATE_BYTES_MAX = 65_536
"""What is read of the peer's state: 64 steps and 32 feeds are under 20 kB."""

PEER_NAME_CHARS_MAX = 64
"""Of the peer's name and of why it stands back, which go into logs and a header: a file's name, and a sentence."""

DIFFERS_SECONDS = 4.0
"""Other digests at the same positions for so long are a divergence. Notices of an agreed second fire on both within
two seconds; the two looks are up to two apart."""

DIFFERS_FORGOTTEN_SECONDS = 10.0
"""After which a difference that was seen once, and could not be looked at again since files came, begins anew."""

TABLES_SECONDS = 20.0
"""How long networks or ranges may be on one side only before that side stands back: replicas fetch them by
themselves, each at its own look at the source (`poll`, 5 s), and a transfer takes its time, too."""

OVERDUE_SECONDS = 4.0
"""A notice that still waits so long after its moment was missed: whoever has fired it is right."""

TRAIL_STEPS_MAX = 64
"""Steps of its history that a replica tells its peer: enough to find where they part in the first minutes of a
divergence, and a few kB every two seconds."""

TRAIL_ENTRIES_MAX = 64
"""Journal entries between two commits of a feed that are looked at for what they changed: a repair by hand may have
thousands, and the first ones tell as much."""

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

# -- ledgers ---------------------------------------------------------------------------------------------

LEDGER_WAIT_SECONDS = 5.0
"""How long a ledger that another process writes is waited for: it holds the file for milliseconds."""

# -- the query log ---------------------------------------------------------------------------------------

QUERY_LOG_QUEUE_MAX = 65_536
"""Records that a worker, or the Python path, keeps until they are written: 7 MB, and a tenth of a second of more
queries than a core answers."""

QUERY_LOG_DRAIN_SECONDS = 0.1
"""Between two writings: what `lookupd log --follow` waits for at most, and ten wake-ups a second cost nothing."""

QUERY_LOG_PIECE_BYTES = 262_144
"""Of one write: what a file may go over its size by while two processes write it, and what is lost with a full disk."""

QUERY_LOG_FILE_BYTES_MIN = 65_536
"""A smaller file would be turned over more than once for each lot of records."""

QUERY_LOG_FILES_MAX = 200
"""Of one log: `lookupd log` has all of them open at a time."""

QUERY_LOG_SAMPLE_MAX = 1_000_000_000
"""One of so many queries: what the native engine's word holds, with room."""

QUERY_LOG_TURN_SECONDS = 1.0
"""How long another process may hold a file that is to be turned over: it does for microseconds."""

QUERY_LOG_LINE_BYTES_MAX = 16_384
"""Of a line that `lookupd log` reads: ours are under 400 bytes beside a client's name; what is longer is damage."""

QUERY_LOG_STOP_SECONDS = 2.0
"""How long the end of the daemon waits for the last records: a disk that hangs must not keep it."""

LEDGER_WAITING_MAX = 100_000
"""Hours and keys that wait in memory for a file that cannot be written, about 30 MB: four days of 50 clients with
twenty combinations of dialect and result each. What is beyond is lost, and counted as lost."""

# -- usage -----------------------------------------------------------------------------------------------

USAGE_EVERY_MIN_SECONDS, USAGE_EVERY_MAX_SECONDS = 0.1, 3600.0
"""Between two savings: each syncs the disk several times; what was counted since the last one dies with a process that
is killed."""

USAGE_KEEP_MIN_SECONDS = 62 * 86_400.0
"""Last month's statement can be made until this one ends."""

USAGE_CLOSE_SECONDS = 3.0
"""For the last saving: with the time that answers have to leave, a stop is within systemd's 10 s."""

USAGE_PRUNE_HOURS_MAX = 24
"""Forgotten in one hour, from the oldest on: a clock that is years ahead for a moment costs a day of the oldest."""

USAGE_GAP_SECONDS = 60.0
"""Of an hour that nothing was counted in before a statement tells: a restart is over in seconds."""

USAGE_NAMES_MAX = 20
"""Ledgers that one statement adds up: more than a service has replicas."""

# -- metrics ---------------------------------------------------------------------------------------------

CERTIFICATE_FILE_BYTES_MAX = 1 << 20
"""Of a file with certificates, read when its expiry is told: an authority's bundle of hundreds is a fifth of it."""

# -- HTTP listeners --------------------------------------------------------------------------------------

HTTP_CONNECTIONS_MAX = 256
"""At a time, of one listener: operators, scrapers and a peer need a dozen; each costs about 100 kB at its worst."""

HTTP_CONNECTIONS_PER_SOURCE_MAX = 64
"""At a time, from one address: one client cannot take all the places."""

HTTP_STRANGERS_MAX = 8
"""At a time, from addresses on no client's list together: enough to be told so, too few to be in anybody's way."""

HTTP_BACKLOG = 128
"""Connections that wait to be accepted."""

HTTP_HEAD_SECONDS = 10.0
"""For TLS to be agreed, and again for the whole head of a request from its first byte: it is one packet."""

HTTP_FIRST_SECONDS = 0.5
"""How long a listener that closes waits for the first request of a connection that it has just taken: a handshake and a
packet, which who goes on after us cannot have."""

HTTP_BODY_SECONDS = 60.0
"""For the whole body of a request: 2 Mbit/s bring the largest."""

HTTP_ANSWER_SECONDS = 30.0
"""For 64 kB of an answer to be taken; who takes less than 2 kB a second is no reader."""

HTTP_SEND_BUFFER_BYTES = 262_144
"""In the kernel, for a connection: else it grows to megabytes for who reads nothing."""

HTTP_LINGER_SECONDS = 2.0
"""How long the body of a request that was refused is still read, so that the refusal arrives."""

HTTP_HEAD_LINE_BYTES_MAX = 8190
"""A request line, or a header: 64 blocks asked for by a peer have 1,300."""

HTTP_HEADERS_MAX = 64
"""Headers of a request; browsers send about 20."""

HTTP_HOSTS_MAX = 16
"""Names that a listener may be called by."""

HTTP_SCRAPES_PER_SECOND = 20
"""Times that metrics are made anew; who asks more often gets those of up to 1/20 s before."""

TOKEN_CHARS_MIN = 20
"""Of a bearer token: 120 bits if drawn at random, which nobody guesses."""

TOKEN_CHARS_MAX = 256
"""As much as fits a header with room; 43 are 256 bits."""

TOKENS_MAX = 2
"""In one file: the old and the new one, while one replaces the other."""

TOKEN_FILE_BYTES_MAX = 4096
"""What is read of a token file: two tokens and their line ends have under 600."""

PEM_FILE_BYTES_MAX = 1 << 20
"""What is read of a certificate or key: a bundle of all public authorities has 230 kB."""

# -- the probe -------------------------------------------------------------------------------------------

PROBE_SERVERS_MAX = 64
"""A pair in five dialects is ten; each server costs a socket, and a few hundred lines of metrics."""

PROBE_INTERVAL_MIN_SECONDS = 0.01
"""Between two questions to a server: a hundred a second are no load, and no sampling any more."""

PROBE_TIMEOUT_MAX_SECONDS = 10.0
"""The histogram's last bound; a caller has hung up by then."""

PROBE_UNDER_WAY_MAX = 64
"""Questions to one server at a time: as many sockets, when it is silent."""

PROBE_KEEP_MIN_SECONDS = 215 * 86_400.0
"""A half-year of 184 days is reported by the 10th of the next month, and corrected in the weeks after."""

PROBE_EVERY_MIN_SECONDS, PROBE_EVERY_MAX_SECONDS = 0.1, 30.0
"""Between two savings: what was measured since the last one dies with a process that is killed. The supervisor hears of
us with each, and gives us up after a minute."""

PROBE_PRUNE_HOURS_MAX = 24
"""Forgotten in one hour, from the oldest on: a clock that is years ahead for a moment costs a day of the oldest."""

PROBE_REDRAW_SECONDS = 3600.0
"""Between two draws of numbers."""

PROBE_MISSES_TOLD = 3
"""Questions in a row without an answer before the log has it."""

PROBE_HELD_UP_SECONDS = 0.1
"""By which the end of a time-out may be noticed late; later, the probe itself was held up, and has measured that."""

PROBE_QUESTIONS_PER_SOCKET = 60
"""Over UDP, before another port is taken: which worker of a server is met follows from the port."""

PROBE_PAST_MAX = 64
"""Former questions whose late or repeated answers are known; with the next socket they are forgotten anyway."""

PROBE_MESSAGES_PER_READ = 16
"""Taken at once before others have their turn: a server that floods us must not stop the rest."""

PROBE_HTTP_BYTES_MAX = 16_384
"""Of the head, and of the body, of an answer over HTTP; one number's is under 1,000."""

PROBE_NUMBERS_DRAWN = 1000
"""Of each kind, each hour: with a question a second each is met three or four times, cold and then warm."""

PROBE_BLOCKS_LISTED = 4096
"""Blocks of a store that are listed to draw from: in a larger one places are drawn, so that drawing reads, and warms,
no more than what is asked."""

PROBE_FILE_BYTES_MAX = 16 << 20
"""Of a file of numbers: a million of them."""

PROBE_LEDGERS_MAX = 64
"""That one report adds up."""

# -- restrictions ------------------------------------------------------------------------------------------

RESTRICTION_YEARS = 2
"""A restriction lapses after so long at most (EPR article 36)."""

RESTRICTION_EXTENSION_YEARS = 1
"""What its one extension may add (EPR article 36)."""

RESTRICTIONS_PER_BLOCK_MAX = 4000
"""That have not lapsed and reach into one block of a thousand numbers: four for each of them. An answer reads those of
64 numbers: 0.4 us in the native engine if each is of one number, 5 us and 64,000 bytes if each is of the whole block
and none in force; a change writes a megabyte anew then, in 60 ms."""

RESTRICTIONS_CACHED_MAX = 500_000
"""Records of them that a write transaction keeps unpacked, about 75 MB, before it writes them out and starts again."""

RESTRICTION_WORDS_CHARS_MAX = 64
"""Of an authority's name and of a case number: as much as a notice's reference."""

# -- batches over HTTP -----------------------------------------------------------------------------------

JOBS_UPLOAD_SECONDS = 3600.0
"""For one upload: the largest by default, 1 GiB, at 2.4 Mbit/s."""

JOBS_UPLOADS_MAX = 4
"""At a time, of all clients: each holds a connection and `JOBS_PIECE_BYTES` of memory."""

JOBS_PIECE_BYTES = 1 << 20
"""Written at once; a client is read no further while the disk takes it."""

JOBS_MAX = 1000
"""`batches.jobs_max` at most: each look reads those that have not ended, in about 0.1 ms each."""

JOBS_RUNNING_MAX = 8
"""`batches.running` at most."""

JOBS_LOOK_SECONDS = 1.0
"""Between two looks for work: a job that is due starts within it."""

JOBS_NAME_CHARS_MAX = 100
"""Of what a client calls its job, of a column and of an encoding."""

JOBS_KEY_CHARS_MAX = 255
"""Of an Idempotency-Key: a UUID has 36."""

JOBS_AHEAD_SECONDS = 31 * 86_400
"""How far ahead a job may be scheduled: an upload must not lie for years."""

JOBS_STARTS_MAX = 5
"""Of a job whose process was killed: one that is killed so often has too little memory."""

JOBS_AGAIN_SECONDS = 5.0
"""Before it is begun again; doubled each time."""

JOBS_END_SECONDS = 5.0
"""That a process that is killed may take to be gone: a disk that hangs holds it longer."""

JOBS_TOLD_BYTES_MAX = 4 << 20
"""Of what a job's process says at its end: its summary is below 100 kB."""

JOBS_FILE_BYTES_MAX = 8 << 20
"""What is read of a small file in a job's folder."""

JOBS_CLOCK_SECONDS = 3600.0
"""How long a jump of the wall clock beyond `limits.clock_step` must last before results are deleted by it."""

JOBS_LEFT_SECONDS = 60.0
"""After which an upload that nobody receives is one that a crash left."""

# -- batches ---------------------------------------------------------------------------------------------

BATCH_ROW_BYTES_MAX = 64 << 10
"""Of a row of a list; an address book's have under 1,000. A longer one is reported, and never in memory as a whole."""

BATCH_CELL_CHARS_MAX = 64
"""Of a number as people write it, with brackets and blanks; more is text."""

BATCH_READ_BYTES = 1 << 20
"""Of a list, worked on at a time: some 30,000 rows, which take 20 MB with all that is made of them."""

BATCH_TEXT_BYTES_MAX = 64 << 30
"""Of a compressed list when it is unpacked: a bomb ends here, and no list has a billion rows."""

BATCH_HEAD_BYTES = 256 << 10
"""In which column, separator and encoding are looked for; a few rows of the longest kind."""

BATCH_HEAD_ROWS = 1000
"""Of the head that are looked at."""

BATCH_BAD_ROWS_TOLD = 100
"""With row and reason; the rest are counted. Each has its reason in the output as well."""

BATCH_SERIALS_TOLD = 1000
"""Changes of the store that a summary tells of: a server is asked for hours at most, and changes each minute or so."""

BATCH_DUPLICATE_ROWS_MAX = 20_000_000
"""Among which repeats are looked for: each takes 11 bytes. Further rows are answered, their repeats are not found."""

BATCH_CHECKPOINT_SECONDS = 2.0
"""Between two checkpoints: what a power cut costs at most. Each waits for the disk."""

BATCH_CHECKPOINT_BYTES_MAX = 1 << 20
"""Of a checkpoint: its bad rows and the counts of each network."""

BATCH_NETWORKS_MAX = 512
"""Files by network that are open at a time; a country has some tens of networks."""

BATCH_QUESTIONS_UNDER_WAY = 32
"""Asked of a server at a time, each of as many numbers as it takes."""

# -- the regulator's report ------------------------------------------------------------------------------

AVAILABILITY_FILE_BYTES_MAX = 16 << 20
"""A half-year by hours is 4,416 values of some 25 bytes; what is longer is another file."""

RECONCILIATION_FILE_BYTES_MAX = 4 << 20
"""A result has a line of 150 bytes for each network, of which a store has at most 32,767; a few hundred are usual."""

JOURNAL_ENTRIES_PER_STEP = 10_000
"""Read between two words on the progress: some 60 ms."""

MISSING_SNAPSHOTS_TOLD = 20
"""That changed numbers without notices, in a half-year; the rest are counted."""

MONTH_NUMBERS_PER_STEP = 1000
"""Looked up in the history between two words on the progress: some 30 ms."""

PDF_SECONDS = 90.0
"""A browser prints a report's page in a few seconds; on a busy machine its start alone may take ten."""

# -- risk checks and their audit ---------------------------------------------------------------------------

RISK_WINDOW_SECONDS = 180 * 86_400
"""Half a year, as long as the history is kept at least (NPR article 28), unless another window is asked for."""

RISK_WINDOW_SECONDS_MAX = 3660 * 86_400
"""Ten years: longer than any history is kept."""

RISK_ENTRIES_READ_MAX = 1000
"""Of one number: some 20 ms. A number that is ported twice a day for a year has fewer."""

RISK_MOVES_TOLD = 50
"""Of one number; those beyond are counted in the window, and not listed."""

AUDIT_WAITING_MAX = 1000
"""Risk checks that wait for the disk at a time: beyond, it does not keep up, and they are refused."""

AUDIT_KEEP_SECONDS_MIN = 184 * 86_400
"""As long as the history must be kept (NPR article 28(4)): the past that was told, and to whom it was told."""

AUDIT_PURPOSE_CHARS_MAX = 200
"""A reference and a few words."""
