"""E.164 numbers: read, check, name the kind, print. Knows countries only through the plan files.

Which network serves a number is the engine's business.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path

import msgspec

from lookupd.errors import ConfigError
from lookupd.limits import E164_DIGITS_MAX, NUMBER_CHARS_MAX, TN_DIGITS_MIN
from lookupd.model import TN, NetworkCode, RoutingNumber

TN_END = 10**E164_DIGITS_MAX
_TN = re.compile(rf"[1-9][0-9]{{{TN_DIGITS_MIN - 1},{E164_DIGITS_MAX - 1}}}")
_NETWORK_CODE = re.compile(r"[0-9A-Z]{1,8}")
_ROUTING_NUMBER = re.compile(r"[0-9A-F]{1,15}")
_COUNTRY_CODE = re.compile(r"[1-9][0-9]{0,2}")

# RFC 3966 section 3, the visual separators, and the blanks people type.
BLOCK_DIGITS = 3
"""The store keeps numbers, and the loader checks their kind, a thousand at a time."""

_SEPARATORS = str.maketrans("", "", " -.()\u00a0")


class Kind(msgspec.Struct, frozen=True):
    """A kind of number in a plan, such as mobile. prefixes and lengths are of the national number."""

    name: str
    portable: bool
    prefixes: tuple[str, ...]
    lengths: tuple[int, ...]


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"kinds": "kind"}):
    """A plan as its TOML file has it."""

    country_code: str
    trunk_prefix: str
    kinds: tuple[Kind, ...]


class Plan:
    """One country's numbering plan: reads what is dialled in it and names the kind of a number.

    A plan without kinds (a country without a file) takes every number of the country of 7 to 15 digits
    for one that can be ported.
    """

    GENERIC = Kind("number", True, ("",), tuple(range(1, E164_DIGITS_MAX)))
    GENERIC_DIGITS_MIN = 7

    def __init__(self, country_code: str, trunk_prefix: str = "", kinds: Iterable[Kind] = ()) -> None:
        if not _COUNTRY_CODE.fullmatch(country_code):
            raise ConfigError(f"plan.country_code {country_code!r}: 1 to 3 digits, no leading zero, such as 886")
        self.country_code = country_code
        self.trunk_prefix = trunk_prefix
        self.kinds = tuple(kinds)
        self._kinds_by_length = self._index()
        self._portable_digits_min = min((digits for digits, _, portable in self.heads() if portable), default=0)
        # Only a trunk prefix that starts with 0 can be told from the start of an E.164 number.
        self._reads_national = trunk_prefix[:1] == "0"

    def _index(self) -> dict[int, tuple[tuple[int, dict[str, Kind]], ...]]:
        """Digits of the whole number -> prefix length -> prefix -> kind, the longest prefixes first."""
        index: dict[int, dict[int, dict[str, Kind]]] = {}
        for kind in self.kinds or (self.GENERIC,):
            for length in kind.lengths:
                digits = len(self.country_code) + length
                if digits > E164_DIGITS_MAX or (not self.kinds and digits < self.GENERIC_DIGITS_MIN):
                    continue
                for prefix in kind.prefixes:
                    head = self.country_code + prefix
                    if len(head) + BLOCK_DIGITS > digits:
                        raise ConfigError(
                            f"kind {kind.name}: prefix {prefix} leaves fewer than {BLOCK_DIGITS} of {length} "
                            "digits: the kind of a number must hold for its whole thousand"
                        )
                    index.setdefault(digits, {}).setdefault(len(head), {})[head] = kind
        return {digits: tuple(sorted(heads.items(), reverse=True)) for digits, heads in index.items()}

    def heads(self) -> list[tuple[int, str, bool]]:
        """How `kind_of` tells numbers apart, longest first: digits of the whole number, how it starts, portable."""
        return [
            (digits, head, kind.portable)
            for digits, by_length in self._kinds_by_length.items()
            for _, kinds in by_length
            for head, kind in kinds.items()
        ]

    def digits(self, dialled: str) -> str | None:
        """The number's E.164 digits, or None if `dialled` is no such number.

        dialled: ASCII digits; a leading `+`, or the trunk prefix of a national number, may stand before
        them. No separators: `read_text` takes those.
        """
        if dialled[:1] == "+":
            dialled = dialled[1:]
        elif dialled[:1] == "0" and self._reads_national and dialled.startswith(self.trunk_prefix):
            dialled = self.country_code + dialled[len(self.trunk_prefix) :]
        # Fewer digits are a short code; a zero first, after `+` or in a plan without national form, is nothing.
        if TN_DIGITS_MIN <= len(dialled) <= E164_DIGITS_MAX and dialled.isascii() and dialled.isdigit():
            return dialled if dialled[0] != "0" else None
        return None

    def digits_in(self, context: str, dialled: str) -> str | None:
        """The same of a number that was dialled where all numbers begin with the digits `context` (RFC 3966 section
        5.1.5): its own stand behind those, but for this plan's trunk prefix, which switches leave in front of them.
        """
        if context == self.country_code and self._reads_national and dialled.startswith(self.trunk_prefix):
            return self.digits(dialled)
        return self.digits(f"+{context}{dialled}")

    def read(self, dialled: str) -> TN | None:
        """The number in E.164 form, or None; see `digits`."""
        digits = self.digits(dialled)
        return None if digits is None else TN(int(digits))

    def read_text(self, text: str) -> TN | None:
        """The same for what a person writes: `+886 912-345-678`, `(02) 2345-6789`."""
        if len(text) > NUMBER_CHARS_MAX:
            return None
        return self.read(strip_separators(text))

    def kind_of(self, digits: str) -> Kind | None:
        """The kind of a number of this country; None for a wrong length, or another country's."""
        for length, kinds in self._kinds_by_length.get(len(digits), ()):
            kind = kinds.get(digits[:length])
            if kind is not None:
                return kind
        return None

    def kind(self, tn: TN) -> Kind | None:
        """The same, of a number as the store knows it."""
        return self.kind_of(str(tn))

    def head_digits(self, digits: int) -> int:
        """How many of the first digits decide what a number of so many digits is: its kind, and whose plan's."""
        kinds = self._kinds_by_length.get(digits, ())
        return max(len(self.country_code), *(length for length, _ in kinds), 0)

    def continues(self, digits: str) -> bool:
        """Whether a number that can be ported, or one of another country, may begin with these digits and be longer."""
        for length, kinds in self._kinds_by_length.items():
            if length > len(digits):
                for _, heads in kinds:
                    if any(
                        kind.portable and (head.startswith(digits) or digits.startswith(head))
                        for head, kind in heads.items()
                    ):
                        return True
        return not self.covers(digits) and len(digits) < E164_DIGITS_MAX

    def is_incomplete(self, digits: str) -> bool:
        """Whether a number of this country is of no kind because it is shorter than any that can be ported."""
        return len(digits) < self._portable_digits_min and self.covers(digits) and self.kind_of(digits) is None

    def covers(self, digits: str) -> bool:
        """Whether the number starts with this plan's country code."""
        return digits.startswith(self.country_code)


