"""What the commands share: options, and how an error is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from lookupd.errors import LookupdError
from lookupd.i18n import translate as _

PATH = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, one object a line.")


def carry_out(as_json: bool, work: Callable[[], None]) -> None:
    """Do it, and turn an error of ours into one message and the exit code of the design."""
    try:
        work()
    except LookupdError as error:
        if as_json:
            click.echo(json.dumps({"result": "failed", "error": str(error), "exit_code": error.exit_code}))
        click.echo(_("error: {message}").format(message=error), err=True)
        sys.exit(error.exit_code)
