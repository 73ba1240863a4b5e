"""Batches of messages: bytes in, bytes out, by one of two engines that give the same bytes.

`python` (`batch`, `python`) defines what is right and is always there; `native` (the Rust crate in native/) is there
where the package was installed with Rust. A setting forces either; status, metrics and the start-up log say which.
"""

from __future__ import annotations

from typing import Literal

from lookupd.errors import ConfigError

EngineName = Literal["native", "python"]


def native_missing() -> str | None:
    """Why the native engine cannot be had; None if it can."""
    try:
        from lookupd import _native  # noqa: F401
    except ImportError as error:
        return f"the native engine is not installed ({error}): install again where Rust is"
    return None


def choose(udp: Literal["auto", "native", "python"]) -> EngineName:
    """The engine for a setting `engine.udp`. Raises ConfigError when the one that it demands is not there."""
    if udp == "python":
        return "python"
    missing = native_missing()
    if missing is None:
        return "native"
    if udp == "native":
        raise ConfigError(f'engine.udp = "native": {missing}, or set engine.udp = "auto"')
    return "python"
