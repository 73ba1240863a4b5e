"""The sections of the half-yearly report's page, each from figures to HTML. Texts are looked up by `t`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape

from loader.regulator import charts
from loader.regulator.figures import HalfYear, KindTimes, Missing, Times
from loader.regulator.words import Translate, Words

NETWORKS_CHARTED = 12
_AVAILABILITY_AIM, _ACCURACY_AIM = 0.999, 0.995
"""NPR article 41."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, name: str = "") -> str:
    """head: in words. rows: of HTML. texts: so many columns from the left are text, the others are numbers."""
    cells = "".join(
        f'<th scope="col"{"" if at < texts else " class=n"}>{escape(word)}</th>' for at, word in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{'' if at < texts else ' class=n'}>{cell}</td>" for at, cell in enumerate(row))
        + "</tr>\n"
        for row in rows
    )
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    return f'<div class="wide"><table>{caption}<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _p(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _kind(kind: str, t: Translate) -> str:
    """Of notices, in words."""
    return {
        "port": t("Port"),
        "return": t("Number return"),
        "correct": t("Correction"),
        "untold": t("Kind not kept"),
    }.get(kind, kind)


# -- head ------------------------------------------------------------------------------------------------


def head(found: HalfYear, title: str, t: Translate) -> str:
    """Of what, by whom, from which data."""
    facts = (
        (t("Period"), f"{found.first} – {found.end} ({found.time_zone})"),
        (t("Known until"), found.until),
        (t("Network"), found.network or t("all networks")),
        (t("Made at"), found.made_at),
        (t("Replica, serial"), f"{found.replica}, {found.serial}"),
        (t("Digest of the store"), found.digest),
        (t("Hash of the newest journal entry"), found.journal_head),
    )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    basis = t("Under the Regulations Governing Number Portability, articles 10 and 18. Times are UTC (RFC 3339).")
    return f"<header>\n<h1>{escape(title)}</h1>\n{_p(basis, 'lead')}<dl>{listed}</dl>\n</header>"


def summary(found: HalfYear, t: Translate, words: Words) -> str:
    """The five figures that the articles name."""
    told = found.summary
    rows = (
        (t("Ported in (numbers)"), words.count(told.ported_in)),
        (t("Ported out (numbers)"), words.count(told.ported_out)),
        (t("Failure rate of porting"), words.share(told.failure_rate)),
        (t("Mean porting time"), words.seconds(told.mean_porting_time)),
        (t("Mean extra call set-up time of calls to ported numbers"), words.seconds(told.mean_extra_setup_time)),
    )
    body = "".join(f'<tr><td>{escape(name)}</td><td class="n">{value}</td></tr>' for name, value in rows)
    definitions = (
        t(
            "Failure rate: ports that took effect after their limit, and lines of feed files that were refused, among "
            "all of both."
        ),
        t("Porting time: from the notice until the change could be read, an agreed wait included; mean over ports."),
        t("Extra call set-up time: what the query before the call took, from samples at the switch's side."),
    )
    notes = "".join(f"<li>{escape(each)}</li>" for each in definitions)
    title = t("Summary by articles 10 and 18")
    return _section(title, f'<table class="summary"><tbody>{body}</tbody></table>', f'<ul class="note">{notes}</ul>')


def missing(found: HalfYear, t: Translate) -> str:
    """What the figures do not contain."""
    if found.complete:
        return _section(t("Completeness"), _p(t("The period is over, and nothing is missing.")))
    what = {
        "journal": t("journal"),
        "receipts": t("receipts"),
        "snapshot": t("snapshot"),
        "rejected": t("refusals"),
        "setup_time": t("extra call set-up time"),
        "availability": t("availability"),
        "accuracy": t("accuracy"),
        "period": t("period"),
    }
    rows = (
        (
            escape(what.get(each.what, each.what)),
            escape("" if each.from_ is None else f"{each.from_} – {each.until}"),
            escape(_in_words(each, t)),
        )
        for each in found.missing
    )
    table = _table((t("What"), t("Time"), t("Reason")), rows, texts=3)
    return f'<section class="missing">\n<h2>{escape(t("What is missing"))}</h2>\n{table}\n</section>'


def _in_words(gap: Missing, translate: Translate) -> str:
    return translate(gap.text).format(**gap.values)


# -- numbers ---------------------------------------------------------------------------------------------


