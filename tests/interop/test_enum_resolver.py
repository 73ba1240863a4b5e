"""A caching resolver between switches and lookupd: Debian's Unbound and Knot Resolver, set up as docs/integration says.

What reached lookupd is read from its counters: an answer that came from the cache counts nothing there. No resolver
reaches beyond this machine: what is not in our zone is sent to a port where nobody is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.conftest import Workbench, free_port, halt, wait_until
from tests.interop.enum_site import (
    APEX,
    HELD,
    HELD_DATA,
    OTHER_PORTED,
    PORTED,
    PORTED_DATA,
    UNALLOCATED,
    UNMAPPED,
    EnumServer,
    name_of,
    run_enum,
)
from tests.interop.pages import block

PAGE = "resolver.md"
SETTINGS = block(PAGE, "/etc/lookupd/lookupd.toml").partition("[enum]")[2].partition("[[client]]")[0]
PLACES = ("192.0.2.10@5353", "192.0.2.11@5353")
"""Where the page has its two lookupds."""

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
PATIENCE_SECONDS = 10

UNBOUND = """server:
    interface: 127.0.0.1@{port}
    port: {port}
    do-ip6: no
    username: ""
    chroot: ""
    directory: "{home}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    num-threads: 1
    trust-anchor: ". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
    qname-minimisation: yes
{more}
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: 127.0.0.1@{nobody}
    stub-first: no
"""
KRESD = """for _, asks_afar in ipairs({{'priming', 'ta_update', 'ta_signal_query', 'detect_time_skew'}}) do
    modules.unload(asks_afar)
end
net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
net.ipv6 = false
cache.open(10 * MB, 'lmdb://{home}/cache')
policy.add(policy.all(policy.PASS))
{more}
"""


class Resolver:
    """Listens on loopback for us."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    def ask(
        self, name: str, kind: str = "NAPTR", patience_seconds: float = PATIENCE_SECONDS, **options: bool
    ) -> dns.message.Message:
        """As a stub resolver asks: recursion wanted, over TCP after TC."""
        message = dns.message.make_query(name, kind, **options)
        reply, _ = dns.query.udp_with_fallback(message, "127.0.0.1", timeout=patience_seconds, port=self.port)
        return reply

    def data(self, digits: str) -> list[str]:
        """The NAPTR data of a number, which must be there."""
        reply = self.ask(name_of(digits))
        assert reply.rcode() == dns.rcode.NOERROR, reply
        return [record.to_text() for records in reply.answer for record in records]

    def answers(self) -> bool:
        """Whether it listens: any reply will do."""
        with contextlib.suppress(OSError, dns.exception.DNSException):
            message = dns.message.make_query("version.server", "TXT", "CH")
            dns.query.udp(message, "127.0.0.1", timeout=0.2, port=self.port)
            return True
        return False


@contextlib.contextmanager
def running(command: list[str | Path], home: Path, port: int) -> Iterator[Resolver]:
    """A resolver until the block ends, in a process group of its own."""
    log = home / "resolver.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    resolver = Resolver(port, process, log)
    try:
        wait_until(lambda: process.poll() is not None or resolver.answers(), 20)
        assert process.poll() is None, log.read_text()
        yield resolver
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def placed(text: str, servers: tuple[EnumServer, ...]) -> str:
    """A configuration of the page, with the places of these servers; one server stands for both."""
    for place, server in zip(PLACES, (*servers, servers[-1])[:2], strict=True):
        assert place in text
        text = text.replace(place, f"127.0.0.1@{server.port}")
    return text


@contextlib.contextmanager
def run_unbound(home: Path, *servers: EnumServer, more: str = "", kind: str = "forward") -> Iterator[Resolver]:
    """more: further lines of its section `server`. kind: which of the page's two ways to us."""
    program = shutil.which("unbound", path=PATH)
    if program is None:
        pytest.skip("needs the package unbound")
    port = free_port()
    general = UNBOUND.format(port=port, home=home, nobody=free_port(), more=more)
    config = home / "unbound.conf"
    config.write_text(general + placed(block(PAGE, f"/etc/unbound/unbound.conf.d/enum-{kind}.conf"), servers))
    with running([program, "-d", "-c", config], home, port) as resolver:
        yield resolver


@contextlib.contextmanager
def run_kresd(home: Path, *servers: EnumServer, more: str = "") -> Iterator[Resolver]:
    """more: further lines of Lua."""
    program = shutil.which("kresd", path=PATH)
    if program is None:
        pytest.skip("needs the package knot-resolver")
    port = free_port()
    config = home / "kresd.conf"
    # The page's lines come first, as the first rule that fits is the one that counts.
    config.write_text(
        placed(block(PAGE, "/etc/knot-resolver/kresd.conf"), servers) + KRESD.format(port=port, home=home, more=more)
    )
    with running([program, "-n", "-q", "-c", config, home], home, port) as resolver:
        yield resolver


