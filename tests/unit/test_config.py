"""The configuration file: what is accepted, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import pytest

from lookupd.config import read_config
from lookupd.errors import ConfigError
from lookupd.protocols import dns as codec
from lookupd.protocols.enum_dns import profile_of
from lookupd.second_look import warnings
from lookupd.settings import Config, parse_endpoint
from lookupd.units import format_time, parse_duration, parse_size, parse_time
from tests.conftest import free_port, run_cli

WHOLE = """
[replica]
name = "a"
[store]
path = "/var/lib/lookupd/a"
map_size = "64GiB"
[plan]
country_code = "886"
[listen]
npq  = ["udp://127.0.0.1:4700", "tcp://127.0.0.1:4700"]
pdb  = ["udp://127.0.0.1:5574"]
http = "http://127.0.0.1:9474"
[pdb]
legacy = false
unmapped_carrier_id = 999
[engine]
udp = "auto"
[[client]]
name = "local"
account = "noc"
sources = ["127.0.0.0/8", "::1/128"]
queries_per_second = 10
[limits]
port = "1h"
return = "12h"
history = "184d"
stale_after = "90m"
[feed.main]
source = "dir:///var/lib/lookupd/feed"
format = "lookupd"
public_key = ""
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "lookupd.toml"
    path.write_text(text)
    return path


def test_whole_file_is_read(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, WHOLE))
    assert config.store.map_size == 64 << 30
    assert config.limits.return_ == 12 * 3600
    assert config.limits.stale_after == 5400
    assert config.clients[0].account == "noc"
    assert [str(endpoint) for _, endpoint in config.endpoints()] == [
        "udp://127.0.0.1:4700",
        "tcp://127.0.0.1:4700",
        "udp://127.0.0.1:5574",
        "http://127.0.0.1:9474",
    ]


