"""Where systemd holds sockets for a daemon: written from the configuration, and read back from the unit's files.

What the daemon does with the sockets that it is given is not here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lookupd.errors import ConfigError
from lookupd.settings import Config, Endpoint

UNIT_FOLDERS: Final = tuple(
    Path(folder)
    for folder in ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system")
)
"""Where systemd looks for units (systemd.unit(5)); the first that has a file of a name wins."""

_LISTEN: Final = {"ListenDatagram": "udp", "ListenStream": "tcp"}
_UNIT_BYTES_MAX: Final = 65_536


def drop_in(config: Config) -> str:
    """The socket unit's addresses, as `listen.conf` in its `.d` folder. Raises ConfigError."""
    lines = [f"# The addresses of [listen], replica {config.replica.name}: made by `lookupd sockets`.", "[Socket]"]
    lines += [f"{setting}=" for setting in _LISTEN]  # what other files name goes: an empty value clears the list
    said = ""
    for dialect, endpoint in config.endpoints():
        if not endpoint.port:
            raise ConfigError(f"listen.{dialect}: {endpoint}: a port that the system chooses cannot be held: name one")
        if dialect != said:
            lines.append(f"# {dialect}")
            said = dialect
        lines.append(f"{'ListenDatagram' if endpoint.transport == 'udp' else 'ListenStream'}={_address(endpoint)}")
    if not said:
        raise ConfigError("listen: nothing is served: name at least one listener")
    return "\n".join(lines) + "\n"


def configured(config: Config) -> frozenset[str]:
    """`udp 127.0.0.1:4700` for each listener."""
    return frozenset(f"{endpoint.protocol} {_address(endpoint)}" for _, endpoint in config.endpoints())


def held(name: str, folders: Iterable[Path] = UNIT_FOLDERS) -> frozenset[str] | None:
    """The same of what lookupd@NAME.socket and its drop-ins name; None if there is no such unit. Raises OSError."""
    folders = tuple(folders)
    units = (f"lookupd@{name}.socket", "lookupd@.socket")
    unit = next((folder / file for file in units for folder in folders if (folder / file).is_file()), None)
    if unit is None:
        return None
    parts: dict[str, Path] = {}
    for folder in (folder / f"{file}.d" for folder in folders for file in units):
        for part in folder.glob("*.conf"):
            parts.setdefault(part.name, part)
    found: list[str] = []
    for path in (unit, *(parts[part] for part in sorted(parts))):
        _read(path, found)
    return frozenset(found)


def _read(path: Path, found: list[str]) -> None:
    """Add what a file names; an empty value takes all of it away, of both kinds, as in systemd.socket(5)."""
    with path.open("rb") as file:
        text = file.read(_UNIT_BYTES_MAX).decode("utf-8", "replace")
    for line in text.splitlines():
        setting, _, value = (part.strip() for part in line.partition("="))
        if setting not in _LISTEN:
            continue
        if value:
            found.append(f"{_LISTEN[setting]} {_in_form(value)}")
        else:
            found.clear()


def _address(endpoint: Endpoint) -> str:
    return str(endpoint).partition("://")[2]


def _in_form(value: str) -> str:
    """An address as we write it; what is none, such as a path or a bare port, stays as it is."""
    host, _, port = value.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return value
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
