"""As of a moment, pruning, and the proof of the history: what is kept is right, and every change of it is found."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from loader.cli import cli
from loader.tables import load_networks, load_ranges, read_networks, read_ranges
from lookupd.errors import ConfigError, StoreError
from lookupd.explain import explain_as_of
from lookupd.model import TN, JournalKind, UnixSeconds
from lookupd.store import journal, prune
from lookupd.store.history import as_of, first_since, oldest_kept, serial_at
from lookupd.store.schema import (
    BLOCK_KEY,
    JOURNAL_BLOCK_KEY,
    META_ANCHOR,
    SERIAL_KEY,
    Anchor,
    pack_anchor,
    pack_pending,
    unpack_anchor,
    unpack_pending,
)
from lookupd.store.verify import verify, verify_history
from lookupd.store.writer import Writer
from lookupd.units import format_time
from tests.conftest import NETWORKS, PLAN, RANGES, SNAPSHOT, Workbench, dump
from tests.unit.test_damage import damage, flipped, put, stored

DAY = 86_400
HISTORY = 184 * DAY
T = 1_700_000_000
PORTED, BESIDE, OWN = TN(886912345678), TN(886912345000), TN(886923456789)
SIGN_OFF = "chen: retention of the half-year"


def tables(workbench: Workbench, now: int, networks: str = NETWORKS, ranges: str | None = None) -> None:
    with Writer(workbench.store) as writer:
        rows = read_networks(workbench.write("networks.csv", networks))
        load_networks(writer, rows, "networks.csv", UnixSeconds(now))
        if ranges is not None:
            load_ranges(writer, read_ranges(workbench.write("ranges.csv", ranges)), "ranges.csv", UnixSeconds(now))


def answer(workbench: Workbench, tn: int, moment: int) -> tuple[str, str | None, str | None, str | None, int]:
    """Outcome, network, routing number, operator, serial."""
    with workbench.reader() as reader:
        found = explain_as_of(PLAN, reader, str(tn), UnixSeconds(moment))["answer"]
    names = ("outcome", "network_code", "routing_number", "operator", "serial")
    return tuple(found[name] for name in names)  # type: ignore[return-value]


@pytest.fixture
def told(workbench: Workbench) -> Workbench:
    """Nine entries of all shapes, a day apart: 1-2 tables, 3 snapshot, 4 port, 5 networks, 6 ranges, 7 snapshot,
    8 a notice that waits, 9 return."""
    tables(workbench, T, NETWORKS, RANGES)
    workbench.snapshot(now=T + DAY)
    workbench.delta({"kind": "port", "tn": str(BESIDE), "recipient": "1401"}, sequence=2, now=T + 2 * DAY)
    tables(workbench, T + 3 * DAY, NETWORKS.replace("Alpha Telecom,D0401", "Omega,D0409"))
    tables(
        workbench,
        T + 4 * DAY,
        NETWORKS.replace("Alpha Telecom,D0401", "Omega,D0409"),
        "prefix,network_code\n886,1402\n",
    )
    changed = SNAPSHOT.replace("886912345678,1402,,", "886912345678,1403,D7,").replace("886223450000,1403,,,\n", "")
    workbench.snapshot(changed + f"{BESIDE},1401,,,\n", sequence=3, now=T + 5 * DAY)
    later = {"kind": "port", "tn": str(PORTED), "recipient": "1401", "effective_at": format_time(T + 900 * DAY)}
    workbench.delta(later, sequence=4, now=T + 6 * DAY)
    workbench.delta({"kind": "return", "tn": str(PORTED)}, sequence=5, now=T + 7 * DAY)
    return workbench


# -- as of a moment --------------------------------------------------------------------------------------

EXPECTED = [
    (PORTED, 1, ("ported", "1402", "D0402", "Beta Mobile", 3)),
    (PORTED, 4, ("ported", "1402", "D0402", "Beta Mobile", 6)),
    (PORTED, 5, ("ported", "1403", "D7", "Gamma", 7)),
    (PORTED, 6, ("ported", "1403", "D7", "Gamma", 8)),  # what waits changes nothing
    (PORTED, 7, ("not_ported", "1402", "D0402", "Beta Mobile", 9)),
    (PORTED, 900, ("not_ported", "1402", "D0402", "Beta Mobile", 9)),
    (BESIDE, 1, ("not_ported", "1403", None, "Gamma", 3)),
    (BESIDE, 2, ("ported", "1401", "D0401", "Alpha Telecom", 4)),
    (BESIDE, 3, ("ported", "1401", "D0409", "Omega", 5)),
    (OWN, 2, ("ported", "1401", "D9999", "Alpha Telecom", 4)),
    (OWN, 3, ("ported", "1401", "D9999", "Omega", 5)),
    (886223450000, 4, ("ported", "1403", None, "Gamma", 6)),
    (886223450000, 5, ("not_ported", "1402", "D0402", "Beta Mobile", 7)),
    (886223450001, 3, ("not_ported", "1401", "D0409", "Omega", 5)),
    (886223450001, 4, ("not_ported", "1402", "D0402", "Beta Mobile", 6)),
    (886110, 4, ("not_portable", None, None, None, 6)),
]


@pytest.mark.parametrize(("tn", "day", "expected"), EXPECTED)
def test_answer_is_the_one_of_its_day(told: Workbench, tn: int, day: int, expected: tuple[object, ...]) -> None:
    assert answer(told, tn, T + day * DAY) == expected
    assert answer(told, tn, T + day * DAY + DAY - 1) == expected


def test_as_of_tells_donor_time_and_sequence_of_the_port(told: Workbench) -> None:
    with told.reader() as reader:
        before = as_of(reader, PORTED, moment=UnixSeconds(T + DAY))
        assert (before.serial, before.applied_at, before.until) == (3, T + DAY, T + 2 * DAY)
        assert before.ported is not None
        assert (before.ported.donor, before.ported.ported_at, before.ported.sequence) == ("1401", 1_772_326_800, 1)
        assert before.held is not None
        assert (before.held[0], before.held[1].network_code) == ("886912", "1403")
        after = as_of(reader, PORTED, serial=9)
        assert (after.until, after.ported, after.route, after.held and after.held[0]) == (None, None, None, "886")
        with pytest.raises(StoreError, match="serial 10: the store is at 9"):
            as_of(reader, PORTED, serial=10)


@pytest.mark.parametrize("moment", [0, T - 1, T, T + DAY - 1])
def test_moment_before_the_first_snapshot_names_the_oldest_one(told: Workbench, moment: int) -> None:
    with told.reader() as reader, pytest.raises(StoreError) as caught:
        as_of(reader, PORTED, moment=UnixSeconds(moment))
    assert f"the oldest moment that can be asked is {format_time(T + DAY)} (serial 3)" in str(caught.value)


def test_store_without_a_snapshot_has_no_history_to_ask(workbench: Workbench) -> None:
    workbench.load_tables()
    with workbench.reader() as reader, pytest.raises(StoreError, match="no snapshot was loaded yet"):
        as_of(reader, PORTED, moment=UnixSeconds(T))


def test_store_that_was_emptied_and_filled_again_knows_all_three_states(workbench: Workbench) -> None:
    tables(workbench, T, NETWORKS, RANGES)
    one = "tn,network_code,routing_number,donor,ported_at\n886912345678,1401,,,\n"
    workbench.snapshot(one, now=T)
    workbench.delta({"kind": "return", "tn": str(PORTED)}, sequence=2, now=T + 10)
    workbench.snapshot(one.replace("1401", "1402"), sequence=3, now=T + 20)
    found = [answer(workbench, PORTED, T + seconds)[:2] for seconds in (0, 9, 10, 19, 20)]
    first, none, last = ("ported", "1401"), ("not_ported", "1403"), ("ported", "1402")
    assert found == [first, first, none, none, last]


def test_numbers_of_a_mended_block_are_not_guessed(told: Workbench) -> None:
    told.delta({"kind": "port", "tn": str(PORTED), "recipient": "1401"}, sequence=6, now=T + 8 * DAY)
    damage(told.store, "blocks", BLOCK_KEY.pack(PORTED // 1000), lambda value: flipped(value, 0))
    told.snapshot(sequence=7, now=T + 9 * DAY)
    for tn in (PORTED, BESIDE, 886912345001):
        assert answer(told, tn, T + 8 * DAY)[0] == "unavailable"
    assert answer(told, PORTED, T + 7 * DAY)[0] == "not_ported"  # the notice of day 8 has it
    assert answer(told, PORTED, T + 9 * DAY)[1] == "1402"
    assert answer(told, OWN, T + 8 * DAY)[1] == "1401"
    result = CliRunner().invoke(cli, ["journal", str(PORTED), "--kind", "snapshot", "--store", str(told.store)])
    assert "unknown -> network 1402" in result.stdout.splitlines()[0]
    with told.reader() as reader:
        assert verify(reader).problems == []
        assert JournalKind.SNAPSHOT in {entry.kind for _, entry in reader.history(PORTED, 2)}


def test_old_route_ids_are_named_beside_their_snapshot(told: Workbench) -> None:
    names = journal.decode_legend(stored(told.store, "journal_tables", journal.row_key(journal.LEGEND, 7)))
    assert ("1402", None) in names.values()
    assert ("1401", "D9999") not in names.values()  # that number did not change


# -- clocks ----------------------------------------------------------------------------------------------


@pytest.fixture
def stepped(workbench: Workbench) -> Workbench:
    """Applied at 0, 0, 100, 900, 200, 300, 250, 400 seconds: twice the clock was set back."""
    tables(workbench, T, NETWORKS, RANGES)
    workbench.snapshot(now=T + 100)
    for sequence, at in enumerate((900, 200, 300, 250, 400), 2):
        row = {"kind": "port", "tn": str(BESIDE), "recipient": "1401", "routing_number": f"{sequence}"}
        workbench.delta(row, sequence=sequence, now=T + at)
    return workbench


@pytest.mark.parametrize(
    ("seconds", "serial"),
    [(100, 3), (199, 3), (200, 5), (249, 5), (250, 7), (300, 7), (399, 7), (400, 8), (899, 8), (900, 8), (901, 8)],
)
def test_moment_is_the_last_serial_stamped_before_it(stepped: Workbench, seconds: int, serial: int) -> None:
    with stepped.reader() as reader:
        assert serial_at(reader, UnixSeconds(T + seconds)) == serial
        assert verify(reader).problems == []


@pytest.mark.parametrize(("seconds", "serial"), [(0, 1), (1, 3), (101, 4), (300, 4), (900, 4), (901, 9)])
def test_since_begins_with_the_first_serial_stamped_after_it(stepped: Workbench, seconds: int, serial: int) -> None:
    with stepped.reader() as reader:
        assert first_since(reader, UnixSeconds(T + seconds)) == serial


def test_notice_after_a_clock_step_keeps_all_its_fields(stepped: Workbench) -> None:
    with stepped.reader() as reader:
        entries = {serial: entry for serial, entry, _ in reader.journal()}
    assert (entries[5].kind, entries[5].line, entries[5].sequence) == (JournalKind.PORT, 1, 3)
    assert entries[5].tables_hash != b"" == entries[4].tables_hash


# -- pruning ---------------------------------------------------------------------------------------------


def pruned(workbench: Workbench, day: float, now: int = T + 1000 * DAY) -> prune.Pruned:
    with Writer(workbench.store) as writer:
        return prune.prune(writer, UnixSeconds(int(T + day * DAY)), UnixSeconds(now), HISTORY, SIGN_OFF)


def unschedule_all(workbench: Workbench) -> None:
    with Writer(workbench.store) as writer, writer.change(UnixSeconds(T + 7 * DAY)) as change:
        for waits in change.due(UnixSeconds(1 << 40)):
            change.unschedule(waits)
        change.swept = True


@pytest.mark.parametrize("day", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5])
def test_kept_moments_are_answered_after_a_pruning_as_before(told: Workbench, day: float) -> None:
    unschedule_all(told)
    result = pruned(told, day)
    last = {0.5: 2, 7.5: 8}.get(day, int(day) + 2)  # serial 9 is the newest
    assert result.anchor is not None
    assert (result.entries, result.anchor.serial, result.anchor.count) == (last, last, last)
    assert (result.anchor.sign_off, result.anchor.fed) == (SIGN_OFF, day > 1)
    oldest = max(last - 2, 1)
    for tn, at, expected in EXPECTED:
        if at > 7:
            continue
        if at >= oldest:
            assert answer(told, tn, T + at * DAY) == expected
        else:
            with pytest.raises(StoreError, match="the oldest moment that can be asked is"):
                answer(told, tn, T + at * DAY)
    with told.reader() as reader:
        report = verify(reader)
        assert (report.problems, report.journal_entries) == ([], 10 - last)
        newest = [entry for _, entry, _ in reader.journal()][-1]
        assert (newest.kind, newest.reason, newest.applied_at) == (JournalKind.PRUNED, SIGN_OFF, T + 1000 * DAY)
        assert oldest_kept(reader)[0] == max(last, 3)
    rows = dump(told.store)
    assert all(JOURNAL_BLOCK_KEY.unpack(key)[1] > last for key, _ in rows["journal_blocks"])
    assert all(journal.split_row_key(key)[1] > last for key, _ in rows["journal_tables"])
    assert all(SERIAL_KEY.unpack(key)[0] > last for key, _ in rows["receipts"])


def test_nothing_younger_than_the_history_is_pruned(told: Workbench) -> None:
    unschedule_all(told)
    before = dump(told.store)
    now = T + 3 * DAY + HISTORY
    kept = pytest.raises(ConfigError, match=r"the last 184 days are kept .*; nothing was pruned")
    with kept, Writer(told.store) as writer:
        prune.prune(writer, UnixSeconds(T + 3 * DAY + 1), UnixSeconds(now), HISTORY, SIGN_OFF)
    assert dump(told.store) == before
    assert pruned(told, 3, now).entries == 4  # entry 5, exactly as old, stays


def test_entry_that_scheduled_a_waiting_notice_stays(told: Workbench) -> None:
    result = pruned(told, 900, T + 2000 * DAY)
    assert result.entries == 7
    with told.reader() as reader:
        assert [waits.serial for waits in reader.pending()] == [8]
        assert verify(reader).problems == []


def test_pruning_goes_in_serial_order_and_stops_at_the_first_young_entry(stepped: Workbench) -> None:
    with Writer(stepped.store) as writer:
        result = prune.prune(writer, UnixSeconds(T + 500), UnixSeconds(T + 999 * DAY), HISTORY, SIGN_OFF)
    assert result.entries == 3  # entry 4 says 900
    with stepped.reader() as reader:
        assert verify(reader).problems == []
        assert [serial_at(reader, UnixSeconds(T + at)) for at in (100, 250, 900)] == [3, 7, 8]


def test_second_pruning_of_nothing_changes_nothing(told: Workbench) -> None:
    pruned(told, 4)
    before = dump(told.store)
    again = pruned(told, 4)
    assert (again.entries, again.rows, dump(told.store) == before) == (0, 0, True)


def test_pruning_again_moves_the_anchor_on(told: Workbench) -> None:
    pruned(told, 2.5)
    result = pruned(told, 5.5, T + 1001 * DAY)
    assert result.anchor is not None
    assert (result.entries, result.anchor.serial, result.anchor.pruned_at) == (3, 7, T + 1001 * DAY)
    with told.reader() as reader:
        assert verify(reader).problems == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("steps", range(12))
def test_pruning_cut_short_leaves_a_whole_store_and_is_finished_later(
    told: Workbench, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    unschedule_all(told)
    monkeypatch.setattr(prune, "PRUNED_AT_ONCE", 2)
    left = steps

    def advance(count: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with Writer(told.store) as writer, pytest.raises(Killed):
        prune.prune(writer, UnixSeconds(T + 6 * DAY), UnixSeconds(T + 999 * DAY), HISTORY, SIGN_OFF, advance)
    with told.reader() as reader:
        assert verify(reader).problems == []
    assert answer(told, PORTED, T + 6 * DAY)[1] == "1403"
    told.delta({"kind": "port", "tn": str(BESIDE), "recipient": "1402"}, sequence=6, now=T + 1000 * DAY)
    pruned(told, 6)
    with told.reader() as reader:
        assert verify(reader).problems == []
    rows = dump(told.store)
    assert min(JOURNAL_BLOCK_KEY.unpack(key)[1] for key, _ in rows["journal_blocks"]) > 7
    assert min(SERIAL_KEY.unpack(key)[0] for key, _ in rows["receipts"]) > 7
    assert answer(told, PORTED, T + 6 * DAY)[1] == "1403"


# -- proof -----------------------------------------------------------------------------------------------


def problems(workbench: Workbench) -> list[str]:
    with workbench.reader() as reader:
        assert verify_history(reader).problems == verify(reader).problems
        return verify_history(reader).problems


@pytest.mark.parametrize("serial", [3, 4, 7, 8, 9])
def test_every_flipped_bit_of_an_entry_is_found(told: Workbench, serial: int) -> None:
    key = SERIAL_KEY.pack(serial)
    value = stored(told.store, "journal", key)
    for at in range(len(value)):
        put(told.store, "journal", key, flipped(value, at, 1 << (at % 8)))
        with told.reader() as reader:
            assert "journal entry" in verify_history(reader).problems[0], at
    put(told.store, "journal", key, value)
    assert problems(told) == []


def test_changed_newest_entry_is_still_found_after_the_next_change(told: Workbench) -> None:
    damage(told.store, "journal", SERIAL_KEY.pack(9), lambda value: value.replace(b"main", b"mine"))
    told.delta({"kind": "return", "tn": str(BESIDE)}, sequence=6, now=T + 8 * DAY)
    assert "journal entry 10: the entry before was changed or is missing" in problems(told)


@pytest.mark.parametrize("database", ["journal_blocks", "journal_tables"])
def test_every_flipped_or_lost_row_beside_the_journal_is_found(told: Workbench, database: str) -> None:
    rows = dump(told.store)[database]
    assert len(rows) >= 5
    for key, value in rows:
        for at in range(0, len(value), 5):
            put(told.store, database, key, flipped(value, at, 1 << (at % 8)))
            assert problems(told) != [], (key, at)
        put(told.store, database, key, None)
        assert problems(told) != [], key
        put(told.store, database, key, value)
    assert problems(told) == []


@pytest.mark.parametrize("value", [b"", bytes(24), bytes(23)])
def test_row_too_many_beside_the_journal_is_found(told: Workbench, value: bytes) -> None:
    for serial in (2, 9, 77):
        put(told.store, "journal_blocks", JOURNAL_BLOCK_KEY.pack(886999999, serial), value)
        assert problems(told) != []
        put(told.store, "journal_blocks", JOURNAL_BLOCK_KEY.pack(886999999, serial), None)
    put(told.store, "journal_tables", b"x\0", value)
    assert problems(told)[0].startswith("journal_tables: ")


ANCHORS: dict[str, Callable[[Anchor], Anchor]] = {
    "serial": lambda anchor: msgspec.structs.replace(anchor, serial=anchor.serial - 1),
    "hash": lambda anchor: msgspec.structs.replace(anchor, hash=bytes(16)),
    "moment": lambda anchor: msgspec.structs.replace(anchor, applied_at=UnixSeconds(anchor.applied_at - 1)),
    "pruned_at": lambda anchor: msgspec.structs.replace(anchor, pruned_at=UnixSeconds(anchor.pruned_at + 1)),
    "sign_off": lambda anchor: msgspec.structs.replace(anchor, sign_off="nobody: no reason"),
    "count": lambda anchor: msgspec.structs.replace(anchor, count=anchor.count + 1),
    "fed": lambda anchor: msgspec.structs.replace(anchor, fed=False),
}


@pytest.mark.parametrize("change", ANCHORS.values(), ids=ANCHORS)
def test_changed_anchor_is_found(told: Workbench, change: Callable[[Anchor], Anchor]) -> None:
    pruned(told, 4)
    damage(told.store, "meta", META_ANCHOR, lambda value: pack_anchor(change(unpack_anchor(value))))
    assert any("anchor" in problem for problem in problems(told))


def test_damaged_or_lost_anchor_is_found_and_said(told: Workbench) -> None:
    pruned(told, 4)
    value = stored(told.store, "meta", META_ANCHOR)
    for at in range(len(value)):
        put(told.store, "meta", META_ANCHOR, flipped(value, at, 1 << (at % 8)))
        assert "anchor is damaged" in problems(told)[0]
        with pytest.raises(StoreError, match="anchor is damaged"):
            answer(told, PORTED, T + 6 * DAY)
    put(told.store, "meta", META_ANCHOR, None)
    assert "an anchor is missing or changed" in problems(told)[0]


def test_anchor_of_a_store_that_was_never_pruned_is_found(told: Workbench) -> None:
    anchor = Anchor(0, bytes(16), UnixSeconds(1), UnixSeconds(2), SIGN_OFF, 0, False)
    put(told.store, "meta", META_ANCHOR, pack_anchor(anchor))
    assert problems(told) == ["journal: there is an anchor, but no entry of a pruning"]


@pytest.mark.parametrize("database", ["receipts", "pending"])
def test_receipt_or_waiting_notice_that_cannot_be_read_is_found(told: Workbench, database: str) -> None:
    key, value = dump(told.store)[database][0]
    for broken in (b"", b"\xc1", value[:-1], b"\x90"):
        put(told.store, database, key, broken)
        assert "is damaged" in problems(told)[0]
    put(told.store, database, key, None)
    put(told.store, database, bytes(len(key)), value)
    assert problems(told) != []


def test_waiting_notice_of_another_entry_is_found(told: Workbench) -> None:
    key, value = dump(told.store)["pending"][0]
    waits = unpack_pending(value)
    other = pack_pending(replace(waits, notice=replace(waits.notice, tn=BESIDE, tn_to=BESIDE)))
    assert other != value
    put(told.store, "pending", key, other)
    assert problems(told) == ["pending notice main 4, line 1: journal entry 8 did not schedule it"]
    put(told.store, "pending", key, value)
    put(told.store, "journal", SERIAL_KEY.pack(8), None)
    assert "pending notice main 4, line 1: journal entry 8, which scheduled it, is missing" in problems(told)


def test_lost_index_row_is_said_rather_than_answered_around(told: Workbench) -> None:
    put(told.store, "journal", SERIAL_KEY.pack(9), None)
    with told.reader() as reader, pytest.raises(StoreError, match="journal entry 9 is missing"):
        as_of(reader, PORTED, serial=7)


def test_table_change_without_a_record_is_refused(told: Workbench) -> None:
    refused = pytest.raises(AssertionError, match="not recorded")
    with Writer(told.store) as writer, refused, writer.change(UnixSeconds(T)) as change:
        change.replace_ranges({})
    assert problems(told) == []


def test_entry_begins_as_the_document_says(told: Workbench) -> None:
    """The document tells auditors where an entry's own `previous` stands."""
    value = stored(told.store, "journal", SERIAL_KEY.pack(2))
    assert value[:5] == b"\xdc\x00\x18\xc4\x10"
    assert value[5:21] == journal.entry_hash(stored(told.store, "journal", SERIAL_KEY.pack(1)))
