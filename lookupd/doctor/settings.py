"""The configuration deserves no second look, and the engine that it wants is here."""

from __future__ import annotations

from collections.abc import Iterator

from lookupd import fastpath
from lookupd.doctor.check import Check, Subject
from lookupd.errors import ConfigError
from lookupd.second_look import warnings


def look(subject: Subject) -> Iterator[Check]:
    """Both."""
    found = [warning for warning in warnings(subject.config) if not warning.startswith("feed.")]  # those are `feeds`'s
    for warning in found:
        yield Check("configuration", "warn", warning, f"see {subject.config_path}")
    if not found:
        yield Check("configuration", "ok", f"{subject.config_path} is usable")
    yield _engine(subject)


def _engine(subject: Subject) -> Check:
    try:
        name = fastpath.choose(subject.config.engine.udp)
    except ConfigError as error:
        return Check("engine", "fail", str(error), "install again where Rust is")
    if name == "python" and subject.config.engine.udp == "auto":
        reason = fastpath.native_missing() or ""
        return Check(
            "engine", "warn", f"UDP is served by the Python path, on one core: {reason}", "see `lookupd engine`"
        )
    return Check("engine", "ok", f"UDP is served by the {name} engine")