def test_empty_file_listens_nowhere_and_answers_loopback_only(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, ""))
    assert config == Config()
    assert not config.endpoints()
    assert config.clients[0].sources == ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[store]\npaht = 'x'", "store.paht: unknown key; did you mean 'path'?"),
        ("[stroe]", "stroe: unknown key; did you mean 'store'?"),
        ("[[client]]\nname='a'\nsources=['::1']\nrats=1", "client[0].rats: unknown key; did you mean 'rate'?"),
        ("[feed.main]\nfromat='x'", "feed.main.fromat: unknown key; did you mean 'format'?"),
        ("[feed.main]\nformat='npac'", "feed.main.format"),
        ("[feed.main]\npublic_key='RW'", "feed.main.public_key: 'RW' is no minisign key"),
        ("[feed.main]\npublic_key=['a','b','c']", "feed.main.public_key: at most 2"),
        ("[feed.main]\npublic_key=3", "feed.main.public_key: Expected"),
        ("[store]\npath = 3", "store.path: Expected `str`"),
        ("[store]\nmap_size = 3", "store.map_size: expected text with a unit"),
        ("[store]\nmap_size = '3 GB'", "store.map_size: '3 GB' is no size"),
        ("[store]\nmap_size = '1KiB'", "store.map_size: less than"),
        ("[limits]\nport = '1 hour'", "limits.port: '1 hour' is no duration"),
        ("[limits]\nhistory = '183d'", "limits.history: less than 184d"),
        ("[plan]\ncountry_code = '0886'", "plan.country_code"),
        ("[plan]\nfile = '/nonexistent'", "plan.file /nonexistent"),
        ("[listen]\nnpq = ['udp://localhost:4700']", "listen.npq: udp://localhost:4700: 'localhost' is no address"),
        ("[listen]\nnpq = ['http://127.0.0.1:1']", "listen.npq: http://127.0.0.1:1: served over udp and tcp"),
        ("[listen]\npdb = ['tcp://127.0.0.1:1']", "listen.pdb: tcp://127.0.0.1:1: served over udp"),
        ("[listen]\npdb = ['udp://[::1]:1']", "IPv4 only"),
        ("[listen]\nnpq = ['udp://127.0.0.1']", "write it like"),
        ("[listen]\nnpq = ['udp://127.0.0.1:99999']", "listen.npq"),
        ("[listen]\nnpq = ['udp://127.0.0.1:5']\npdb = ['udp://127.0.0.1:5']", "named twice"),
        ("[listen]\nxmpp = ['udp://127.0.0.1:5353']", "listen.xmpp: unknown key"),
        ("[listen]\nsip = ['http://127.0.0.1:5060']", "listen.sip: http://127.0.0.1:5060: served over udp and tcp"),
        ("[enum]\napex = []", "enum.apex: 1 to 16 names"),
        ("[enum]\napex = ['a.example', 'A.example.']", "enum.apex: a name stands twice"),
        ("[enum]\napex = 'a..example'", "enum.apex: 'a..example' is no domain name"),
        ("[enum]\nservice = 'E2U+sip'", "enum.service: one or both of"),
        ("[enum]\nservice = 'E2U+pstn:sip'", "enum.domain: E2U+pstn:sip needs the host"),
        ("[enum]\nttl = -1", "enum.ttl: seconds, 0 to 604800"),
        ("[enum]\nnegative_ttl = 'long'", "enum.negative_ttl"),
        ("[enum]\nunported = 'nothing'", "enum.unported"),
        ("[enum]\nrn_context = 'a b'", "enum.rn_context"),
        ("[enum.nameservers]\n'ns.example' = ['192.0.2.300']", "enum.nameservers.ns.example"),
        ("[enum.nameservers]\n'ns.example' = " + str(["192.0.2.1"] * 9), "enum.nameservers.ns.example: at most 8 addr"),
        ("[enum.nameservers]\n'ns.example' = []\n'NS.example.' = []", "enum.nameservers: a name stands twice"),
        ("[enum.nameservers]\n'Ns.4.e164.ARPA' = []", "enum.nameservers.Ns.4.e164.ARPA: lies where the numbers'"),
        ("[enum.nameservers]\n'4.e164.arpa.' = []", "enum.nameservers.4.e164.arpa.: lies where"),
        (
            f"[enum]\nservice = 'E2U+pstn:sip'\nrn_context = '{'a' * 62}'\ndomain = '{'b' * 100}'\n"
            "cic_context = '+12345678'",
            "enum: rn_context, cic_context and domain together are 5 bytes too long",
        ),
        ("[sip]\nstatus = 303", "sip.status"),
        ("[sip]\ndomain = 'a b'", "sip.domain: 'a b': a host, perhaps with a port"),
        ("[sip]\ndomain = 'a.example:99999'", "sip.domain"),
        ("[sip]\nunmapped_routing_number = 'xyz'", "sip.unmapped_routing_number: 1 to 15 of 0-9 A-F"),
        ("[[client]]\nname='a'\nsources=['::1']\n[client.sip]\nform='both'", "client[0].sip.form"),
        ("[[client]]\nname='a'\nsources=['::1']\n[client.enum]\nttl=-1", "client[0].enum.ttl: seconds"),
        ("[[client]]\nname='a'\nsources=['::1']\n[client.enum]\nappex='a'", "client[0].enum.appex: unknown key; did"),
        ("[[client]]\nname='a'\nsources=['::1']\nqueries_per_prefix=-1", "client[0].queries_per_prefix: 0 (no"),
        ("[engine]\nudp = 'rust'", "engine.udp"),
        ("[engine]\nthreads = -1", "engine.threads"),
        ("[engine]\nthreads = 129", "engine.threads: 0 to 128"),
        (
            "[engine]\nthreads = 128\n[listen]\nnpq = ["
            + ", ".join(f"'udp://127.0.0.1:{port}'" for port in range(4700, 4705))
            + "]",
            "engine.threads: 5 UDP listeners of 128 workers are 640",
        ),
        ("client = []", "client: nobody may ask"),
        ("[[client]]\nname='a'\nsources=[]", "client[0].sources: empty"),
        ("[[client]]\nname='a'\nsources=['10.0.0.1/8']", "client[0].sources: 10.0.0.1/8 has host bits set"),
        ("[[client]]\nname='a'\nsources=['example']", "client[0].sources"),
        ("[[client]]\nsources=['::1']", "name"),
        ("[[client]]\nname='a'\nsources=['::1']\nqueries_per_second=-1", "queries_per_second"),
        ("[[client]]\nname='a'\nsources=['::1']\n[[client]]\nname='a'\nsources=['::2']", "same name"),
        ("[pdb]\nunmapped_carrier_id = 0", "pdb.unmapped_carrier_id"),
        ("[store\npath", "line 1"),
        ("\x00", "lookupd.toml"),
    ],
)
def test_bad_file_is_refused_with_key_and_reason(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_deep_check_finds_listeners_in_each_others_way(tmp_path: Path) -> None:
    port = free_port()
    config = write(tmp_path, f"[listen]\nnpq = ['udp://0.0.0.0:{port}', 'udp://127.0.0.1:{port}']")
    deep = run_cli("lookupd.cli", "check-config", "--deep", config)
    assert deep.returncode == 3
    assert f"udp://127.0.0.1:{port}: Address already in use" in deep.stderr


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lookupd.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        read_config(path)


def test_check_config_tells_by_its_exit_code(tmp_path: Path) -> None:
    good = run_cli("lookupd.cli", "check-config", write(tmp_path, WHOLE))
    assert good.returncode == 0
    assert "no public_key" in good.stderr
    bad = run_cli("lookupd.cli", "check-config", write(tmp_path, "[store]\nx=1"))
    assert bad.returncode == 3
    assert bad.stderr.count("\n") == 1
    missing = run_cli("lookupd.cli", "check-config", tmp_path / "none.toml")
    assert missing.returncode == 3
    assert "No such file" in missing.stderr


def test_deep_check_opens_the_store_and_binds(tmp_path: Path) -> None:
    config = write(tmp_path, f'[store]\npath="{tmp_path}/none"\n[listen]\nnpq=["udp://127.0.0.1:0"]')
    assert run_cli("lookupd.cli", "check-config", config).returncode == 0
    deep = run_cli("lookupd.cli", "check-config", "--deep", config)
    assert deep.returncode == 3
    assert "no store here" in deep.stderr
    config = write(tmp_path, '[listen]\nnpq=["udp://192.0.2.1:4700"]')  # not an address of this machine
    deep = run_cli("lookupd.cli", "check-config", "--deep", config)
    assert deep.returncode == 3
    assert "udp://192.0.2.1:4700" in deep.stderr


def test_second_looks_are_asked_for(tmp_path: Path) -> None:
    assert "nothing is served" in warnings(read_config(write(tmp_path, "")))[0]
    beyond = read_config(write(tmp_path, "[listen]\nnpq=['udp://0.0.0.0:4700']"))
    assert "only loopback is answered" in warnings(beyond)[0]
    wide = read_config(
        write(tmp_path, "[listen]\nhttp='http://127.0.0.1:1'\n[[client]]\nname='a'\nsources=['0.0.0.0/0']")
    )
    assert "wider than a /8" in warnings(wide)[0]


SWITCHES = """
[listen]
enum = ["udp://127.0.0.1:53", "tcp://127.0.0.1:53"]
sip = ["udp://127.0.0.1:5060", "udp://[::1]:5070"]
[[client]]
name = "a"
sources = ["127.0.0.0/8"]
"""
UNMAPPED = 'unmapped_routing_number = "0"\n'


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        ("", []),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}", []),
        (f"[client.enum]\n{UNMAPPED}[client.sip]\n{UNMAPPED}", []),
        (f"[enum]\n{UNMAPPED}[client.sip]\nunmapped_routing_number = 'D0'", ["client a: sip.unmapped", "+D0"]),
        (f"[enum]\n{UNMAPPED}[sip]\nunmapped_routing_number = 'D0'", ["sent as +D0", "rn_context"]),
        (f"[enum]\n{UNMAPPED}[sip]\nunmapped_routing_number = 'D0'\nrn_context = '+886'", []),
        (f"[enum]\n{UNMAPPED}ttl = 3600\n[sip]\n{UNMAPPED}", []),
        (f"[enum]\n{UNMAPPED}ttl = 3601\n[sip]\n{UNMAPPED}", ["enum.ttl: 3601 s", "limits.port, 3600 s"]),
        (f"[enum]\n{UNMAPPED}negative_ttl = 7200\n[sip]\n{UNMAPPED}", ["enum.negative_ttl: 7200 s"]),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}status = 301", ["sip.status: 301"]),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}domain = '127.0.0.1'", ["sip.domain: 127.0.0.1 is where listen.sip"]),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}domain = '[::1]:5070'", ["sip.domain: [::1]:5070 is where"]),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}domain = '[::1]'", []),
        (f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}domain = '127.0.0.1:5061'", []),
        (
            f"[enum]\n{UNMAPPED}service = 'E2U+pstn:sip'\ndomain = '127.0.0.1:5060'\n[sip]\n{UNMAPPED}",
            ["enum.domain: 127.0.0.1:5060 is where listen.sip listens"],
        ),
        (
            f"[enum]\n{UNMAPPED}service = ['E2U+pstn:tel', 'E2U+pstn:sip']\ndomain = 'gateway.north.carrier.example'\n"
            f"[sip]\n{UNMAPPED}",
            ["without EDNS has room for 204: it is cut"],
        ),
    ],
)
def test_second_looks_at_what_switches_ask(tmp_path: Path, profiles: str, said: list[str]) -> None:
    # A client's sections belong to the client before them.
    common, client = profiles.partition("[client.")[::2]
    text = common + SWITCHES + ("[client." + client if client else "")
    found = warnings(read_config(write(tmp_path, text)))
    assert bool(found) is bool(said), found
    for part in said:
        assert part in " ".join(found)


