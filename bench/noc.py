"""What the NOC's view costs a query: its log, and scrapes; and what the HTTP API answers.

Servers share one core and are asked in turn, as in `native`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from bench.asking import MANY_SOCKETS, ONE_SOCKET, Asker
from bench.dataset import Dataset
from bench.figures import QUERY_UNIT, YARDSTICK, Figure, Section
from bench.load import check_answers
from bench.native import Numbers, write_numbers
from bench.processes import ChildFailed, Server, daemon, native_echo, pinned
from bench.rounds import Answered, Run, Samples, run_rounds

TITLE = "The NOC's view"
WAYS = {"one_socket": ONE_SOCKET, "many_sockets": MANY_SOCKETS}
SAMPLED = 1000
LOG_FILE_SIZE, LOG_FILES = "16MiB", 2
"""Small, so that rotation is measured with the rest."""

ANSWER_SECONDS_MAX = 30.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Effort:
    """How much is asked. seconds: of a run over UDP; requests, lines: of a run over HTTP."""

    rounds: int
    seconds: float
    requests: int
    lines: int


FULL = Effort(rounds=11, seconds=0.4, requests=1000, lines=50_000)
QUICK = Effort(rounds=3, seconds=0.2, requests=200, lines=5_000)


@dataclass(frozen=True)
class Servers:
    """All on one core. plain: without a query log; sampled: one of SAMPLED queries is written; full: each."""

    echo: Server
    plain: Server
    sampled: Server
    full: Server


def measure(dataset: Dataset, effort: Effort, server_core: int, client_core: int) -> list[Section]:
    """All of it. Raises ChildFailed when a server does not come up or does not answer, WrongAnswer when it lies."""
    numbers = write_numbers(dataset)
    with _servers(dataset, server_core) as servers, pinned(client_core):
        for server in (servers.plain, servers.full):
            check_answers(server, numbers.queries)
        samples = run_rounds(_runs(servers, numbers, effort), effort.rounds)
    return [Section(TITLE, _note(dataset, effort, samples), _figures(samples))]


@contextlib.contextmanager
def _servers(dataset: Dataset, core: int) -> Iterator[Servers]:
    folder = dataset.folder

    def logging(name: str, sample: int) -> str:
        return (
            f'[query_log]\npath = "{folder.resolve()}/{name}.ndjson"\nsample = {sample}\n'
            f'file_size = "{LOG_FILE_SIZE}"\nfiles = {LOG_FILES}\n'
        )

    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        yield Servers(
            start(native_echo(folder, core)),
            start(daemon(dataset.store, folder, core, "native", name="plain")),
            start(daemon(dataset.store, folder, core, "native", profiles=logging("sampled", SAMPLED), name="sampled")),
            start(daemon(dataset.store, folder, core, "native", profiles=logging("full", 1), name="full")),
        )


def _runs(servers: Servers, numbers: Numbers, effort: Effort) -> dict[str, Run]:
    """By name; what is compared stands side by side."""
    found: dict[str, Run] = {}
    for key, way in WAYS.items():
        for name, server in vars(servers).items():
            asker = Asker(server.ports["echo" if name == "echo" else "pdb"], "pdb", numbers.path, name == "echo")
            found[f"{name} {key}"] = Run(server, partial(asker.ask, way, effort.seconds))
    port = servers.plain.ports["http"]
    asked = [str(tn) for tn in numbers.queries.tn[: max(effort.requests, effort.lines)]]
    for name, paths in (
        ("livez", ["/livez"] * effort.requests),
        ("number", [f"/v1/numbers/+{tn}" for tn in asked[: effort.requests]]),
        ("metrics", ["/metrics"] * (effort.requests // 20)),
    ):
        found[name] = Run(servers.plain, partial(get_all, port, paths))
    found["lines"] = Run(servers.plain, partial(post_lines, port, asked[: effort.lines]))
    return found


# -- asking over HTTP ------------------------------------------------------------------------------------


def get_all(port: int, paths: list[str]) -> Answered:
    """One request after the other over one connection. Raises ChildFailed for any answer but 200."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX) as sock, sock.makefile("rb") as answers:
        for path in paths:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            status, headers = _read_head(answers)
            answers.read(int(headers["content-length"]))
            if status != 200:
                raise ChildFailed(f"GET {path}: {status}")
    return Answered(len(paths), 0, time.perf_counter() - started)


def post_lines(port: int, numbers: list[str]) -> Answered:
    """All numbers in one request, a line each; its lines come back while it is sent. Raises ChildFailed."""
    body = "".join(f"{json.dumps('+' + number)}\n" for number in numbers).encode()
    head = (
        f"POST /v1/numbers HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    started = time.perf_counter()
    sent = head.encode() + body
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX) as sock:
        sock.setblocking(False)
        at = 0
        while True:
            moved = False
            with contextlib.suppress(BlockingIOError):
                if at < len(sent):
                    at += sock.send(sent[at : at + _READ_BYTES])
                    moved = True
            with contextlib.suppress(BlockingIOError):
                piece = sock.recv(_READ_BYTES)
                if not piece:
                    break
                received += piece
                moved = True
            if time.perf_counter() - started > ANSWER_SECONDS_MAX:
                raise ChildFailed("POST /v1/numbers: no whole answer")
            if not moved:
                time.sleep(0.0001)
    took = time.perf_counter() - started
    lines = received.count(b'"outcome"')
    if not received.startswith(b"HTTP/1.1 200 ") or lines != len(numbers):
        raise ChildFailed(f"POST /v1/numbers: {lines} answers of {len(numbers)}: {bytes(received[:200])!r}")
    return Answered(lines, 0, took)


def _read_head(answers: BinaryIO) -> tuple[int, dict[str, str]]:
    read = answers.readline
    status = int(read().split()[1])
    headers: dict[str, str] = {}
    while line := read().strip().decode("latin-1"):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


# -- figures ---------------------------------------------------------------------------------------------


def _note(dataset: Dataset, effort: Effort, samples: dict[str, Samples]) -> str:
    return (
        f"Server CPU over UDP with `pdb`, {dataset.numbers:,} ported numbers, one worker: without a query log, with "
        f"one of {SAMPLED} queries written, with each (two files of {LOG_FILE_SIZE}, which rotate). A log that "
        f"cannot keep up leaves records out, and counts them. HTTP over one connection with one request at a time, "
        f"of Python's one thread. Median and range of {effort.rounds} rounds. Questions that got no answer: "
        f"{sum(each.lost for each in samples.values()):,}."
    )


def _figures(samples: dict[str, Samples]) -> list[Figure]:
    found = []
    for way, asked in WAYS.items():
        plain, echo = samples[f"plain {way}"], samples[f"echo {way}"]
        found.append(Figure(f"no log, {asked.name}", plain.us, QUERY_UNIT, plain.to(echo, YARDSTICK)))
        for name, words in (("sampled", f"one of {SAMPLED} written"), ("full", "each written")):
            logged = samples[f"{name} {way}"]
            found.append(Figure(f"{words}, {asked.name}", logged.us, QUERY_UNIT, logged.to(plain, "no log")))
    livez = samples["livez"]
    found.append(Figure("GET /livez", livez.us, "us/request"))
    for name, words in (("number", "GET /v1/numbers/N"), ("metrics", "GET /metrics")):
        found.append(Figure(words, samples[name].us, "us/request", samples[name].to(livez, "/livez")))
    lines = samples["lines"]
    found.append(Figure("POST /v1/numbers, a number", lines.us, "us/number", lines.to(livez, "/livez")))
    return found
