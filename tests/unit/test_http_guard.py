"""Who may ask an HTTP listener, and what the settings of one must be."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from lookupd.config import read_config
from lookupd.errors import ConfigError
from lookupd.http_settings import is_loopback_url
from lookupd.limits import HTTP_SCRAPES_PER_SECOND
from lookupd.peer_keys import read_peer_keys
from lookupd.second_look import warnings
from lookupd.transports.http import Scrapes
from lookupd.web.guard import look_at_files, read_secrets
from lookupd.web.tls import certificate_names, expiry
from tests.certificates import TOKEN, Authority, Pair, write_secret
from tests.conftest import Served, Workbench, serve

OTHER_TOKEN = "another-token-0123456789abcdef"
NEW_TOKEN = "the-new-token-0123456789abcdef"


class Site:
    """A daemon with TLS beyond loopback, and clients with all kinds of keys."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.folder = bench, bench.folder
        self.authority = Authority(self.folder)
        self.own = self.authority.issue("server")
        self.token = write_secret(self.folder / "token", TOKEN + "\n")
        self.other = write_secret(self.folder / "other", OTHER_TOKEN + "\n")
        self.client = self.authority.issue("noc", names=("noc.example",), addresses=())
        self.nameless = self.authority.issue("plain-name", addresses=())

    def config(self, more: str = "") -> Path:
        clients = [
            ("tok", "127.0.0.0/8", f'token_file = "{self.token}"\nmay = ["query", "status", "history"]'),
            ("cert", "127.0.0.0/8", 'certificate = "noc.example"\nmay = ["query"]'),
            ("common", "127.0.0.0/8", 'certificate = "plain-name"'),
            ("away", "127.0.0.9/32", f'token_file = "{self.other}"'),
        ]
        return self.bench.config(
            f'[http]\ncertificate = "{self.own.certificate}"\nkey = "{self.own.key}"\n'
            f'client_ca = "{self.authority.file}"\n'
            'hosts = ["Lookupd-A.example"]\n'
            + "".join(f'[[client]]\nname = "{name}"\nsources = ["{at}"]\n{rest}\n' for name, at, rest in clients)
            + more,
            'npq = ["udp://127.0.0.1:0"]\nhttp = ["http://127.0.0.1:0", "https://0.0.0.0:0"]',
        )

    def trust(self, pair: Pair | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.file)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context

    async def ask(
        self,
        served: Served,
        path: str = "/metrics",
        headers: dict[str, str] | None = None,
        pair: Pair | None = None,
        source: str = "127.0.0.1",
    ) -> tuple[int, str]:
        connector = aiohttp.TCPConnector(ssl=self.trust(pair), local_addr=(source, 0), force_close=True)
        url = f"https://127.0.0.1:{served.port('http', 'https')}{path}"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url, headers=headers) as reply:
            return reply.status, await reply.text()


@pytest.fixture
def site(loaded: Workbench) -> Site:
    return Site(loaded)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str, user: str = "") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()}


def refused(served: Served) -> dict[str, int]:
    """By reason, without those that are 0."""
    return {reason: count for reason, count in served.daemon.metrics.http.refused.items() if count}


# -- who asks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [bearer(TOKEN), basic(TOKEN), basic(TOKEN, "prometheus")])
async def test_token_lets_in(site: Site, headers: dict[str, str]) -> None:
    async with serve(site.config()) as served:
        status, text = await site.ask(served, headers=headers)
        assert (status, "lookupd_ready" in text, refused(served)) == (200, True, {})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(""),
        bearer(OTHER_TOKEN),
        basic("", TOKEN),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()},
        {"Authorization": f"Digest {TOKEN}"},
        {"Authorization": TOKEN},
    ],
    ids=lambda headers: str(len(str(headers))),
)
async def test_without_its_clients_token_nobody_is_answered(site: Site, headers: dict[str, str]) -> None:
    async with serve(site.config()) as served:
        status, text = await site.ask(served, headers=headers)
        assert (status, "lookupd_" in text, refused(served)) == (401, False, {"credential": 1})


