"""What runs here: the sockets that systemd holds, the daemon, the exchange."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from lookupd.doctor.check import Check, Subject
from lookupd.limits import DOCTOR_ANSWER_BYTES_MAX, DOCTOR_ASK_SECONDS
from lookupd.peer_keys import NO_KEYS, PeerKeys
from lookupd.settings import Config, parse_endpoint
from lookupd.socket_units import UNIT_FOLDERS, configured, held


def ask(url: str, keys: PeerKeys = NO_KEYS) -> tuple[int, bytes]:
    """Status and body of a GET, without a proxy, and without following anybody elsewhere. Raises OSError."""
    tls = [] if keys.context is None else [urllib.request.HTTPSHandler(context=keys.context)]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects(), *tls)
    opener.addheaders = list(keys.headers.items())
    try:
        with opener.open(url, timeout=DOCTOR_ASK_SECONDS) as reply:
            return reply.status, reply.read(DOCTOR_ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(DOCTOR_ANSWER_BYTES_MAX)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url}: no HTTP: {error!r:.100}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def look_at_sockets(subject: Subject) -> Iterator[Check]:
    """Whether systemd holds what the configuration names."""
    yield sockets(subject.config, subject.config_path, UNIT_FOLDERS)


def sockets(config: Config, config_path: Path, folders: Iterable[Path]) -> Check:
    """The instance is named as the file is."""
    name = config_path.stem
    found = held(name, folders)
    folder = f"/etc/systemd/system/lookupd@{name}.socket.d"
    way_out = (
        f"mkdir -p {folder}\nlookupd sockets --config {config_path} > {folder}/listen.conf\nsystemctl daemon-reload"
    )
    way_out += f"\nsystemctl restart lookupd@{name}.socket lookupd@{name}.service"
    if found is None:
        message = "no socket unit is installed: what arrives while the daemon restarts is lost"
        return Check("sockets", "warn", message, "install systemd/lookupd@.socket")
    if not found:
        message = f"lookupd@{name}.socket has no address: what arrives while the daemon restarts is lost"
        return Check("sockets", "warn", message, way_out)
    missing, surplus = sorted(configured(config) - found), sorted(found - configured(config))
    if missing or surplus:
        said = [f"lookupd@{name}.socket does not hold {', '.join(missing)}"] if missing else []
        said += [f"it holds {', '.join(surplus)}, where nothing is served"] if surplus else []
        return Check("sockets", "warn", "; ".join(said), way_out)
    return Check("sockets", "ok", f"lookupd@{name}.socket holds all {len(found)}")


def look_at_daemon(subject: Subject) -> Iterator[Check]:
    """Whether it says that it answers from data."""
    url = subject.config.local_http
    if url is None:
        message = "listen.http has no http:// on loopback: nothing on this machine can ask how it is without a key"
        if not subject.config.listen.http_urls:
            message = "listen.http is not set: nobody can ask how it is"
        yield Check("daemon", "warn", message, 'add "http://127.0.0.1:9474" to listen.http')
        return
    yield _ready("daemon", url, f"systemctl status lookupd@{subject.config_path.stem}")


def look_at_exchange(subject: Subject) -> Iterator[Check]:
    """The same of the loader, where it listens."""
    url = subject.config.sync.http
    if url is not None and parse_endpoint(url).transport == "https":
        yield Check("exchange", "ok", f"not asked: {url} wants a key")
    elif url is not None:
        yield _ready("exchange", url, f"systemctl status lookupd-sync@{subject.config_path.stem}")


def _ready(name: str, url: str, way_out: str) -> Check:
    try:
        status, body = ask(f"{url}/readyz")
    except OSError as error:
        return Check(name, "fail", f"no answer at {url}: {getattr(error, 'reason', error)}", way_out)
    said = one_line(body)
    if status == 403:
        return Check(name, "warn", f"{url} refuses us: {said}", "name 127.0.0.1 in a [[client]]'s sources")
    return Check(name, "ok", said) if status == 200 else Check(name, "fail", f"{url}: {said}", way_out)


def one_line(body: bytes) -> str:
    """What another program said, as far as a terminal may show it."""
    text = body[:200].decode("utf-8", "replace").strip()
    return "".join(char if char.isprintable() else " " for char in text) or "nothing"