def test_cut_answers_are_foretold_as_the_dialect_cuts_them(tmp_path: Path) -> None:
    """A domain one byte too long, of many: what is said is what the codec does."""
    both = 'service = ["E2U+pstn:tel", "E2U+pstn:sip"]'
    told = []
    for length in range(1, 100):
        profile = f"[enum]\napex = 'np.example'\n{UNMAPPED}{both}\ndomain = '{'a' * length}'\n"
        config = read_config(write(tmp_path, f"{profile}[sip]\n{UNMAPPED}{SWITCHES}"))
        settings = config.clients[0].enum
        question = dns.message.make_query("8.7.6.5.4.3.2.1.9.6.8.8.np.example", "NAPTR").to_wire()
        query = codec.decode_query(question)
        answers = profile_of(settings).records("0", None)
        reply = codec.encode_reply(
            query,
            codec.NOERROR,
            codec.Sections(answers=answers, answer_count=2),
            bytes_max=codec.datagram_bytes_max(query),
        )
        is_cut = bool(dns.message.from_wire(reply).flags & dns.flags.TC)
        assert is_cut is any("it is cut" in each for each in warnings(config)), length
        told.append(is_cut)
    assert set(told) == {False, True}


def test_second_looks_at_who_can_be_reached(tmp_path: Path) -> None:
    def told(listen: str, client: str = "") -> str:
        profiles = f"[enum]\n{UNMAPPED}[sip]\n{UNMAPPED}"
        return " ".join(warnings(read_config(write(tmp_path, f"{profiles}[listen]\n{listen}\n{client}"))))

    assert "listen.enum: 127.0.0.1 port 53 over UDP alone" in told("enum = ['udp://127.0.0.1:53']")
    assert "over UDP alone" in told("enum = ['udp://127.0.0.1:53', 'tcp://127.0.0.1:54']")
    assert "UDP alone" not in told(
        "enum = ['udp://127.0.0.1:53', 'tcp://127.0.0.1:53']\nsip = ['udp://127.0.0.1:5060']"
    )
    assert "enum: has settings, but listen.enum names no listener" in told("sip = ['udp://127.0.0.1:5060']")
    client = "[[client]]\nname = 'a'\nsources = ['{}']\nqueries_per_prefix = {}"
    sip = "sip = ['udp://0.0.0.0:5060']"
    assert "client a: queries_per_prefix is 0" in told(sip, client.format("8.8.0.0/16", 0))
    assert "client a: queries_per_prefix is 0" in told(sip, client.format("2600::/48", 0))
    for source, rate in (("8.8.0.0/16", 5), ("8.8.8.0/24", 0), ("10.0.0.0/8", 0), ("2600::/56", 0)):
        assert "queries_per_prefix" not in told(sip, client.format(source, rate))
    assert "queries_per_prefix" not in told("sip = ['tcp://0.0.0.0:5060']", client.format("8.8.0.0/16", 0))