async def test_token_counts_only_from_an_address_of_its_client(site: Site) -> None:
    async with serve(site.config()) as served:
        assert (await site.ask(served, headers=bearer(OTHER_TOKEN)))[0] == 401
        assert (await site.ask(served, headers=bearer(OTHER_TOKEN), source="127.0.0.9"))[0] == 200


async def test_browser_is_asked_for_a_password(site: Site) -> None:
    async with serve(site.config()) as served:
        connector = aiohttp.TCPConnector(ssl=site.trust())
        url = f"https://127.0.0.1:{served.port('http', 'https')}/metrics"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as reply:
            assert reply.headers["WWW-Authenticate"].startswith("Basic realm=")


async def test_certificate_lets_in_its_client_with_what_that_one_may(site: Site) -> None:
    async with serve(site.config()) as served:
        status, text = await site.ask(served, pair=site.client)
        assert (status, '"status"' in text, refused(served)) == (403, True, {"permission": 1})
        assert (await site.ask(served, pair=site.nameless))[0] == 200  # by its common name


async def test_certificate_of_a_name_on_no_list_is_refused(site: Site) -> None:
    async with serve(site.config()) as served:
        assert (await site.ask(served, pair=site.authority.issue("nobody", addresses=())))[0] == 401


async def test_common_name_counts_for_nothing_beside_a_dns_name(site: Site) -> None:
    pair = site.authority.issue("noc.example", names=("other.example",), addresses=(), file="two-names")
    async with serve(site.config()) as served:
        assert (await site.ask(served, pair=pair))[0] == 401


@pytest.mark.parametrize("kind", ["expired", "early", "foreign"])
async def test_bad_certificate_ends_the_handshake(site: Site, kind: str) -> None:
    foreign = Authority(site.folder, "foreign")
    authority = foreign if kind == "foreign" else site.authority
    days = {"expired": (-9.0, -1.0), "early": (1.0, 9.0), "foreign": (-1.0, 9.0)}[kind]
    pair = authority.issue("noc", names=("noc.example",), addresses=(), days=days, file=kind)
    async with serve(site.config()) as served:
        with pytest.raises(aiohttp.ClientError):
            await site.ask(served, pair=pair)
        await until(lambda: served.daemon.metrics.http.closed["handshake"] > 0)


async def test_tls_older_than_1_2_is_not_spoken(site: Site) -> None:
    async with serve(site.config()) as served:
        command = ["openssl", "s_client", "-cipher", "ALL:@SECLEVEL=0", "-connect"]
        command += [f"127.0.0.1:{served.port('http', 'https')}"]
        for version, is_spoken in (("-tls1_1", False), ("-tls1_2", True)):
            asked = await asyncio.create_subprocess_exec(
                *command,
                version,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            told, _ = await asyncio.wait_for(asked.communicate(), 20)
            assert (b"Server certificate" in told) is is_spoken, told


async def test_health_needs_an_address_alone(site: Site) -> None:
    async with serve(site.config()) as served:
        assert await site.ask(served, "/livez") == (200, "alive\n")
        assert (await site.ask(served, "/readyz"))[0] == 200
        assert (await site.ask(served, "/nothing"))[0] == 401
        assert (await site.ask(served, "/nothing", bearer(TOKEN)))[0] == 404


async def test_loopback_listener_wants_no_key(site: Site) -> None:
    async with serve(site.config()) as served:
        url = f"http://127.0.0.1:{served.port('http', 'http')}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            assert reply.status == 200


async def test_token_picks_its_client_on_loopback_too(site: Site) -> None:
    peer = write_secret(site.folder / "peer-token", NEW_TOKEN)
    more = f'[[client]]\nname = "twin"\nsources = ["127.0.0.1"]\npeer = true\ntoken_file = "{peer}"\n'
    async with serve(site.config(more)) as served, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{served.port('http', 'http')}/v1/store/state"
        for headers, status in (({}, 403), (bearer("wrong"), 403), (bearer(NEW_TOKEN), 200)):
            async with session.get(url, headers=headers) as reply:
                assert reply.status == status


async def test_address_on_no_list_is_told_so_and_gets_no_handshake(loaded: Workbench) -> None:
    bench = Site(loaded)
    client = '[[client]]\nname = "x"\nsources = ["192.0.2.0/24"]\n'
    http = f'[http]\ncertificate = "{bench.own.certificate}"\nkey = "{bench.own.key}"\n'
    listen = 'http = ["http://127.0.0.1:0", "https://127.0.0.1:0"]'
    async with serve(loaded.config(http + client, listen)) as served:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{served.port('http', 'http')}/livez") as reply,
        ):
            assert (reply.status, await reply.text()) == (403, "this address is on no client's list\n")
        with pytest.raises(aiohttp.ClientError):
            await bench.ask(served, "/livez")
        assert refused(served) == {"unknown_client": 2}