run_unbound_stub = partial(run_unbound, kind="stub")

RunResolver = Callable[..., AbstractContextManager[Resolver]]
RESOLVERS: dict[str, RunResolver] = {"unbound": run_unbound, "unbound_stub": run_unbound_stub, "kresd": run_kresd}

pytestmark = pytest.mark.usefixtures("each_engine")
each_resolver = pytest.mark.parametrize("run_resolver", RESOLVERS.values(), ids=RESOLVERS.keys())


def profile(ttl: int = 60, negative_ttl: int = 60, more: str = "") -> str:
    """The page's settings, with other times."""
    text = SETTINGS
    for key, value in (("ttl", ttl), ("negative_ttl", negative_ttl)):
        assert f"\n{key} = 60" in text
        text = text.replace(f"\n{key} = 60", f"\n{key} = {value}")
    return f"[enum]{text}{more}"


def settled(server: EnumServer) -> int:
    """What reached lookupd, once nothing more comes: Unbound asks on for a while after it has answered NXDOMAIN."""
    received = -1
    while received != server.received:
        received = server.received
        time.sleep(0.2)
    return received


@each_resolver
def test_answers_pass_through_and_are_kept(loaded: Workbench, run_resolver: RunResolver) -> None:
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        assert resolver.data(PORTED) == [PORTED_DATA]
        assert resolver.data(HELD) == [HELD_DATA]
        missing = resolver.ask(name_of(UNALLOCATED))
        assert missing.rcode() == dns.rcode.NXDOMAIN
        assert [records.name.to_text() for records in missing.authority] == [f"{APEX}."]
        received = settled(server)
        assert received >= 3
        for _ in range(3):
            assert resolver.data(PORTED) == [PORTED_DATA]
            assert resolver.data(HELD) == [HELD_DATA]
            assert resolver.ask(name_of(UNALLOCATED)).rcode() == dns.rcode.NXDOMAIN
        assert settled(server) == received


@each_resolver
def test_answer_is_recursive_and_not_authentic(loaded: Workbench, run_resolver: RunResolver) -> None:
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        reply = resolver.ask(name_of(PORTED), want_dnssec=True)
        assert reply.rcode() == dns.rcode.NOERROR
        assert reply.flags & dns.flags.RA
        assert not reply.flags & dns.flags.AD
        assert reply.answer[0].ttl <= 60


@each_resolver
def test_answer_is_asked_for_again_after_its_ttl(loaded: Workbench, run_resolver: RunResolver) -> None:
    with (
        run_enum(loaded, profile(ttl=1, negative_ttl=1)) as server,
        run_resolver(loaded.folder, server) as resolver,
    ):
        assert resolver.data(HELD) == [HELD_DATA]
        assert resolver.ask(name_of(UNALLOCATED)).rcode() == dns.rcode.NXDOMAIN
        loaded.delta({"kind": "port", "tn": HELD, "recipient": "1402"}, sequence=2)
        wait_until(lambda: resolver.data(HELD) == [PORTED_DATA])
        answered = server.count("answered", outcome="not_allocated")
        wait_until(
            lambda: (
                resolver.ask(name_of(UNALLOCATED)).rcode() == dns.rcode.NXDOMAIN
                and server.count("answered", outcome="not_allocated") > answered
            )
        )


@each_resolver
def test_names_on_the_way_to_a_number_hide_nothing_below(loaded: Workbench, run_resolver: RunResolver) -> None:
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        for length in range(1, len(PORTED)):
            reply = resolver.ask(name_of(PORTED[:length]))
            assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, []), length
        assert resolver.ask(name_of("88693")).rcode() == dns.rcode.NXDOMAIN
        for digits in (PORTED, OTHER_PORTED, HELD):
            assert len(resolver.data(digits)) == 1


@each_resolver
def test_question_for_the_nameservers_leads_nobody_astray(loaded: Workbench, run_resolver: RunResolver) -> None:
    # The name that our NS record says has no address: a resolver that went by it would find no way.
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        assert [records.to_text() for records in resolver.ask(APEX, "NS").answer]
        assert resolver.ask(APEX, "SOA").answer
        assert resolver.ask(f"ns.{APEX}", "A").answer == []
        assert resolver.data(PORTED) == [PORTED_DATA]


