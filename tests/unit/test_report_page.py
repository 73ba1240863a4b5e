"""The half-yearly report's page: whole, escaped, honest, and in both languages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from loader.regulator import charts, half_year_pages
from loader.regulator.figures import HalfYear
from loader.regulator.half_year_pages import find_browser, write_pages
from loader.regulator.page import page
from loader.regulator.words import LANGUAGES, Words, translator
from lookupd.errors import LookupdError
from lookupd.i18n import REPORT_CONTEXT, context_messages
from tests.regulator_sample import empty, hostile, many, partial, sample

VOID = {"meta", "br", "rect", "line"}
ALL = {"full": sample(), "partial": partial(), "hostile": hostile(), "many": many(), "empty": empty()}


class Seen(HTMLParser):
    """Tags closed as they were opened, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def seen(found: HalfYear, language: str = "en") -> Seen:
    reader = Seen()
    reader.feed(page(found, language))
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("found", ALL.values(), ids=ALL)
def test_page_is_whole_and_asks_for_nothing(found: HalfYear, language: str) -> None:
    reader = seen(found, language)
    assert "script" not in reader.tags
    named = dict(reader.attributes)
    assert not {"src", "href", "onload", "onclick", "style"} & named.keys()
    assert "url(" not in page(found, language).replace("url(#hatch)", "")
    assert ("lang", language) in reader.attributes
    for svg in re.findall(r"<svg.*?</svg>", page(found, language), re.S):
        ET.fromstring(svg)


def test_every_figure_is_on_the_page() -> None:
    found = sample()
    text = " ".join(seen(found).text)
    for row in found.networks:
        assert all(f"{count:,}" in text for count in (row.ported_in, row.ported_out, row.returned))
        assert row.operator in text
    for word in (
        "27,081", "24,570", "0.073 %", "96.4 s", "0.412 ms", "1,234,567", "99.9987 %", "34.2 s", "99.9988 %",
        "99.1000 %", "january.csv", "543c9f9ded65e62d", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "23,112", "limit 1 h",
        "11.7 min",
    ):  # fmt: skip
        assert word in text, word
    assert found.trace is not None
    assert found.trace.sha256 in text


def test_tables_add_up() -> None:
    found = sample()
    text = page(found, "en")
    total = sum(row.ported_in for row in found.networks)
    by_month = re.findall(r"<td>2026-0\d</td><td class=n>([\d,]+)</td><td class=n>", text)
    assert sum(int(each.replace(",", "")) for each in by_month[:6]) == total


def test_what_comes_from_the_store_is_shown_as_text() -> None:
    reader = seen(hostile())
    text = " ".join(reader.text)
    assert '<script>alert("x")</script>' in text
    assert "\"'&<b>" in text
    assert "b" not in reader.tags


def test_what_is_missing_is_told_and_what_is_unknown_is_no_zero() -> None:
    text = " ".join(seen(partial()).text)
    assert "What is missing" in text
    assert "Prometheus tells nothing of 56 hours" in text
    nothing = " ".join(seen(empty()).text)
    assert nothing.count("not known") == 3
    assert "No samples were given." in nothing
    assert "The period is over, and nothing is missing." in " ".join(seen(sample()).text)


def test_what_is_missing_is_told_in_the_language_of_the_page() -> None:
    text = " ".join(seen(partial(), "zh-TW").text)
    assert "Prometheus 於此期間有 56 小時無資料" in text
    assert not [gap.reason for gap in partial().missing if gap.reason in text]


def test_networks_beyond_the_chart_are_in_the_table_and_summed() -> None:
    found = many()
    text = page(found, "en")
    for row in found.networks:
        assert row.operator in text
    assert "others" in text
    chart = re.findall(r"<svg.*?</svg>", text, re.S)[1]
    values = [int(each.replace(",", "")) for each in re.findall(r'text-anchor="start">([\d,]+)<', chart)]
    assert sum(values[::2]) == found.summary.ported_in
    assert len(values) == 26


def test_chinese_page_has_no_string_of_ours_left_in_english() -> None:
    known = context_messages("zh_TW", REPORT_CONTEXT)
    assert known
    assert all(any(ord(char) > 0x2E7F for char in text) for text in known.values())
    text = " ".join(seen(sample(), "zh-TW").text)
    left = set(re.findall(r"[A-Za-z]{3,}(?: [A-Za-z]+)+", text))
    assert left == {"Alpha Telecom", "loader journal", "serial N", "loader journal verify"}
    for word in ("移入", "移出", "移轉作業失敗率", "平均移轉作業時間", "受信平均額外呼叫建立時間"):
        assert word in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.000_412_5, "0.412 ms"),
        (0.0, "0 ms"),
        (1.0, "1 s"),
        (119.96, "120 s"),
        (3599, "60 min"),
        (3600, "1 h"),
        (5000, "1.4 h"),
        (12 * 3600, "12 h"),
        (30 * 86_400, "30 d"),
    ],
)
def test_times_are_told_in_the_unit_that_fits(seconds: float, told: str) -> None:
    assert Words(translator("en")).seconds(seconds) == told


def test_less_than_all_is_never_told_as_all() -> None:
    words = Words(translator("en"))
    assert (words.share(1.0), words.share(0.999_999_9), words.share(0.5)) == ("100.000 %", "99.999 %", "50.000 %")


@pytest.mark.parametrize("values", [[], [0], [0, 0], [1], [10**12, 1], [4, 5, 6]])
def test_charts_hold_any_values(values: list[int]) -> None:
    for svg in (
        charts.columns("x", [charts.Bar(str(value), value) for value in values]),
        charts.pairs("x", [("a<b", value, 0) for value in values]),
    ):
        root = ET.fromstring(svg)
        heights = [float(it.get("height", 0)) for it in root.iter("rect")]
        assert all(0 <= height <= 250 for height in heights)


def test_pages_are_files_and_a_missing_browser_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_pages(msgspec.structs.replace(sample(), network="1402"), tmp_path, browser=None)
    assert [path.name for path in written] == ["half-year-2026H1-1402.en.html", "half-year-2026H1-1402.zh-TW.html"]
    monkeypatch.setattr(half_year_pages, "BROWSERS", ("no-such-browser",))
    with pytest.raises(LookupdError, match="apt-get install chromium"):
        find_browser()
    with pytest.raises(LookupdError, match="printed no"):
        write_pages(sample(), tmp_path, browser="false")
