"""Help in the reader's language: commands whose texts are translated when they are shown, and lines that wrap them.

What the texts are in another language is `i18n`'s. In English everything is as click does it.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import click

from lookupd import i18n
from lookupd.i18n import cells
from lookupd.i18n import translate as _

EXAMPLE_WORDS = ("Example:", "Examples:")
"""How a paragraph of examples begins; the commands after it are the same in every language."""

_NOT_WRAPPED = "\b"
"""click's mark of a paragraph that keeps its lines."""

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_TOKEN = re.compile(rf"[（「『]*(?:[^\s{_WIDE}]+|[{_WIDE}])[，。、；：！？）」』]*|\s+")
"""What stays on one line: a word, or one wide character; with the brackets before and the punctuation behind it."""

Command = TypeVar("Command", bound=click.Command)


class Commands(click.Group):
    """All commands of a program. Each is translated when it is looked up, so that a run pays for those it names."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Choose the language, then as click does."""
        i18n.begin()
        return super(Commands, translated(self)).main(*args, **extra)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command in the reader's language."""
        found = super().get_command(ctx, cmd_name)
        return None if found is None else translated(found)


class _Formatter(click.HelpFormatter):
    """Wraps by the cells of a terminal, of which a Chinese character takes two, and between any two of them."""

    def write_heading(self, heading: str) -> None:
        self.write(" " * self.current_indent + _("{heading}:").format(heading=heading) + "\n")

    def write_text(self, text: str) -> None:
        indent = " " * self.current_indent
        blocks = [_lines(paragraph, self.width - self.current_indent) for paragraph in text.split("\n\n")]
        self.write("\n\n".join("\n".join(indent + line for line in lines) for lines in blocks) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        rows = list(rows)
        first_column = min(max(cells(first) for first, second in rows), col_max) + col_spacing
        margin = " " * (self.current_indent + first_column)
        for first, second in rows:
            wrapped = _lines(second, max(self.width - len(margin), 10)) or [""]
            if cells(first) > first_column - col_spacing:
                self.write(f"{'':{self.current_indent}}{first}\n{margin}{wrapped[0]}\n")
            else:
                padded = first + " " * (first_column - cells(first))
                self.write(f"{'':{self.current_indent}}{padded}{wrapped[0]}".rstrip() + "\n")
            self.write("".join(f"{margin}{line}\n" for line in wrapped[1:]))


class _Context(click.Context):
    formatter_class = _Formatter


def translated(command: Command) -> Command:
    """A copy in the reader's language; in English the command itself."""
    if not i18n.is_translated():
        return command
    shown = copy.copy(command)
    shown._help_option = None  # click keeps --help's own words from the first time that it was shown
    shown.context_class = _Context
    shown.params = [_translated_option(param) if isinstance(param, click.Option) else param for param in command.params]
    shown.help = command.help and translate_text(command.help)
    shown.short_help = translate_text(command.short_help) if command.short_help else _first_sentence(shown.help or "")
    shown.epilog = command.epilog and translate_text(command.epilog)
    if isinstance(shown, click.Group) and not isinstance(shown, Commands):
        shown.commands = {name: translated(child) for name, child in shown.commands.items()}
    return shown


def _translated_option(option: click.Option) -> click.Option:
    shown = copy.copy(option)
    if option.help:
        shown.help = i18n.translate(option.help)
    return shown


def paragraphs(text: str) -> list[str]:
    """Of a docstring, as they are in the catalogue: one line each, but for examples, which begin with click's mark."""
    found = inspect.cleandoc(text).split("\n\n")
    return [part if part.startswith(_NOT_WRAPPED) else " ".join(part.split()) for part in found]


def translate_text(text: str) -> str:
    """Of several paragraphs. Of examples only the word is translated, in the same room: what is below stays aligned."""
    return "\n\n".join(
        _translate_examples(part) if part.startswith(_NOT_WRAPPED) else i18n.translate(part)
        for part in paragraphs(text)
    )


def _translate_examples(part: str) -> str:
    for word in EXAMPLE_WORDS:
        if part.startswith(f"{_NOT_WRAPPED}\n{word} "):
            in_our_words = i18n.translate(word)
            in_our_words += " " * (cells(word) - cells(in_our_words))
            return part.replace(word, in_our_words, 1)
    return part


def _first_sentence(text: str) -> str:
    return re.split(r"。|\n\n|\.(?:\s|$)", text, maxsplit=1)[0]


def _lines(text: str, width: int) -> list[str]:
    """Of one paragraph."""
    if text.startswith(_NOT_WRAPPED):
        return text.splitlines()[1:]
    lines = [""]
    for token in _TOKEN.findall(text):
        if cells(lines[-1]) + cells(token) > width and lines[-1]:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        if lines[-1] or not token.isspace():
            lines[-1] += token.replace("\n", " ")
    return [line.rstrip() for line in lines if line.strip()]