def moved(found: HalfYear, t: Translate, words: Words) -> str:
    """By month, by network, and both."""
    by_month = {month: [0, 0, 0] for month in found.months}
    by_network: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    operators = {}
    for row in found.networks:
        operators[row.network_code] = row.operator
        for at, value in enumerate((row.ported_in, row.ported_out, row.returned)):
            by_month[row.month][at] += value
            by_network[row.network_code][at] += value
    names = {code: _network(code, operators[code], t) for code in by_network}
    head_words = (t("Ported in"), t("Ported out"), t("Returned"))
    month_rows = [(month, *map(words.count, counts)) for month, counts in by_month.items()]
    network_rows = [(escape(names[code]), *map(words.count, counts)) for code, counts in by_network.items()]
    all_rows = [
        (row.month, escape(names[row.network_code]), *map(words.count, (row.ported_in, row.ported_out, row.returned)))
        for row in found.networks
        if row.ported_in or row.ported_out or row.returned
    ]
    chart = charts.columns(t("Numbers ported in, by month"), [charts.Bar(m, c[0]) for m, c in by_month.items()])
    sides = charts.pairs(t("Numbers ported in and out, by network"), _largest(by_network, names, t))
    return _section(
        t("Ported in and out"),
        _p(t("A number is counted in the month in which the answer to queries changed."), "note"),
        _figure(chart, t("Numbers ported in, by month")),
        _table((t("Month"), *head_words), month_rows),
        _figure(sides, t("By network in the whole period: filled = ported in, hatched = ported out")),
        _table((t("Network"), *head_words), network_rows),
        _table((t("Month"), t("Network"), *head_words), all_rows, texts=2, name=t("By month and network")),
    )


def _network(code: str, operator: str, t: Translate) -> str:
    if not code:
        return t("not known")
    return f"{code} {operator}".strip()


def _largest(found: dict[str, list[int]], names: dict[str, str], t: Translate) -> list[tuple[str, int, int]]:
    """Those with the most, and the rest as one."""
    order = sorted(found, key=lambda code: (-found[code][0] - found[code][1], code))
    rows = [(names[code], found[code][0], found[code][1]) for code in order[:NETWORKS_CHARTED]]
    rest = order[NETWORKS_CHARTED:]
    if rest:
        rows.append((t("others"), sum(found[code][0] for code in rest), sum(found[code][1] for code in rest)))
    return rows


# -- notices ---------------------------------------------------------------------------------------------


def notices(found: HalfYear, t: Translate, words: Words) -> str:
    """What became of them, by month and kind."""
    rows = [
        (
            row.month,
            escape(_kind(row.kind, t)),
            *map(words.count, (row.visible, row.numbers, row.breached, row.superseded, row.rejected)),
            words.share(row.failure_rate) if row.failure_rate is not None else "–",
        )
        for row in found.notices
        if row.visible or row.superseded or row.rejected or row.rejected is None
    ]
    corrected = [
        (row.month, words.count(row.entries), words.count(row.numbers)) for row in found.corrected if row.entries
    ]
    named = (
        t("Month"), t("Kind"), t("Took effect"), t("Numbers"), t("Too late"), t("Superseded"), t("Refused"),
        t("Failure rate"),
    )  # fmt: skip
    parts = [
        _p(
            t(
                "Too late: visible after the limit of its kind. Superseded: overtaken by a later notice before its "
                "moment came, which is no failure. Refused: lines of feed files; their kind is not kept."
            ),
            "note",
        ),
        _table(named, rows, texts=2),
    ]
    if corrected:
        name = t("Corrections without a notice, such as a reconciliation's")
        parts.append(_table((t("Month"), t("Entries"), t("Numbers")), corrected, name=name))
    return _section(t("Notices and failures"), *parts)


def times(found: HalfYear, t: Translate, words: Words) -> str:
    """Means, quantiles, and how they are spread."""
    parts = []
    for kind in found.times:
        spans = (
            (t("Notice to visible"), kind.notice_to_visible),
            (t("Requested to effective"), kind.requested_to_effective),
            (t("Notice to visible, agreed wait included"), kind.whole),
        )
        rows = [
            (
                escape(name),
                words.count(span.count),
                *(
                    words.seconds(value) if span.count else "–"
                    for value in (span.mean, span.p50, span.p95, span.p99, span.max)
                ),
            )
            for name, span in spans
        ]
        title = t("{kind}: limit {limit}").format(kind=_kind(kind.kind, t), limit=words.seconds(kind.limit_seconds))
        parts.append(f"<h3>{escape(title)}</h3>")
        named = (t("What"), t("Notices"), t("Mean"), "p50", "p95", "p99", t("Longest"))
        parts.append(_table(named, rows))
        parts += _histograms(kind, spans, t, words)
    note = t(
        "Notice to visible: from the notice, or the agreed moment if that is later, where the limit begins to run, "
        "until the change could be read. Requested to effective: from the moment that was asked for."
    )
    return _section(t("Times"), _p(note, "note"), *parts)


