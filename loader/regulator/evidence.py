"""Files that people bring to the report: read whole, up to a bound."""

from __future__ import annotations

from pathlib import Path

from lookupd.errors import ConfigError


def read_bounded(option: str, file: Path, bytes_max: int) -> bytes:
    """Raises ConfigError, naming option, file and reason."""
    try:
        with file.open("rb") as opened:
            content = opened.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(f"{option} {file}: {error.strerror}") from None
    if len(content) > bytes_max:
        raise ConfigError(f"{option} {file}: longer than {bytes_max} bytes: it is another file")
    return content
