"""The number in a cell: what people and spreadsheets write, read without a guess.

Which network serves it is the resolver's business.
"""

from __future__ import annotations

import re

from lookupd.limits import BATCH_CELL_CHARS_MAX
from lookupd.numbering import Plan

_WIDE = {0xFF10 + digit: 0x30 + digit for digit in range(10)} | {
    ord(wide): plain for wide, plain in zip("＋－．（）　‐‑–−", "+-.() ----", strict=True)
}
_SEPARATORS = str.maketrans("", "", " -.()\u00a0\t")
_DIALLED = re.compile(r"\+?[0-9]+")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")
_DECIMAL = re.compile(r"[0-9]+\.0*")


class NotANumber(ValueError):
    """Why a cell holds no number, for its row's note."""


def read_cell(text: str, plan: Plan) -> str:
    """The E.164 digits. Raises NotANumber."""
    text = text.strip()
    if not text:
        raise NotANumber("empty")
    if len(text) > BATCH_CELL_CHARS_MAX:
        raise NotANumber(f"longer than {BATCH_CELL_CHARS_MAX} characters")
    text = text.translate(_WIDE).strip().removeprefix("'").strip()
    _refuse_spreadsheets(text)
    dialled = _drop_inner_trunk(text, plan).translate(_SEPARATORS)
    if not _DIALLED.fullmatch(dialled):
        raise NotANumber("not a number")
    digits = plan.digits(_international(dialled, plan))
    if digits is None:
        raise NotANumber("not an E.164 number")
    return digits


def _refuse_spreadsheets(text: str) -> None:
    """What a spreadsheet has made of a number cannot be undone."""
    if _SCIENTIFIC.fullmatch(text):
        raise NotANumber("a spreadsheet cut its digits: format the column as text")
    if _DECIMAL.fullmatch(text):
        raise NotANumber("a decimal number: format the column as text")


def _drop_inner_trunk(text: str, plan: Plan) -> str:
    """`+886 (0)912 345 678`: the zero in brackets is for those who dial within the country."""
    trunk = f"({plan.trunk_prefix})"
    return text.replace(trunk, "", 1) if plan.trunk_prefix and text.startswith(("+", "00")) else text


def _international(dialled: str, plan: Plan) -> str:
    """With `+` where an international prefix stands: 00, or 00 and a carrier's digit, before this country's code.

    Before another country's, 00 and 00 with a carrier's digit cannot be told from each other.
    """
    code = plan.country_code
    if dialled.startswith("00"):
        for prefix in ("00", dialled[:3]):
            if dialled.startswith(prefix + code):
                return "+" + dialled[len(prefix) :]
        raise NotANumber("an international prefix to another country: write + in its place")
    if dialled[0] not in "+0" and not dialled.startswith(code) and _lost_zero(dialled, plan):
        raise NotANumber(f"its leading {plan.trunk_prefix} is lost: format the column as text")
    return dialled


def _lost_zero(dialled: str, plan: Plan) -> bool:
    """Whether it is a number of the plan but for the trunk prefix: spreadsheets drop it."""
    if plan.trunk_prefix[:1] != "0":
        return False
    digits = plan.digits(plan.trunk_prefix + dialled)
    return digits is not None and bool(plan.kinds) and plan.kind_of(digits) is not None
