"""The status page in a real browser, asked of real daemons."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from selenium.webdriver.common.keys import Keys

from lookupd.model import Vitals
from lookupd.store.portable import StoreState
from lookupd.units import format_time
from lookupd.web.page import POLICY
from tests.certificates import TOKEN, Authority, write_secret
from tests.conftest import NETWORKS, Workbench, free_port, halt, run_daemon
from tests.interop.browser import LAPTOP, PHONE, WALL, Browser, browse, needs_chromium
from tests.interop.page_site import EVERYTHING, Replica, both, load, make_pair

pytestmark = needs_chromium

MARKUP = "<img src=x onerror=window.ran=1>"
PORT = {"kind": "port", "tn": "886912345679", "recipient": "1402", "ref": "N-1"}

# Counts requests of the page's own that are under way at the same time.
COUNT_REQUESTS = """
let open = 0; window.mostOpen = 0; const asked = window.fetch;
window.fetch = async (...how) => {
  window.mostOpen = Math.max(window.mostOpen, open += 1);
  try { return await asked(...how); } finally { open -= 1; }
};
"""

# Every text's contrast with what is behind it, by WCAG; what is below 4.5 (3 where it is large), in words.
TOO_PALE = """
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
const bright = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
const behind = node => {
  for (; node; node = node.parentElement) {
    const found = rgb(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
};
const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement, words = walk.currentNode.data.trim();
  if (!words || !node.getClientRects().length || node.closest("noscript")) continue;
  const style = getComputedStyle(node), size = parseFloat(style.fontSize);
  const pair = [bright(rgb(style.color)), bright(behind(node))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < (size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5)) found.push([words, contrast]);
}
return found;
"""

# Whatever sticks out to the side; what scrolls in its own box may.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")].filter(node => !node.closest(".scrolls, .out-of-sight") &&
  node.getBoundingClientRect().right > width + 1).map(node => node.outerHTML.slice(0, 90));
"""

BOTTOM = (
    "return Math.max(...[...document.querySelectorAll('section')].map(each => each.getBoundingClientRect().bottom))"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A laptop whose user reads English."""
    with browse(tmp_path) as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[Replica]]:
    """Both serve and agree."""
    replicas = [load(replica) for replica in make_pair(tmp_path)]
    with both(replicas):
        yield replicas


@pytest.fixture
def single(tmp_path: Path) -> Replica:
    """Without a peer; it does not run yet."""
    return load(Replica(tmp_path / "a", "a", free_port(), None, EVERYTHING))


def cards(browser: Browser) -> list[str]:
    return [str(card.text) for card in browser.find(".replica")]


def ask(browser: Browser, number: str) -> None:
    browser["number"].clear()
    browser["number"].send_keys(number, Keys.ENTER)


def pale(browser: Browser) -> list[object]:
    """Texts without contrast, in the light and in the dark."""
    found: list[object] = []
    for scheme in ("light", "dark"):
        browser.prefer(color_scheme=scheme)
        found += browser.run(TOO_PALE)
    return found


# -- what it shows -----------------------------------------------------------------------------------------


def test_both_replicas_stand_on_the_page_and_the_browser_does_not_complain(
    browser: Browser, pair: list[Replica]
) -> None:
    browser.open(pair[0].url)
    browser.wait_for("Both have the same data.")
    browser.wait_for("Live", "live")
    ours, theirs = cards(browser)
    digest = pair[0].ask("v1/status")["replica"]["digest"]
    for card, name, title in ((ours, "a", "This replica"), (theirs, "b", "The other replica")):
        assert f"Digest\n{digest[:8]}, same on both\n" in card
        assert card.startswith(f"{name}\n{title}\nserves\n"), card
    browser.wait(lambda: len(browser.find("#notice-list tr")) == 3)
    asked = browser.run("return performance.getEntriesByType('resource').map(each => each.name)")
    assert {str(url).rpartition("/")[2] for url in asked} >= {"page.css", "page.js", "status", "feeds", "notices"}
    assert all(str(url).startswith(pair[0].url) for url in asked)
    assert browser.complaints() == []


def test_policy_is_kept_by_the_browser_and_its_complaints_are_seen(browser: Browser, single: Replica) -> None:
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Live", "live")
        browser.run(
            "const it = document.createElement('script'); it.textContent = 'window.ran = 1'; document.body.append(it)"
        )
        browser.run("document.body.setAttribute('style', 'color: red')")
        assert browser.run("return window.ran") is None
        browser.wait(lambda: sum("Content Security Policy" in words for words in browser.complaints()) == 2)


def test_files_tell_what_they_are_and_are_sent_once(single: Replica) -> None:
    with single.serving():
        for path, kind in (("", "text/html"), ("static/page.js", "text/javascript"), ("static/page.css", "text/css")):
            with urllib.request.urlopen(single.url + path, timeout=5) as reply:
                headers = reply.headers
            assert headers["Content-Type"] == f"{kind}; charset=utf-8"
            assert (headers["Content-Security-Policy"], headers["Cache-Control"]) == (POLICY, "no-cache")
            again = urllib.request.Request(single.url + path, headers={"If-None-Match": headers["ETag"]})
            with pytest.raises(urllib.error.HTTPError) as unchanged:
                urllib.request.urlopen(again, timeout=5)
            unchanged.value.close()
            assert unchanged.value.code == 304


def test_serial_grows_without_a_reload_after_a_delta(browser: Browser, pair: list[Replica]) -> None:
    browser.open(pair[0].url)
    browser.wait_for("Both have the same data.")
    browser.run("window.same = true")
    serial = pair[0].ask("v1/status")["replica"]["serial"]
    for replica in pair:
        replica.bench.delta(PORT, sequence=2)
    browser.wait(lambda: all(f"Serial\n{serial + 1}\n" in card for card in cards(browser)))
    browser.wait_for("+886912345679", "notice-list")
    row = browser.find("#notice-list tr")[0].text
    assert "port +886912345679 1401 1402 main 2" in row
    assert browser.run("return window.same")


def test_what_waits_is_drawn_against_its_limit(browser: Browser, single: Replica) -> None:
    started = time.time() - 2400
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    with single.serving(), single.syncing():
        single.deliver(9, {**PORT, "notified_at": moment})
        browser.open(single.url)
        browser.wait_for("does not move: a file is missing", "feeds")
        assert "docs/operations/gap.md" in browser.text("feeds")
        clocks = {clock.text.split("\n")[0]: clock for clock in browser.find(".clock[data-state]")}
        assert "left of 1 h" in clocks["port"].text
        assert clocks["port"].get_attribute("data-state") == "care"
        assert "nothing waits; limit 12 h" in clocks["return"].text
        used = float(browser.run("return document.querySelector('.clock .used').getAttribute('width')"))
        assert used == pytest.approx(1000 * (time.time() - started) / 3600, abs=20)


def test_peer_that_ends_is_shown_as_such(browser: Browser, tmp_path: Path) -> None:
    first, second = [load(replica) for replica in make_pair(tmp_path)]
    with first.serving():
        with second.serving():
            browser.open(first.url)
            browser.wait_for("Both have the same data.")
        browser.wait(lambda: "does not answer" in cards(browser)[1])
        assert "serves" in cards(browser)[0]
        assert browser.find(".replica")[1].get_attribute("data-state") == "bad"
        browser.wait(lambda: browser.driver.title.startswith("⚠"))


# -- a number ----------------------------------------------------------------------------------------------


def test_number_is_explained_by_the_keyboard_alone(browser: Browser, single: Replica) -> None:
    single.bench.delta(PORT, sequence=2)
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Live", "live")
        browser.tab_to("number")
        outline = (
            "const style = getComputedStyle(document.activeElement); return style.outlineStyle + style.outlineWidth"
        )
        assert browser.run(outline) == "solid3px"
        browser.press("0912345679", Keys.ENTER)
        browser.wait_for("ported", "answer")
        answer = browser.text("answer")
        assert "+886912345679 ported Beta Mobile rn D0402" in answer.replace("\n", " ")
        assert "1401 → 1402" in answer
        assert "N-1" in answer
        assert browser["answer"].get_attribute("aria-live") == "polite"
        browser.tab_to("explain")
        browser.tab_to("scrolls")  # the table can be scrolled by keys, too


def test_number_is_explained_as_it_was(browser: Browser, single: Replica) -> None:
    now = int(time.time())
    single.bench.snapshot(sequence=2, now=now - 7200)
    single.bench.delta(PORT, sequence=3, now=now - 60)
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Live", "live")
        local = "const at = new Date(arguments[0]); at.setMinutes(at.getMinutes() - at.getTimezoneOffset());"
        browser.run(
            f"{local} document.getElementById('moment').value = at.toISOString().slice(0, 19)", (now - 600) * 1000
        )
        ask(browser, "0912345679")
        browser.wait_for("Answered so from", "answer")
        assert "Alpha Telecom" in browser.text("answer")
        browser.run(f"{local} document.getElementById('moment').value = at.toISOString().slice(0, 19)", 86_400_000)
        browser["explain"].click()
        browser.wait(lambda: "Alpha" not in browser.text("answer"))
        assert "1970-01-0" in browser.text("answer")


STOP = {"kind": "restrict", "measure": "stop", "authority": "NPA", "case": "A-17"}


def test_restriction_is_told_with_the_answer_and_is_no_change_of_route(browser: Browser, single: Replica) -> None:
    now = int(time.time())
    span = {"from": format_time(now - 3600), "until": format_time(now + 86_400)}
    single.bench.delta(
        {**STOP, "tn": "886912345678", **span}, {**STOP, "imsi": "466011234567890"},
        {"kind": "lift", "tn": "886912345678", "authority": "NCC", "case": "1"}, sequence=2,
    )  # fmt: skip
    with single.serving():
        browser.open(single.url)
        browser.wait_for("refused by the rules", "notice-list")
        rows = browser.text("notice-list").splitlines()
        assert sum("restricted" in row for row in rows) == 2
        assert "IMSI" in browser.text("notice-list")
        assert "not ported" not in browser.text("notice-list")
        ask(browser, "0912345678")
        browser.wait_for("stopped until", "answer")
        assert "stopped in force NPA A-17" in browser.text("answer").replace("\n", " ")
        assert "→" not in browser.text("answer")


def test_whose_case_a_restriction_is_is_kept_from_who_may_not_see_the_past(browser: Browser, tmp_path: Path) -> None:
    replica = load(Replica(tmp_path / "a", "a", free_port(), None, ("query", "status")))
    replica.bench.delta({**STOP, "tn": "886912345678"}, {**STOP, "imsi": "466011234567890"}, sequence=2)
    with replica.serving():
        browser.open(replica.url)
        browser.wait_for("stopped", "notice-list")
        told = json.dumps(replica.ask("v1/notices"))
    assert not [word for word in ("886912345678", "466011234567890", "NPA", "A-17") if word in told]


def test_whatever_is_typed_gets_an_answer_in_words(browser: Browser, single: Replica) -> None:
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Live", "live")
        for typed in ("", "hello", "110", "💥/../%00", "9" * 40):
            browser.run("document.getElementById('answer').replaceChildren()")
            browser.run("document.getElementById('number').value = arguments[0]", typed)
            browser["explain"].click()
            browser.wait(lambda: bool(browser.text("answer")))
            assert "does not answer" not in browser.text("answer"), typed


# -- who says it -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer_that_says(state: StoreState) -> Iterator[int]:
    """Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = msgspec.json.encode(state)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_markup_from_anywhere_is_text_and_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    networks = NETWORKS.replace("Alpha Telecom", MARKUP).replace("Beta Mobile", MARKUP)
    outcomes = {MARKUP: 3, "ported": 4}
    state = StoreState(
        "b", 1, "0" * 16, 4, 3, {}, True, f"differs from a: {MARKUP}", 1.0, vitals=Vitals(1.0, outcomes=outcomes)
    )
    with peer_that_says(state) as port:
        replica = load(Replica(tmp_path / "a", "a", free_port(), port, EVERYTHING), networks)
        replica.bench.delta({**PORT, "ref": MARKUP}, sequence=2)
        with replica.serving():
            browser.open(replica.url)
            browser.wait(
                lambda: len(cards(browser)) == 2 and f"stands back: differs from a: {MARKUP}" in cards(browser)[1]
            )
            ask(browser, "0912345679")
            browser.wait(lambda: browser.text("answer").count(MARKUP) >= 2)  # the operator, and the reference
            ask(browser, MARKUP)
            browser.wait(lambda: "not a number" in browser.text("answer") or MARKUP in browser.text("answer"))
            assert browser.find("img, iframe, object, embed, [onerror], main script") == []
            assert browser.run("return window.ran") is None
            assert [words for words in browser.complaints() if "400" not in words] == []


def test_what_a_client_may_not_see_is_said_in_its_place(browser: Browser, tmp_path: Path) -> None:
    replica = load(Replica(tmp_path / "a", "a", free_port(), None, ("query",)))
    with replica.serving():
        browser.open(replica.url)
        for name in ("pair-words", "feeds-words", "notices-words"):
            browser.wait_for("This is not shown to this client.", name)
        browser.wait_for("Live", "live")
        ask(browser, "0912345678")
        browser.wait_for("The steps and the history are not shown to this client.", "answer")
        assert "Beta Mobile" in browser.text("answer")


def test_numbers_are_masked_for_who_may_not_see_the_past(browser: Browser, tmp_path: Path) -> None:
    replica = load(Replica(tmp_path / "a", "a", free_port(), None, ("query", "status")))
    replica.bench.delta(PORT, sequence=2)
    with replica.serving():
        browser.open(replica.url)
        browser.wait_for("+88691234****", "notice-list")
        assert "886912345679" not in browser.driver.page_source


def test_page_is_shown_over_https_to_who_has_the_token(tmp_path: Path) -> None:
    """As a screen on a wall asks, which nobody logs in to: name and password in its address."""
    bench, port = Workbench(tmp_path), free_port()
    bench.load_tables()
    bench.snapshot()
    server = Authority(tmp_path).issue("server")
    token = write_secret(tmp_path / "token", TOKEN)
    settings = (
        f'[http]\ncertificate = "{server.certificate}"\nkey = "{server.key}"\n'
        f'[[client]]\nname = "noc"\nsources = ["127.0.0.0/8"]\nmay = ["status"]\ntoken_file = "{token}"\n'
    )
    config = bench.config(settings, f'http = ["https://0.0.0.0:{port}"]')
    with run_daemon(config), browse(tmp_path, more=("--ignore-certificate-errors",)) as browser:
        browser.open(f"https://noc:{TOKEN}@127.0.0.1:{port}/")
        browser.wait_for("Live", "live")
        browser.wait(lambda: len(browser.find("#notice-list tr")) == 3)
        ask(browser, "0912345678")
        browser.wait_for("This is not shown to this client.", "answer")


# -- silence -----------------------------------------------------------------------------------------------


def test_page_says_that_the_daemon_is_gone_and_goes_on_when_it_is_back(browser: Browser, single: Replica) -> None:
    with single.serving() as process:
        browser.open(single.url)
        browser.wait_for("Live", "live")
        browser.wait(lambda: bool(cards(browser)))
        browser.run("window.same = true")
        process.kill()
        process.wait()
        browser.wait_for("No answer since", "live")
        browser.wait_for("what stands here is", "live-more")
        assert browser.run("return document.body.dataset.state") == "bad"
        assert "serves" in cards(browser)[0]  # as it was, and the frame says since when
        ask(browser, "0912345678")
        browser.wait_for("The daemon does not answer.", "answer")
    with single.serving():
        browser.wait_for("Live", "live")
        assert browser.run("return window.same")
        assert browser.run("return document.body.dataset.state") == "good"


def test_page_asks_one_thing_at_a_time_also_of_a_daemon_that_hangs(browser: Browser, single: Replica) -> None:
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNT_REQUESTS})
    with single.serving() as process:
        browser.open(single.url)
        browser.wait_for("Live", "live")
        halt(process)
        try:
            browser.wait_for("No answer since", "live")
        finally:
            process.send_signal(signal.SIGCONT)
        browser.wait_for("Live", "live")
        assert browser.run("return window.mostOpen") == 1


