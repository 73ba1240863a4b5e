"""The catalogue of log events: a stable id for each, how bad it is, what it means, and what to do.

An id is never given to another event: who filters or alarms by it goes on doing so. `python -m lookupd.observe.events`
prints docs/events.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["info", "warning", "error"]
PRIORITIES: dict[Level, int] = {"info": 6, "warning": 4, "error": 3}
"""As in syslog(3), for the journal."""


class Event(NamedTuple):
    """fields: that a line of it may have, beside time and id. do: in a sentence; empty = nothing. page: in
    docs/operations."""

    id: str
    level: Level
    fields: tuple[str, ...]
    meaning: str
    do: str = ""
    page: str = ""


def _fields(text: str) -> tuple[str, ...]:
    return tuple(text.split())


AREAS = {
    "LK10": "The daemon's life",
    "LK11": "Data and store",
    "LK12": "Configuration and listeners",
    "LK13": "The pair",
    "LK14": "Handing over",
    "LK15": "Supervision",
    "LK16": "The query log",
    "LK17": "Usage",
    "LK20": "Files of a feed",
    "LK21": "Agreed moments and the clock",
    "LK22": "The scrub",
    "LK23": "The fleet's relay",
    "LK24": "A replica of a fleet",
    "LK25": "The probe",
    "LK26": "Batches",
    "LK27": "Risk checks",
}

EVENTS: dict[str, Event] = {
    "serving": Event("LK1001", "info", _fields("engine replica listen"), "Every listener is open."),
    "ready": Event("LK1002", "info", (), "Queries are answered from data."),
    "not_ready": Event(
        "LK1003", "error", _fields("reason"), "Queries are answered `unavailable`, or not at all.", "See the reason."
    ),
    "draining": Event("LK1004", "info", (), "The daemon ends: it answers what has arrived, and takes no more."),
    "stopped": Event("LK1005", "info", (), "The process has ended in good order."),
    "failed": Event(
        "LK1006", "error", _fields("message error"), "A fault of the program: it ends, and is started anew.",
        "Report it, with the lines around it.", "restart.md",
    ),
    "store_opened": Event(
        "LK1101", "info", _fields("path serial digest ported damaged_blocks warm_seconds"),
        "The store was opened and read through.",
    ),
    "store_replaced": Event("LK1102", "info", _fields("path"), "Another store lies there now, and is served."),
    "store_unavailable": Event(
        "LK1103", "error", _fields("reason"), "The store cannot be opened.",
        "See the reason; `lookupd doctor` tells more.",
    ),
    "data": Event("LK1104", "info", _fields("serial digest"), "A new state of the store is answered from."),
    "config_applied": Event("LK1201", "info", _fields("path"), "A changed configuration is in force."),
    "config_rejected": Event(
        "LK1202", "error", _fields("reason"), "A changed configuration cannot be used; the one before is in force.",
        "Mend the file: `lookupd check-config FILE`.", "restart.md",
    ),
    "config_warning": Event(
        "LK1203", "warning", _fields("message"), "A setting that is allowed deserves a second look."
    ),
    "socket_unused": Event(
        "LK1204", "warning", _fields("address reason"), "systemd holds a socket that nothing is configured for.",
        "Make `lookupd sockets` anew.", "restart.md",
    ),
    "listening": Event("LK1205", "info", _fields("http"), "Metrics and health of the loader are served there."),
    "http_failed": Event(
        "LK1206", "error", _fields("message error"), "A request over HTTP met a fault of the program.", "Report it."
    ),
    "http_accept_failed": Event(
        "LK1207", "error", _fields("reason"), "No more connections over HTTP can be taken at the moment.",
        "Raise LimitNOFILE, or see who holds them.", "load.md",
    ),
    "catalogue_unreadable": Event(
        "LK1208", "warning", _fields("language error"), "The texts of a language cannot be read: the page is English.",
        "Install the package anew.",
    ),
    "peer_up": Event("LK1301", "info", _fields("peer serial digest"), "The other replica answers."),
    "peer_down": Event(
        "LK1302", "error", _fields("url result reason"), "The other replica does not answer.",
        "Look at its machine: this one is alone.", "pair.md",
    ),
    "peer_differs": Event(
        "LK1303", "error", _fields("verdict why"), "Both replicas are at the same files, and their data differs.",
        "Compare and mend.", "divergence.md",
    ),
    "withdrawn": Event(
        "LK1304", "error", _fields("reason"), "This replica stands back for the other one.", "See the reason.",
        "divergence.md",
    ),
    "serving_again": Event("LK1305", "info", _fields("state was"), "It stands back no more."),
    "handover_begun": Event("LK1401", "info", _fields("reason"), "A process that is to follow was started."),
    "handing_over": Event("LK1402", "info", _fields("to"), "It answers; this one gives everything to it."),
    "handover_failed": Event(
        "LK1403", "error", _fields("reason"), "It did not come to answer; nothing has changed.", "See the reason.",
        "restart.md",
    ),
    "connections_lost": Event(
        "LK1404", "error", _fields("reason"), "The process that followed ended while it took connections over.", "",
        "restart.md",
    ),
    "supervisor_told": Event("LK1501", "info", _fields("what"), "systemd was told."),
    "supervisor_unreachable": Event(
        "LK1502", "error", _fields("address reason"), "systemd cannot be told anything.",
        "Without it the start fails and the watchdog ends the process: look at NOTIFY_SOCKET.", "restart.md",
    ),
    "canary_failed": Event(
        "LK1503", "error", _fields("listener reason"), "The daemon was not answered by itself, rightly, there.",
        "When it goes on, the watchdog starts the daemon anew.", "restart.md",
    ),
    "canary_answered": Event("LK1504", "info", _fields("listener"), "It was answered again."),
    "healthy": Event("LK1505", "info", _fields("file"), "`lookupd health`: the daemon answers."),
    "unhealthy": Event(
        "LK1506", "error", _fields("file reason"), "`lookupd health`: it does not; a virtual address moves.",
        "See the reason.", "virtual-address.md",
    ),
    "store_hangs": Event(
        "LK1507", "error", (), "The loader waits for the store's disk; the watchdog is not fed.", "Look at the disk."
    ),
    "store_answers": Event("LK1508", "info", (), "The store's disk goes on."),
    "query_log_lost": Event(
        "LK1601", "warning", _fields("path reason"),
        "Records of the query log cannot be written, and are lost until they can; answers go on.",
        "See the reason: a folder that is gone, its rights, the disk; docs/query-log.md.",
    ),
    "query_log_resumed": Event("LK1602", "info", _fields("path lost"), "They are written again; so many were lost."),
    "usage_begun": Event("LK1701", "info", _fields("path"), "A new ledger of usage was begun."),
    "usage_unsaved": Event(
        "LK1702", "error", _fields("reason queries"),
        "What was asked cannot be saved: it waits in memory, and is lost if the daemon ends before it can be.",
        "See the reason; docs/usage.md.",
    ),
    "usage_saved_again": Event("LK1703", "info", _fields("path"), "What had waited is saved."),
    "usage_damaged": Event(
        "LK1704", "error", _fields("reason kept_as"),
        "The ledger of usage was damaged: it is kept under another name, and a new one is begun.",
        "Look at the disk. What a backup of it has is added to statements with `lookupd usage --also`.",
    ),
    "usage_lost": Event(
        "LK1705", "error", _fields("queries reason"), "So many queries are in no ledger, and in no statement.",
        "See the reason.",
    ),
    "syncing": Event("LK2001", "info", _fields("replica feeds"), "The exchange runs."),
    "delta_applied": Event(
        "LK2002", "info", _fields("feed sequence applied pending added removed changed serial"), "A delta is visible."
    ),
    "snapshot_applied": Event(
        "LK2003", "info", _fields("feed sequence applied pending added removed changed serial"),
        "A snapshot is visible.",
    ),
    "table_loaded": Event("LK2004", "info", _fields("feed file"), "A table of networks or ranges is visible."),
    "file_rejected": Event(
        "LK2005", "error", _fields("feed file reason"), "A file cannot be used: it is looked at again later.",
        "Tell its sender the reason.", "gap.md",
    ),
    "file_guard": Event(
        "LK2006", "error", _fields("feed file reason"), "A file would move too many numbers, and waits for a word.",
        "Look at it, then let it through or have it replaced.", "refused-snapshot.md",
    ),
    "file_unfinished": Event(
        "LK2007", "error", _fields("feed position reason"), "Part of a file does not come.", "Ask its sender.", "gap.md"
    ),
    "feed_gap": Event(
        "LK2008", "error", _fields("feed position next_file"), "A file is missing, and later ones are there.",
        "Ask its sender.", "gap.md",
    ),
    "feed_moves_again": Event("LK2009", "info", _fields("feed position"), "What stood in the feed's way is over."),
    "gap_bridged_by_snapshot": Event(
        "LK2010", "warning", _fields("feed position snapshot"), "What was missing is in a snapshot.", "", "gap.md"
    ),
    "snapshot_wanted": Event(
        "LK2011", "error", _fields("feed position reason"), "Only a snapshot can help: its sender was asked for one.",
        "Have one sent.", "gap.md",
    ),
    "position_moved": Event(
        "LK2012", "info", _fields("feed file reason"), "Somebody loaded a file by hand meanwhile; it is looked again."
    ),
    "source_unusable": Event(
        "LK2013", "error", _fields("feed reason retry_seconds"), "The source does not answer, or not rightly.",
        "See the reason; notices' clocks run.", "breach.md",
    ),
    "store_unusable": Event(
        "LK2014", "error", _fields("feed reason retry_seconds"), "The store cannot be written.",
        "See the reason: a full disk or map, or another writer.", "breach.md",
    ),
    "feed_reachable": Event("LK2015", "info", _fields("feed"), "The source answers again."),
    "acknowledgement_delayed": Event(
        "LK2016", "warning", _fields("feed file reason"),
        "An acknowledgement could not be put down; it is tried again.", "Is the source writable?", "breach.md",
    ),
    "recovered": Event(
        "LK2017", "info", _fields("commits"), "What a crash had left between a commit and its word was finished."
    ),
    "spool_tidied": Event("LK2018", "info", _fields("spool files"), "What a crash had left in the spool was removed."),
    "look_failed": Event(
        "LK2019", "error", _fields("reason"), "The store could not be read for the metrics.", "See the reason."
    ),
    "fired": Event("LK2101", "info", _fields("notices serial late_ms"), "Agreed changes came into force."),
    "fire_failed": Event(
        "LK2102", "error", _fields("reason"), "Agreed changes could not be made; it is tried again.",
        "See the reason: their moment has come.", "breach.md",
    ),
    "pending_damaged": Event(
        "LK2103", "error", _fields("notices way_out"), "Waiting changes are damaged, and will not come into force.",
        "See way_out.", "damaged-block.md",
    ),
    "clock_step_refused": Event(
        "LK2104", "error", _fields("seconds"), "The wall clock jumped, and is not followed.",
        "Set it right, or take it over.", "clock-step.md",
    ),
    "clock_followed": Event("LK2105", "info", _fields("seconds"), "The wall clock is followed again."),
    "clock_accepted": Event("LK2106", "info", (), "Somebody took the wall clock's jump over.", "", "clock-step.md"),
    "scrub_found": Event(
        "LK2201", "error", _fields("problems first"), "The scrub found something that is not as it should be.",
        "Run `lookupd-loader verify`.", "damaged-block.md",
    ),
    "blocks_damaged": Event(
        "LK2202", "error", _fields("blocks count"), "Blocks are damaged; their numbers are `unavailable`.",
        "They are mended by themselves if something to mend them from is there.", "damaged-block.md",
    ),
    "blocks_mended": Event("LK2203", "info", _fields("count source"), "Damaged blocks are right again."),
    "blocks_not_mended": Event(
        "LK2204", "error", _fields("count reason"), "Damaged blocks could not be mended.", "See the reason.",
        "damaged-block.md",
    ),
    "relaying": Event("LK2301", "info", _fields("feeds stream"), "The relay runs."),
    "relay_waits": Event(
        "LK2302", "warning", _fields("feed reason retry_seconds"), "A source or the engine ended a round.",
        "See the reason.", "fleet.md",
    ),
    "delta_published": Event(
        "LK2303", "info", _fields("feed sequence stream_sequence"), "The engine has taken a delta."
    ),
    "stream_made": Event("LK2304", "info", _fields("stream replicas"), "The engine had no stream; it has one now."),
    "engine_connected": Event("LK2305", "info", _fields("server version"), "The engine can be used."),
    "engine_lost": Event(
        "LK2306", "warning", _fields("server reason"), "The connection to the engine ended; another one is made.", "",
        "fleet.md",
    ),
    "engine_unreachable": Event(
        "LK2307", "error", _fields("reason"), "No server of the engine can be used.", "See the reason.", "fleet.md"
    ),
    "engine_library": Event(
        "LK2308", "warning", _fields("message error"), "The client of the engine told of something.", "", "fleet.md"
    ),
    "engine_unchecked": Event(
        "LK2309", "warning", _fields("what way_out monitor reason"), "Whether the engine is safe could not be seen.",
        "See way_out.", "fleet.md",
    ),
    "engine_wiped": Event(
        "LK2310", "error", _fields("feed had has"), "The engine lost all; it gets it again from the files.",
        "Why did it?", "fleet.md",
    ),
    "engine_rolled_back": Event(
        "LK2311", "error", _fields("feed had has"), "The engine lost its newest; it gets it again from the files.",
        "Why did it?", "fleet.md",
    ),
    "engine_foreign_message": Event(
        "LK2312", "error", _fields("feed subject stream_sequence reason"), "The stream has a message of no relay.",
        "Who may publish there?", "fleet.md",
    ),
    "fleet_digests_differ": Event(
        "LK2313", "error", _fields("feed sequence replicas"), "Replicas at the same delta have different data.",
        "Compare and mend.", "divergence.md",
    ),
    "fleet_digests_agree": Event("LK2314", "info", _fields("feed sequence"), "They agree again."),
    "stream_followed": Event("LK2401", "info", _fields("feed stream"), "Deltas come from the engine's stream."),
    "stream_unusable": Event(
        "LK2402", "warning", _fields("feed reason"), "They do not: the signed files are read instead.",
        "See the reason.", "fleet-replica.md",
    ),
    "engine_changed": Event(
        "LK2403", "warning", _fields("feed reason seen"), "The stream is not the one that was followed.", "",
        "fleet-replica.md",
    ),
    "message_refused": Event(
        "LK2404", "error", _fields("feed stream_sequence reason"), "A message is not signed, damaged or not ours.",
        "Who may publish there?", "fleet-replica.md",
    ),
    "message_disagrees": Event(
        "LK2405", "error", _fields("feed file way_out"), "A message has another content than what is applied.",
        "See way_out.", "fleet-replica.md",
    ),
    "message_delayed": Event(
        "LK2406", "warning", _fields("feed reason"), "A message cannot be kept now; it is asked for again.",
        "Is the spool's disk full?", "fleet-replica.md",
    ),
    "files_unreachable": Event(
        "LK2407", "warning", _fields("feed reason"), "The signed files cannot be looked at.", "See the reason.",
        "fleet-replica.md",
    ),
    "request_not_taken": Event(
        "LK2408", "warning", _fields("feed file reason"), "The sender could not be asked for a snapshot.", "",
        "fleet-replica.md",
    ),
    "acknowledgement_lost": Event(
        "LK2409", "warning", _fields("feed stream reason"),
        "The engine did not take our word; the next one says it too.",
    ),
    "probing": Event("LK2501", "info", _fields("servers path ported unported"), "The probe asks its servers."),
    "probe_unanswered": Event(
        "LK2502", "warning", _fields("server reason"),
        "A server did not answer three questions of the probe in a row, or had no data.",
        "See the reason: the switches beside the probe have the same trouble.",
    ),
    "probe_answered_again": Event("LK2503", "info", _fields("server missed"), "It answers again."),
    "probe_numbers_kept": Event(
        "LK2504", "warning", _fields("reason"), "No other numbers could be drawn; those of the last hour are asked on.",
        "See the reason.",
    ),
    "probe_unsaved": Event(
        "LK2505", "error", _fields("reason"), "What was measured cannot be saved; it waits in memory.",
        "See the reason: a full disk, or the folder's rights.",
    ),
    "probe_damaged": Event(
        "LK2507", "error", _fields("reason kept_as"),
        "The ledger of the probe is damaged: it was put aside, and a new one begun.",
        "Keep the file: what it has is not in reports any more.",
    ),
    "probe_saved_again": Event("LK2506", "info", _fields("path"), "It is saved again, with what waited."),
    "batch_accepted": Event("LK2601", "info", _fields("client job bytes"), "An uploaded list is a job now."),
    "batch_done": Event(
        "LK2602", "info", _fields("client job rows bad duplicates seconds"), "It has a result, to be fetched."
    ),
    "batch_failed": Event(
        "LK2603", "error", _fields("client job cause reason"),
        "A job has no result. `input` is its list's fault, and told to its client alone.", "See the reason.",
        "batches.md",
    ),
    "batch_cancelled": Event("LK2604", "info", _fields("client job"), "Its client wants no result."),
    "batch_deleted": Event(
        "LK2605", "info", _fields("client job bytes why"), "Its list, its result and all else of it are deleted."
    ),
    "batches_unusable": Event(
        "LK2606", "error", _fields("reason"), "The folder of batches cannot be used: none is taken, and none runs.",
        "See the reason: a folder above it that is missing, its rights, the disk.", "batches.md",
    ),
    "batches_usable": Event("LK2607", "info", _fields("path"), "It can be used again."),
    "audit_failing": Event(
        "LK2701", "error", _fields("path reason"),
        "The audit of risk checks cannot be written: none is answered until it can.",
        "See the reason: rights, the disk.", "records.md",
    ),
    "audit_resumed": Event("LK2702", "info", _fields("path"), "It is written again."),
}  # fmt: skip


def _row(name: str, event: Event) -> str:
    page = f"[{event.page}](operations/{event.page})" if event.page else ""
    what = " ".join(filter(None, (event.do, page)))
    fields = ", ".join(f"`{field}`" for field in event.fields)
    return f"| {event.id} | `{name}` | {event.level} | {event.meaning} | {what} | {fields} |".replace("|  |", "| |")


def document() -> str:
    """docs/events.md."""
    lines = [
        "# Log events",
        "",
        "Each change of state is one line on stderr: the time, the event, its fields, and its id. Under systemd the",
        "level is the journal's priority (`journalctl -p err -u 'lookupd*'`). With `[log] format = \"json\"` a line is",
        "a JSON object of the same: `time`, `event`, `id`, `level`, and the fields.",
        "",
        "An id stays with its event for good. This page is printed by `python -m lookupd.observe.events`.",
    ]
    for prefix, title in AREAS.items():
        lines += ["", f"## {title}", "", "| id | event | level | means | do | fields |", "|---|---|---|---|---|---|"]
        lines += [_row(name, event) for name, event in EVENTS.items() if event.id.startswith(prefix)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