def _histograms(kind: KindTimes, spans: Sequence[tuple[str, Times]], t: Translate, words: Words) -> list[str]:
    """Of the first two; the third is the same where nobody asked for a moment."""
    parts = []
    for name, span in spans[:2]:
        if not span.count:
            continue
        caption = t("{kind}: {what}, notices by time; hatched = beyond the limit").format(
            kind=_kind(kind.kind, t), what=name
        )
        parts.append(_figure(charts.columns(caption, _bars(kind, span, t, words), 170), caption))
    return parts


def _bars(kind: KindTimes, span: Times, t: Translate, words: Words) -> list[charts.Bar]:
    """From the first bucket with something in it to the last."""
    filled = [at for at, (_, count) in enumerate(span.buckets) if count]
    bars = []
    for at in range(filled[0], filled[-1] + 1):
        bound, count = span.buckets[at]
        label = f"≤ {words.seconds(bound)}" if bound is not None else t("more")
        bars.append(charts.Bar(label, count, bound is None or bound > kind.limit_seconds))
    return bars


# -- what others saw -------------------------------------------------------------------------------------


def set_up_time(found: HalfYear, t: Translate, words: Words) -> str:
    """Of the probe."""
    told = found.setup_time
    title = t("Extra call set-up time")
    if told is None:
        return _section(title, _p(t("No samples were given.")))
    rows = (
        (t("Mean, calls to ported numbers"), words.seconds(told.mean)),
        (t("Mean, calls to numbers that were not ported"), words.seconds(told.unported_mean)),
        (t("Median at most"), words.seconds(told.p50)),
        (t("p95 at most"), words.seconds(told.p95)),
        (t("p99 at most"), words.seconds(told.p99)),
        (t("Samples"), words.count(told.questions)),
        (t("Of these, time-outs; each counts with the whole of it"), words.count(told.timeouts)),
        (t("Hours with samples, of hours"), f"{told.hours_sampled:,} / {told.hours:,}"),
    )
    return _section(title, _table((t("What"), t("Value")), [(escape(name), value) for name, value in rows]))


def availability(found: HalfYear, t: Translate, words: Words) -> str:
    """By month and source, against article 41."""
    title = t("Availability")
    if not found.availability:
        return _section(title, _p(t("Nothing was given.")))
    sources = {"prometheus": t("monitoring of the pair"), "probe": t("probe: questions answered from data")}
    rows = [
        (
            row.month,
            escape(sources.get(row.source, row.source)),
            words.share(row.share, 4) if row.share is not None else words.share(None),
            "–" if row.source == "probe" else words.seconds(row.out_of_service_seconds),
            f"{row.hours_known:,} / {row.hours:,}",
            "–" if row.share is None else (t("yes") if row.share >= _AVAILABILITY_AIM else t("no")),
        )
        for row in found.availability
    ]
    named = (t("Month"), t("Source"), t("Available"), t("Out of service"), t("Hours known"), t("At least 99.9 %"))
    note = t("Article 41 wants 99.9 % of a year and at most two hours a month of the central database; we hold to it.")
    return _section(title, _table(named, rows, texts=2), _p(note, "note"))


def accuracy(found: HalfYear, t: Translate, words: Words) -> str:
    """Of each reconciliation, against article 41."""
    title = t("Accuracy")
    if not found.accuracy:
        return _section(title, _p(t("No reconciliation was given.")))
    rows = [
        (
            row.at,
            escape(row.file),
            words.count(row.compared),
            words.count(row.differs),
            words.share(row.share, 4),
            words.count(row.serial),
            "–" if row.share is None else (t("yes") if row.share >= _ACCURACY_AIM else t("no")),
        )
        for row in found.accuracy
    ]
    named = (
        t("Moment of the data"), t("File"), t("Numbers compared"), t("Differ"), t("Right"), t("Serial"),
        t("At least 99.5 %"),
    )  # fmt: skip
    return _section(title, _table(named, rows, texts=2))


# -- the end ---------------------------------------------------------------------------------------------


def trace(found: HalfYear, t: Translate, words: Words) -> str:
    """How a figure leads to its entries."""
    title = t("From a figure to its evidence")
    if found.trace is None:
        return _section(title, _p(t("No trace was written with this report.")))
    told = found.trace
    facts = (
        (t("File"), escape(told.file)),
        (t("Rows"), words.count(told.rows)),
        ("SHA-256", escape(told.sha256)),
    )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts)
    how = t(
        "Every journal entry that is counted is a row of this file, with its serial: the sum of its numbers and "
        "notices is the figure. The journal is a chain of hashes; lookupd-loader journal --serial N shows an entry, "
        "lookupd-loader journal verify proves all of them."
    )
    return _section(title, _p(how), f"<dl>{listed}</dl>")


def signature(t: Translate) -> str:
    """Where it is signed."""
    places = (t("Date"), t("Signature, stamp of the operator"))
    return f'<div class="sign">{"".join(f"<div>{escape(place)}</div>" for place in places)}</div>'