async def test_store_is_for_peers_alone(site: Site) -> None:
    peer = write_secret(site.folder / "peer-token", NEW_TOKEN)
    more = f'[[client]]\nname = "twin"\nsources = ["127.0.0.1"]\npeer = true\ntoken_file = "{peer}"\n'
    async with serve(site.config(more)) as served:
        assert (await site.ask(served, "/v1/store/state", bearer(TOKEN)))[0] == 403
        assert (await site.ask(served, "/v1/store/state", bearer(NEW_TOKEN)))[0] == 200


async def test_daemon_asks_its_own_https_listener(site: Site) -> None:
    async with serve(site.config()) as served:
        assert await served.daemon.canary.ask_all() == {}
        assert refused(served) == {}


# -- what changes while it runs ----------------------------------------------------------------------------


async def test_token_is_replaced_by_a_reload_with_both_taken_in_between(site: Site) -> None:
    async with serve(site.config()) as served:
        write_secret(site.token, f"{TOKEN}\n{NEW_TOKEN}\n")
        assert await served.daemon.reload()
        assert [(await site.ask(served, headers=bearer(each)))[0] for each in (TOKEN, NEW_TOKEN)] == [200, 200]
        write_secret(site.token, NEW_TOKEN)
        assert await served.daemon.reload()
        assert [(await site.ask(served, headers=bearer(each)))[0] for each in (TOKEN, NEW_TOKEN)] == [401, 200]


