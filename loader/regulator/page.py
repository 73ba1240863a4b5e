"""The half-yearly report as a page to be filed: one HTML file in one language, with charts, for screen and paper.

It asks for nothing outside itself and runs no script. What comes from the store is escaped. The sections are
`page_sections`', charts and style files of their own.
"""

from __future__ import annotations

from html import escape

from loader.regulator import page_sections as sections
from loader.regulator.figures import HalfYear
from loader.regulator.page_style import CSS
from loader.regulator.words import Words, translator


def page(found: HalfYear, language: str) -> str:
    """language: `en` or `zh-TW`. Raises OSError if its catalogue cannot be read."""
    t = translator(language)
    words = Words(t)
    title = t("Number portability: half-yearly report {period}").format(period=found.period)
    parts = [
        sections.head(found, title, t),
        sections.summary(found, t, words),
        sections.missing(found, t),
        sections.moved(found, t, words),
        sections.notices(found, t, words),
        sections.times(found, t, words),
        sections.set_up_time(found, t, words),
        sections.availability(found, t, words),
        sections.accuracy(found, t, words),
        sections.trace(found, t, words),
        sections.signature(t),
    ]
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