def test_endpoint_is_printed_as_it_is_written() -> None:
    for url in ("udp://127.0.0.1:4700", "tcp://[::1]:4700", "http://127.0.0.1:0"):
        assert str(parse_endpoint(url)) == url


def test_units() -> None:
    assert parse_duration("500ms") == 0.5
    assert parse_duration("184d") == 184 * 86_400
    assert parse_size("64GiB") == 64 << 30
    for bad in ("", "1", "1.5h", "-1h", "1H", "1h ", "١h"):
        with pytest.raises(ValueError, match="is no duration"):
            parse_duration(bad)
    assert parse_time("2026-03-01T09:00:00+08:00") == 1772326800
    assert parse_time("2026-03-01t01:00:00.999z") == 1772326800
    assert format_time(1772326800) == "2026-03-01T01:00:00Z"
    assert format_time(None) is None
    for bad in (
        "2026-03-01T09:00:00",  # no offset
        "2026-03-01 09:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T09:00:60Z",
        "1969-12-31T23:59:59Z",
        "2107-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "2026-03-01T09:00:00+0800",
        "2026-03-01T09:00:00+24:00",
        "2026-03-01T09:00:00+08:60",
        "",
    ):
        with pytest.raises(ValueError, match=r"time|years"):
            parse_time(bad)


def test_client_replaces_single_keys_of_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "lookupd.toml"
    file.write_text(
        """[[client]]
name = "switch"
sources = ["192.0.2.1"]
[client.enum]
apex = ["np.example", "carrier.example."]
[client.sip]
status = 301
[[client]]
name = "other"
sources = ["192.0.2.2"]
[enum]
ttl = 5
[sip]
unported = "unknown"
"""
    )
    config = read_config(file)
    switch, other = config.clients
    assert (switch.enum.apexes, switch.enum.ttl) == (("np.example", "carrier.example"), 5)
    assert (switch.sip.status, switch.sip.unported) == (301, "unknown")
    assert (other.enum, other.sip) == (config.enum, config.sip)


def test_client_that_is_there_by_itself_has_the_profiles_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lookupd.toml"
    file.write_text("[enum]\nttl = 5\n")
    assert [(client.name, client.enum.ttl) for client in read_config(file).clients] == [("local", 5)]