async def test_bad_token_file_at_a_reload_changes_nothing(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    async with serve(site.config()) as served:
        write_secret(site.token, "short")
        assert not await served.daemon.reload()
        assert (await site.ask(served, headers=bearer(TOKEN)))[0] == 200
        assert "client[0].token_file" in capfd.readouterr().err


async def test_renewed_certificate_is_taken_by_a_reload(site: Site) -> None:
    async with serve(site.config()) as served:
        port = served.port("http", "https")
        before = await shown_certificate(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=site.trust())
        site.authority.issue("server")
        assert await served.daemon.reload()
        assert await shown_certificate(port) != before
        assert await asyncio.wait_for(reader.read(), 5) == b""  # nothing was being answered on it
        writer.close()


async def test_connections_go_on_when_a_reload_finds_the_same_certificate(site: Site) -> None:
    async with serve(site.config()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port("http", "https"), ssl=site.trust())
        assert await served.daemon.reload()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_authority_of_clients_is_replaced_by_a_reload(site: Site) -> None:
    async with serve(site.config()) as served:
        assert (await site.ask(served, pair=site.nameless))[0] == 200
        foreign = Authority(site.folder, "foreign")
        site.authority.file.with_name("own.pem").write_bytes(site.authority.file.read_bytes())
        trusted, site.authority.file = site.authority.file, site.authority.file.with_name("own.pem")
        trusted.write_bytes(foreign.file.read_bytes())
        assert await served.daemon.reload()
        with pytest.raises(aiohttp.ClientError):
            await site.ask(served, pair=site.nameless)
        pair = foreign.issue("plain-name", addresses=(), file="new")
        assert (await site.ask(served, pair=pair))[0] == 200


async def test_https_is_added_by_a_reload_and_never_plain(loaded: Workbench) -> None:
    async with serve(loaded.config(listen='http = "http://127.0.0.1:0"')) as served:
        site = Site(loaded)
        site.config()
        assert await served.daemon.reload()
        assert (await site.ask(served, headers=bearer(TOKEN)))[0] == 200


async def shown_certificate(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return shown


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# -- settings ----------------------------------------------------------------------------------------------

HTTPS = '[http]\ncertificate = "c"\nkey = "k"\n'


@pytest.mark.parametrize(
    ("extra", "listen", "told"),
    [
        ("", 'http = "http://192.0.2.1:9474"', "listen.http: http://192.0.2.1:9474: beyond loopback only https://"),
        ("", 'http = ["http://127.0.0.1:1", "http://0.0.0.0:9474"]', "http://127.0.0.1:9474"),
        ("", 'http = "http://[::]:9474"', "beyond loopback only https://"),
        ('[sync]\nhttp = "http://192.0.2.1:9475"', "", "sync.http: http://192.0.2.1:9475: beyond loopback"),
        ('[probe]\nhttp = "http://192.0.2.1:9475"', "", "probe.http: http://192.0.2.1:9475: beyond loopback"),
        ("", 'http = "https://192.0.2.1:9474"', "needs http.certificate and http.key"),
        ('[http]\ncertificate = "c"', "", "http.certificate and http.key: only together"),
        ('[http]\nclient_ca = "c"', "", "http.client_ca: only with http.certificate"),
        ('[http]\nhosts = ["http://x"]', "", "http.hosts: 'http://x': a name or address alone"),
        ('[http]\nhosts = ["*.example"]', "", "http.hosts: '*.example'"),
        ('[http]\nhosts = ["a:80"]', "", "http.hosts: 'a:80'"),
        (HTTPS + '[[client]]\nname = "x"\nsources = ["::1"]\ncertificate = "x"', "", "client[0].certificate: needs"),
        ('[replica]\npeer = "http://192.0.2.7:9474"', "", "replica.peer: http://192.0.2.7:9474: beyond loopback"),
        ('[replica]\npeer = "http://b.example:9474"', "", "beyond loopback only https://"),
        ('[sync]\npeer = "http://192.0.2.7:9474"', "", "sync.peer: http://192.0.2.7:9474: beyond loopback"),
        ('[replica]\npeer = "ftp://x"', "", "write it like https://192.0.2.7:9474"),
        ('[replica]\npeer = "http://127.0.0.1:1"\npeer_token_file = "t"', "", "replica.peer_token_file: only with"),
        ('[replica]\npeer = "https://[::1]:1"\npeer_key = "t"', "", "only together"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(workbench: Workbench, extra: str, listen: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(workbench.config(extra, listen))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]", True),
        ("http://localhost:1", True),
        ("http://localhost.example", False),
        ("http://127.0.0.1@192.0.2.1/", False),
        ("http://[", False),
        ("http://0.0.0.0:1", False),
    ],
)
def test_loopback_urls(url: str, is_loopback: bool) -> None:
    assert is_loopback_url(url) is is_loopback


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        ("short", 0o600, "line 1: a token has 20 to 256"),
        ("", 0o600, "holds 0 tokens"),
        (f"{TOKEN}\n{TOKEN}\n{TOKEN}\n", 0o600, "holds 3 tokens"),
        (f"{TOKEN} x\n", 0o600, "line 1"),
        (f"{TOKEN}\nä{TOKEN}\n", 0o600, "line 2"),
        (TOKEN, 0o644, "everybody on this machine can read it: chmod o= "),
        ("x" * 5000, 0o600, "has more than 4096 bytes"),
        ("\xff" * 30, 0o600, "line 1"),
    ],
    ids=str,
)
def test_token_files_that_are_none_are_refused(site: Site, content: str, mode: int, told: str) -> None:
    site.token.write_text(content)
    site.token.chmod(mode)
    with pytest.raises(ConfigError) as error:
        read_secrets(read_config(site.config()))
    assert told in str(error.value)
    assert str(error.value).startswith(f"client[0].token_file: {site.token}: ")
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("file", ["token", "server.crt", "server.key", "ca.pem"])
def test_files_that_are_missing_or_folders_are_named(site: Site, file: str) -> None:
    config = read_config(site.config())
    (site.folder / file).unlink()
    with pytest.raises(ConfigError, match=f"{file}: No such file"):
        read_secrets(config)
    (site.folder / file).mkdir()
    with pytest.raises(ConfigError, match=f"{file}: Is a directory"):
        read_secrets(config)


def test_certificates_and_keys_that_do_not_fit_are_refused(site: Site) -> None:
    config = read_config(site.config())
    key, certificate = site.own.key.read_bytes(), site.own.certificate.read_bytes()
    site.own.key.write_bytes(site.client.key.read_bytes())
    with pytest.raises(ConfigError, match=r"http\.key: .* is not the key of "):
        read_secrets(config)
    site.own.key.write_bytes(certificate)
    with pytest.raises(ConfigError, match=r"http\.key: .* holds no private key"):
        read_secrets(config)
    site.own.key.write_bytes(key)
    site.own.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"http\.certificate: .* cannot be used"):
        read_secrets(config)
    site.own.certificate.write_bytes(certificate)
    site.own.key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"http\.key: .* chmod o= "):
        read_secrets(config)
    site.own.key.chmod(0o600)
    site.authority.file.write_bytes(b"\xff\0 rubbish")
    with pytest.raises(ConfigError, match=r"http\.client_ca: .* certificate in PEM form"):
        read_secrets(config)