@each_resolver
def test_answer_too_long_for_udp_comes_through(loaded: Workbench, run_resolver: RunResolver) -> None:
    both = 'service = ["E2U+pstn:tel", "E2U+pstn:sip"]\ndomain = "gateway.operator.example:5060"\n'
    with run_enum(loaded, profile(more=both)) as server, run_resolver(loaded.folder, server) as resolver:
        assert len(resolver.data(PORTED)) == 2
        assert server.count("received", transport="tcp") >= 1
        received = server.received
        assert len(resolver.data(PORTED)) == 2
        assert server.received == received


@each_resolver
def test_number_without_an_answer_fails_and_others_do_not(loaded: Workbench, run_resolver: RunResolver) -> None:
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        assert resolver.ask(name_of(UNMAPPED)).rcode() == dns.rcode.SERVFAIL
        assert resolver.data(PORTED) == [PORTED_DATA]


def finds(resolver: Resolver, digits: str, data: str) -> bool:
    """Whether a number's answer comes while a switch would wait; if one comes, it must be right."""
    try:
        return resolver.data(digits) == [data]
    except dns.exception.Timeout:
        return False


@each_resolver
def test_replica_that_died_or_has_no_data_is_passed_over(loaded: Workbench, run_resolver: RunResolver) -> None:
    (folder := loaded.folder / "empty").mkdir()
    with (
        run_enum(loaded, profile()) as server,
        run_enum(Workbench(folder), profile()) as empty,
        run_resolver(loaded.folder, empty, server) as resolver,
    ):
        # By chance the resolver asks the good one first: so several numbers, until the empty one was asked too.
        numbers = iter(range(10_000))
        wait_until(
            lambda: resolver.data(f"886911{next(numbers):06}") == [HELD_DATA] and empty.received > 0,
            30,
        )
        empty.kill()
        # Unbound waits for the dead one at first, and as a stub minimises: at each digit anew.
        wait_until(lambda: finds(resolver, PORTED, PORTED_DATA), 60)


def asked_of(bench: Workbench, run: RunResolver, more: str) -> int:
    """What reaches lookupd when each kind of name is asked for through Unbound, which must find it."""
    with run_enum(bench, profile()) as server, run(bench.folder, server, more=more) as resolver:
        for digits, data in ((PORTED, PORTED_DATA), (HELD, HELD_DATA)):
            assert resolver.data(digits) == [data]
        assert resolver.ask(name_of(UNALLOCATED)).rcode() == dns.rcode.NXDOMAIN
        assert resolver.ask(name_of("8869")).rcode() == dns.rcode.NOERROR
        return settled(server)


@pytest.mark.parametrize("run", [run_unbound, run_unbound_stub], ids=["unbound", "unbound_stub"])
@pytest.mark.parametrize(
    "more",
    ["", "    qname-minimisation-strict: yes\n    harden-below-nxdomain: yes\n"],
    ids=["usual", "strict"],
)
def test_unbound_that_looks_closely_is_content(loaded: Workbench, run: RunResolver, more: str) -> None:
    # Where case was not kept, it would ask again and compare.
    assert asked_of(loaded, run, f"{more}    use-caps-for-id: yes") == asked_of(loaded, run, more)


@pytest.mark.parametrize(
    ("run", "more", "questions"),
    [
        (run_unbound, "", 1),
        (run_kresd, "", 1),
        (run_unbound_stub, "    qname-minimisation: no", 1),
        (run_unbound_stub, "", 10),
    ],
    ids=["unbound", "kresd", "unbound_stub_whole_names", "unbound_stub"],
)
def test_number_costs_so_many_questions(loaded: Workbench, run: RunResolver, more: str, questions: int) -> None:
    with run_enum(loaded, profile()) as server, run(loaded.folder, server, more=more) as resolver:
        for digits in (PORTED, HELD, "886223450001"):
            server.count_anew()
            assert len(resolver.data(digits)) == 1
            assert server.received == questions


@each_resolver
def test_silent_server_is_told_as_a_failure(loaded: Workbench, run_resolver: RunResolver) -> None:
    with run_enum(loaded, profile()) as server, run_resolver(loaded.folder, server) as resolver:
        assert resolver.data(PORTED) == [PORTED_DATA]
        halt(server.process)
        try:
            with contextlib.suppress(dns.exception.Timeout):
                assert resolver.ask(name_of(HELD), patience_seconds=3).rcode() == dns.rcode.SERVFAIL
            assert resolver.data(PORTED) == [PORTED_DATA]  # from the cache
        finally:
            server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: resolver.ask(name_of(OTHER_PORTED)).rcode() == dns.rcode.NOERROR, 60)
