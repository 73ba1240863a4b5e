"""What a fleet's stores say after a run: what does not hold, and how long each delta took. Starts and kills nothing."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Figure, Section
from bench.fleet_site import Facts, Replica
from bench.meanwhile import quantile

TITLE = "A fleet under fire"


def judge(facts: dict[str, Facts], expected: str, last: int, messages: int) -> list[str]:
    """What does not hold, in words. expected: digest; last: sequence of the newest delta; messages: of the stream."""
    problems = [] if messages == last - 1 else [f"the stream holds {messages} messages of {last - 1} deltas"]
    for name, each in facts.items():
        if each.position != last:
            problems.append(f"{name}: the feed's position is {each.position}, not {last}")
        if each.digest != expected:
            problems.append(f"{name}: its digest is {each.digest}, by hand it is {expected}")
        sequences = [receipt.sequence for receipt in each.receipts]
        if sequences != list(range(2, last + 1)):
            problems.append(f"{name}: {len(sequences)} receipts, {len(set(sequences))} different, of {last - 1} deltas")
        if each.repeated:
            problems.append(f"{name}: {each.repeated} notices are in the journal more than once")
        if any(receipt.visible_at is None for receipt in each.receipts):
            problems.append(f"{name}: a commit whose moment was never noted")
    return problems


def section(
    replicas: Sequence[Replica],
    facts: dict[str, Facts],
    published: dict[int, float],
    outages: Sequence[tuple[float, float]],
    notices: int,
    seconds: float,
) -> Section:
    """The figures. Delays of replicas that ran are told apart by whether a server was away meanwhile."""
    running, missed = delays(replicas, facts, published)
    last = max(published)
    visible = [_visible_at(facts[replica.name], last) for replica in replicas]
    figures = [
        Figure("notices published", notices, ""),
        Figure("published a second", notices / seconds, "/s"),
        Figure("last publish to visible on all replicas", max(visible) - published[last], "s"),
    ]
    calm: list[float] = []
    meanwhile: list[float] = []
    for at, delay in running:
        struck = any(at <= back and at + delay >= gone for gone, back in outages)  # on its way when a server died, too
        (meanwhile if struck else calm).append(delay)
    for when, found in (("all servers there", calm), ("one server away", meanwhile)):
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            if found:
                figures.append(Figure(f"publish to visible, {when}, {name}", 1e3 * quantile(found, share), "ms"))
    if missed:
        figures.append(Figure("what a replica missed while away, max", quantile(missed, 1.0), "s"))
    note = (
        f"{len(replicas)} replicas (`lookupd-loader sync`), a relay, three servers with three copies, all on this "
        f"machine's loopback and cores; {len(published)} signed deltas, {notices:,} notices, over {seconds:g} s. From "
        f"the manifest's rename at the relay's source until the receipt's moment, the relay's wait for its next look "
        f"included."
    )
    return Section(TITLE, note, figures)


def delays(
    replicas: Sequence[Replica], facts: dict[str, Facts], published: dict[int, float]
) -> tuple[list[tuple[float, float]], list[float]]:
    """Seconds from publish to visible: of replicas that ran, with the moment of the publish; and of what came while one
    was away."""
    running: list[tuple[float, float]] = []
    missed: list[float] = []
    for replica in replicas:
        for receipt in facts[replica.name].receipts:
            if receipt.visible_at is None or receipt.sequence not in published:
                continue
            at = published[receipt.sequence]
            visible = receipt.visible_at / 1e3
            if any(gone <= at <= back for gone, back in replica.away):
                missed.append(visible - at)
            elif not any(at < gone <= visible for gone, _ in replica.away):  # else: applied anew, the store was lost
                running.append((at, visible - at))
    return running, missed


def _visible_at(facts: Facts, sequence: int) -> float:
    found = next(receipt.visible_at for receipt in facts.receipts if receipt.sequence == sequence)
    return float("inf") if found is None else found / 1e3
