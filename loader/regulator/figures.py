"""The half-yearly report as records without behaviour: what is counted, in which unit, and what is not known.

How the figures are found is for `half_year`, how they are written for `half_year_files` and `page`. Times in text are
RFC 3339, of UTC; a figure that nobody can know is None, never 0.
"""

from __future__ import annotations

import msgspec


class Times(msgspec.Struct, frozen=True):
    """How long something took, in seconds. All but count and buckets are None when count is 0.

    buckets: upper bound in seconds, and how many took no longer than it and longer than the bound before; the last
    bound is None: all that took longer. Empty buckets are there, too.
    """

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    buckets: tuple[tuple[float | None, int], ...]


class Missing(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """What the figures do not contain. what: journal | receipts | snapshot | rejected | setup_time | availability |
    accuracy | period. from_, until: of which time, None = of all. reason: a sentence that says what can be done, made
    of text, which has {names}, and their values: so that it can be told in another language."""

    what: str
    from_: str | None
    until: str | None
    reason: str
    text: str
    values: dict[str, str | int | None]


def not_told(
    what: str, text: str, since: str | None = None, until: str | None = None, **values: str | int | None
) -> Missing:
    """A Missing, whose text is marked by `t_later` where the report's page shows it."""
    return Missing(what, since, until, text.format(**values), text, values)


class NetworkMonth(msgspec.Struct, frozen=True):
    """Numbers of one network in one month: that came to it, that left it for another network, and that it served until
    a return sent them home."""

    month: str
    network_code: str
    operator: str
    ported_in: int
    ported_out: int
    returned: int


class NoticeMonth(msgspec.Struct, frozen=True):
    """Notices of one kind in one month: port, return, correct, or `untold` (of which the kind is not kept).

    visible: took effect; numbers: that they were about. breached: of these, after their limit was over. superseded:
    overtaken by a later notice before their moment came. rejected: lines of feed files that were refused. failed =
    breached + rejected; failure_rate = failed / visible, None where there was none. rejected, failed: None = not known.
    superseded and rejected are told with the kind `untold` alone.
    """

    month: str
    kind: str
    visible: int
    numbers: int
    breached: int
    superseded: int
    rejected: int | None
    failed: int | None
    failure_rate: float | None


class KindTimes(msgspec.Struct, frozen=True):
    """Of the notices of one kind in the whole period.

    limit_seconds: what the law or the operators' committee allows (NPR articles 24, 31). notice_to_visible: from the
    notice, or the agreed moment if that is later, where the limit begins to run. requested_to_effective: from the
    moment that was asked for to the answer's change, of notices that asked for one and came before it. whole: from
    the notice to the answer's change, an agreed wait included: the porting time of the regulator's form.
    """

    kind: str
    limit_seconds: float
    notice_to_visible: Times
    requested_to_effective: Times
    whole: Times


class SetUpTime(msgspec.Struct, frozen=True):
    """Extra call set-up time of calls to ported numbers, from the probe's samples; seconds. unported_mean: the same of
    numbers that were not ported. hours, hours_sampled: of the period so far."""

    questions: int
    timeouts: int
    mean: float | None
    unported_mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    hours: int
    hours_sampled: int


class AvailabilityMonth(msgspec.Struct, frozen=True):
    """One source's word on one month. source: `prometheus` (the pair, from inside) or `probe` (a switch's view: of its
    questions, so many were answered from data). share: 0 to 1. out_of_service_seconds: None for the probe.
    hours_known: of hours."""

    month: str
    source: str
    share: float | None
    out_of_service_seconds: float | None
    hours: int
    hours_known: int


class Accuracy(msgspec.Struct, frozen=True):
    """One reconciliation of the store with a file of the clearinghouse or of another operator.

    at: when the store was at that serial. compared: numbers on either side. differs: of these, were not alike.
    share: of those that were alike. file: the result's file. digest: of the store, which the journal's entry has too.
    """

    month: str
    at: str
    file: str
    compared: int
    differs: int
    share: float | None
    serial: int
    digest: str


class Corrected(msgspec.Struct, frozen=True):
    """Corrections without a notice, such as a reconciliation's: numbers in one month."""

    month: str
    entries: int
    numbers: int


class Trace(msgspec.Struct, frozen=True):
    """The file with a row for every journal entry that is counted. rows: without the head."""

    file: str
    rows: int
    sha256: str


class Summary(msgspec.Struct, frozen=True):
    """The five figures that NPR articles 10 and 18 name, for the whole period. seconds."""

    ported_in: int
    ported_out: int
    failure_rate: float | None
    mean_porting_time: float | None
    mean_extra_setup_time: float | None


class HalfYear(msgspec.Struct, frozen=True):
    """The whole. network: the operator whose report it is, None = of all that the store knows; ported_in and ported_out
    of the summary are then the same number. first, end: of the period; until: what it is known to, before end while it
    lasts. complete: over, and nothing is missing. months: their names, in order."""

    report: str
    period: str
    time_zone: str
    first: str
    end: str
    until: str
    complete: bool
    missing: tuple[Missing, ...]
    network: str | None
    replica: str
    made_at: str
    serial: int
    digest: str
    journal_head: str
    months: tuple[str, ...]
    summary: Summary
    networks: tuple[NetworkMonth, ...]
    notices: tuple[NoticeMonth, ...]
    times: tuple[KindTimes, ...]
    corrected: tuple[Corrected, ...]
    setup_time: SetUpTime | None
    availability: tuple[AvailabilityMonth, ...]
    accuracy: tuple[Accuracy, ...]
    trace: Trace | None