def test_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(site: Site) -> None:
    command = ["openssl", "pkey", "-in", str(site.own.key), "-aes256", "-passout", "pass:secret", "-out"]
    subprocess.run([*command, str(site.folder / "locked.key")], check=True)
    write_secret(site.own.key, (site.folder / "locked.key").read_bytes())
    with pytest.raises(ConfigError, match="has a passphrase"):
        read_secrets(read_config(site.config()))


def test_deep_check_reads_every_file_and_tells_an_expired_certificate(site: Site) -> None:
    look_at_files(read_config(site.config()))
    site.authority.issue("server", days=(-9, -1))
    with pytest.raises(ConfigError, match="has expired"):
        look_at_files(read_config(site.config()))
    site.authority.issue("server")
    with pytest.raises(ConfigError, match=r"replica\.peer_ca: /nowhere: No such file"):
        look_at_files(read_config(site.config('[replica]\npeer = "https://[::1]:1"\npeer_ca = "/nowhere"\n')))


def test_without_https_no_secret_is_read(site: Site) -> None:
    site.token.unlink()
    assert read_secrets(read_config(site.config()), wanted=False).tls is None


def test_client_that_could_never_be_answered_over_https_is_told(site: Site) -> None:
    more = '[[client]]\nname = "switch"\nsources = ["192.0.2.0/24"]\n'
    told = [line for line in warnings(read_config(site.config(more))) if "over https" in line]
    assert told == ["client switch: has neither token_file nor certificate: over https it is refused"]


def test_expiry_is_of_the_first_certificate(site: Site) -> None:
    late = site.authority.issue("late", days=(-1, 300))
    site.own.certificate.write_bytes(site.own.certificate.read_bytes() + late.certificate.read_bytes())
    assert abs(expiry(late.certificate) - expiry(site.own.certificate) - 270 * 86_400) < 60
    with pytest.raises(ConfigError, match=r"http\.certificate: .* holds no certificate"):
        expiry(site.own.key)


def test_names_of_a_certificate() -> None:
    subject = ((("commonName", "a"),),)
    assert certificate_names(None) == certificate_names({}) == frozenset()
    assert certificate_names({"subject": subject}) == {"a"}
    assert certificate_names({"subject": subject, "subjectAltName": (("IP Address", "192.0.2.1"),)}) == {"a"}
    assert certificate_names({"subject": subject, "subjectAltName": (("DNS", "b"), ("DNS", "c"))}) == {"b", "c"}


def test_of_two_tokens_the_peer_is_shown_the_last(site: Site) -> None:
    write_secret(site.token, f"{TOKEN}\n{NEW_TOKEN}\n")
    replica = read_config(
        site.config(f'[replica]\npeer = "https://[::1]:1"\npeer_token_file = "{site.token}"\n')
    ).replica
    assert read_peer_keys(replica, replica.peer).headers == bearer(NEW_TOKEN)
    assert read_peer_keys(replica, "http://127.0.0.1:1").headers == {}


def test_metrics_are_made_anew_no_oftener_than_allowed() -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return b"%d" % len(made)

    scrapes = Scrapes(make)
    texts = [scrapes.text() for _ in range(10_000)]
    assert len(made) < 10_000 / HTTP_SCRAPES_PER_SECOND
    assert texts[-1] == b"%d" % len(made)