# -- languages, sizes, light -------------------------------------------------------------------------------


def test_language_is_switched_and_kept(browser: Browser, single: Replica) -> None:
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Feeds and their clocks")
        browser.choose("language", "zh-TW")
        browser.wait_for("資料源與時限")
        browser.wait_for("即時", "live")
        ask(browser, "0912345678")
        browser.wait_for("已攜碼", "answer")
        assert browser.run("return document.documentElement.lang") == "zh-Hant-TW"
        browser.open(single.url)
        browser.wait_for("資料源與時限")
        browser.open(f"{single.url}?lang=en")
        browser.wait_for("Feeds and their clocks")
        browser.choose("language", "zh-TW")
        browser.wait_for("資料源與時限")
        browser.choose("language", "en")
        browser.wait_for("Feeds and their clocks")
        assert browser.complaints() == []


def test_page_speaks_the_language_of_the_browser(tmp_path: Path, single: Replica) -> None:
    with single.serving(), browse(tmp_path, language="zh-TW") as browser:
        browser.open(single.url)
        browser.wait_for("資料源與時限")


def test_nothing_sticks_out_to_the_side(browser: Browser, pair: list[Replica]) -> None:
    pair[0].bench.delta({**PORT, "ref": "N" * 60}, sequence=2)
    for language in ("en", "zh-TW"):
        browser.open(f"{pair[0].url}?lang={language}")
        browser.wait(lambda: len(browser.find("#notice-list tr")) > 1 and len(cards(browser)) == 2)
        ask(browser, "0912345679")
        browser.wait(lambda: bool(browser.find("#answered")))
        for width in (320, PHONE[0], 768, LAPTOP[0], WALL[0], 3840):
            browser.resize(width, 844)
            assert browser.run(TOO_WIDE) == [], (language, width)
            assert browser.run("return document.documentElement.scrollWidth") <= width