def load_plan(country_code: str, file: Path | None = None) -> Plan:
    """The plan of a country: from `file`, else from the plans that come with us, else by length alone.

    Raises ConfigError when a file is named and cannot be used.
    """
    if file is None:
        if not _COUNTRY_CODE.fullmatch(country_code):
            return Plan(country_code)  # raises, with the reason
        return _built_in(country_code)
    try:
        plan = msgspec.toml.decode(file.read_bytes(), type=PlanFile)
    except OSError as error:
        raise ConfigError(f"plan.file {file}: {error.strerror}") from None
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"plan.file {file}: {error}") from None
    if plan.country_code != country_code:
        raise ConfigError(f"plan.file {file}: is for +{plan.country_code}, plan.country_code says {country_code}")
    try:
        return Plan(plan.country_code, plan.trunk_prefix, plan.kinds)
    except ConfigError as error:
        raise ConfigError(f"plan.file {file}: {error}") from None


@lru_cache
def _built_in(country_code: str) -> Plan:
    file = resources.files("lookupd.plans") / f"{country_code}.toml"
    if not file.is_file():
        return Plan(country_code)  # without a trunk prefix: countries differ, so only E.164 form is read
    plan = msgspec.toml.decode(file.read_bytes(), type=PlanFile)
    return Plan(plan.country_code, plan.trunk_prefix, plan.kinds)


def strip_separators(text: str) -> str:
    """What a person wrote, as it is dialled: blanks, hyphens, dots and brackets taken out."""
    return text.translate(_SEPARATORS)


def parse_tn(text: str) -> TN | None:
    """A number as feeds write it: 5 to 15 digits, no `+`, no leading zero; None otherwise."""
    return TN(int(text)) if _TN.fullmatch(text) else None


def parse_network_code(text: str) -> NetworkCode | None:
    """A network code: 1 to 8 of 0-9 A-Z; None otherwise."""
    return NetworkCode(text) if _NETWORK_CODE.fullmatch(text) else None


def parse_routing_number(text: str) -> RoutingNumber | None:
    """A routing number: 1 to 15 of 0-9 A-F; None otherwise."""
    return RoutingNumber(text) if _ROUTING_NUMBER.fullmatch(text) else None


def format_tn(tn: TN) -> str:
    """With the plus sign: `+886912345678`."""
    return f"+{tn}"


def mask_tn(tn: TN) -> str:
    """For logs: the last four digits hidden, `+88691234****` (personal data, NPR article 34)."""
    return f"+{tn // 10_000}****"