def test_wall_is_not_scrolled(browser: Browser, pair: list[Replica]) -> None:
    for width, height in (WALL, (2560, 1440), (3840, 2160)):
        browser.resize(width, height)
        for language in ("en", "zh-TW"):
            browser.open(f"{pair[0].url}?lang={language}")
            browser.wait(lambda: len(browser.find("#notice-list tr")) > 1 and len(cards(browser)) == 2)
            ask(browser, "0912345678")
            browser.wait(lambda: bool(browser.find("#answered")))
            whole = "return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
            assert browser.run(whole) == [width, height]
            assert browser.run(BOTTOM) <= height


def test_every_text_can_be_read(browser: Browser, single: Replica) -> None:
    with single.serving() as process:
        browser.open(single.url)
        browser.wait(lambda: len(browser.find("#notice-list tr")) > 1)
        ask(browser, "0912345678")
        browser.wait(lambda: bool(browser.find("#answered")))
        assert pale(browser) == []
        process.kill()
        process.wait()
        browser.wait_for("No answer since", "live")
        assert pale(browser) == []


def test_each_control_has_a_name(browser: Browser, single: Replica) -> None:
    with single.serving():
        browser.open(single.url)
        browser.wait_for("Live", "live")
        tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [
        node for node in tree if node.get("role", {}).get("value") in {"button", "textbox", "combobox", "link", "Date"}
    ]
    assert len(controls) >= 5
    assert [json.dumps(node) for node in controls if not node.get("name", {}).get("value")] == []
