"""Languages: which one is chosen, what is translated and what not, and that the catalogues are what the code says."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import aiohttp
import click
import pytest
from click.testing import CliRunner

from loader.cli import cli as loader
from lookupd import i18n
from lookupd.cli import cli as lookupd
from lookupd.doctor import format_checks
from lookupd.doctor.check import Check
from lookupd.help import cells
from lookupd.i18n import choose_language, page_messages, read_messages
from tests.conftest import Served, Workbench, run_cli, serve

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "scripts" / "messages"
CATALOGUE = Path("lookupd/locale/zh_TW/LC_MESSAGES")
CHINESE = {"LC_ALL": "zh_TW.UTF-8", "LANGUAGE": ""}
ENGLISH = {"LC_ALL": "C.UTF-8", "LANGUAGE": ""}
PAGE = """
msgctxt "page"
msgid "no such text on the page"
msgstr "畫面上沒有的文字"
"""


@pytest.fixture(autouse=True)
def english_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The language is chosen for a process: other tests in this one expect English."""
    yield
    monkeypatch.undo()
    i18n._read.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_ALL", "C.UTF-8")
        i18n.begin()


def commands(name: str, command: click.Command) -> Iterator[tuple[str, ...]]:
    yield (name,)
    if isinstance(command, click.Group):
        for child, below in command.commands.items():
            for path in commands(child, below):
                yield (name, *path)


ALL_COMMANDS = [*commands("lookupd", lookupd), *commands("lookupd-loader", loader)]


def show_help(path: tuple[str, ...], environment: dict[str, str]) -> str:
    program = lookupd if path[0] == "lookupd" else loader
    done = CliRunner().invoke(program, [*path[1:], "--help"], prog_name=path[0], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, None),
        ({"LANG": "zh_TW.UTF-8"}, "zh_TW"),
        ({"LANG": "zh_TW.utf8"}, "zh_TW"),
        ({"LANG": "zh_TW"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8@radical"}, "zh_TW"),
        ({"LANG": "zh_TW.Big5"}, None),
        ({"LANG": "zh_TW.UTF-8", "LC_CTYPE": "zh_TW.Big5"}, None),
        ({"LANG": "zh_CN.UTF-8"}, None),
        ({"LANG": "de_DE.UTF-8"}, None),
        ({"LANG": "../../etc"}, None),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": "en_US.UTF-8"}, None),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": "C"}, None),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": ""}, "zh_TW"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_TW:en"}, "zh_TW"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "fr:zh_TW"}, "zh_TW"),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": "en:zh_TW"}, None),
        ({"LANG": "zh_TW.UTF-8", "LANGUAGE": ""}, "zh_TW"),
        ({"LC_ALL": "C", "LANGUAGE": "zh_TW"}, None),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_TW"}, None),
        ({"LANGUAGE": "zh_TW"}, None),
    ],
    ids=str,
)
def test_language_is_what_the_environment_asks_for(
    environment: dict[str, str], language: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert choose_language(environment) == language


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_help_of_every_command_is_chinese_where_it_is_asked_for(path: tuple[str, ...]) -> None:
    show_help(path, ENGLISH)
    shown = show_help(path, CHINESE)
    assert shown.startswith("用法：")
    assert "選項：" in shown
    assert "顯示本說明後結束。" in shown
    prose = re.sub(r"(?m)^  範例：(?s:.*?)(?=\n\n|\Z)", "", shown.partition("\n\n")[2])
    assert not re.search(r"[A-Za-z]{2,} (the|and|of|is|with|a) [a-z]{2,}", prose), prose
    assert all(cells(line) <= 80 or line.isascii() for line in prose.splitlines()), prose
    assert not re.search(r"(?m)^\s*[，。、；：）」]", prose), prose


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_english_help_is_the_same_after_another_language_was_spoken(path: tuple[str, ...]) -> None:
    before = show_help(path, ENGLISH)
    assert before.startswith("Usage: ")
    assert "Show this message and exit." in before
    show_help(path, CHINESE)
    assert show_help(path, ENGLISH) == before


def test_examples_keep_their_commands_and_their_columns() -> None:
    english, chinese = show_help(("lookupd", "query"), ENGLISH), show_help(("lookupd", "query"), CHINESE)
    examples = [line for line in english.splitlines() if "lookupd query 0912345678" in line]
    assert len(examples) == 4
    for line in examples:
        assert line.replace("Examples:", "範例：   ") in chinese.splitlines()


def test_words_of_click_are_chinese_and_what_they_name_is_not() -> None:
    done = run_cli("lookupd.cli", "query", "--colour", "0912345678", env=os.environ | CHINESE)
    assert done.returncode == 2
    assert "錯誤：沒有 '--colour' 這個選項。" in done.stderr
    assert "--help" in done.stderr


def test_error_stays_english_but_for_the_word(tmp_path: Path) -> None:
    for module, arguments in (("lookupd.cli", ["status"]), ("loader.cli", ["verify"])):
        english, chinese = (
            run_cli(module, *arguments, "--store", tmp_path / "none", env=os.environ | environment)
            for environment in (ENGLISH, CHINESE)
        )
        assert english.returncode == chinese.returncode == 1
        assert english.stderr.startswith("error: ")
        assert chinese.stderr == "錯誤：" + english.stderr.removeprefix("error: ")


@pytest.mark.parametrize(
    "environment",
    [CHINESE | {"PYTHONIOENCODING": "ascii"}, CHINESE | {"PYTHONIOENCODING": "big5"}, {"LC_ALL": "zh_TW.Big5"}],
    ids=str,
)
def test_terminal_that_cannot_show_chinese_is_told_in_english(environment: dict[str, str]) -> None:
    for arguments in (["query", "--help"], ["nothing"]):
        done = run_cli("lookupd.cli", *arguments, env=os.environ | environment)
        assert "Usage: " in done.stdout + done.stderr
        assert (done.stdout + done.stderr).isascii()
        assert "Traceback" not in done.stderr


def catalogue_bytes() -> bytes:
    return (ROOT / CATALOGUE / "lookupd.mo").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "empty", "header", "cut", "garbage", "encoding", "offsets"])
def test_broken_catalogue_is_as_if_there_were_none(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = catalogue_bytes()
    folder = tmp_path / "zh_TW" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    broken = {
        "empty": b"",
        "header": whole[:20],
        "cut": whole[: len(whole) // 2],
        "garbage": b"\xff" * 4096,
        "encoding": whole.replace("號".encode(), b"\xff\xff\xff"),
        "offsets": whole[:12] + b"\xff\xff\xff\x7f" * 2 + whole[20:],
    }
    if damage in broken:
        (folder / "lookupd.mo").write_bytes(broken[damage])
    monkeypatch.setattr(i18n, "LOCALES", tmp_path)
    i18n._read.cache_clear()
    assert show_help(("lookupd", "query"), CHINESE) == show_help(("lookupd", "query"), ENGLISH)
    with pytest.raises(OSError, match=r"lookupd\.mo"):
        page_messages("zh_TW")


def test_english_run_reads_no_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(i18n, "_read", None)
    assert show_help(("lookupd", "query"), ENGLISH).startswith("Usage: ")


def test_status_has_chinese_labels_and_the_same_values(loaded: Workbench) -> None:
    english, chinese = (
        run_cli("lookupd.cli", "status", "--store", loaded.store, env=os.environ | environment).stdout
        for environment in (ENGLISH, CHINESE)
    )
    assert re.search(r"(?m)^numbers  4 ported in 3 blocks, 0 changes waiting$", english), english
    assert re.search(r"(?m)^號碼    已攜碼 4 個，共 3 個區塊；0 筆異動待生效$", chinese), chinese
    assert {cells(label) for label in re.findall(r"(?m)^\S+ +", chinese)} == {8}, chinese
    digest = re.search(r"digest (\S+)", english)
    assert digest is not None
    assert digest[1] in chinese


def test_what_scripts_read_is_the_same_in_every_language(loaded: Workbench) -> None:
    store = str(loaded.store)
    for arguments in (
        ["status", "--store", store, "--json"],
        ["query", "0912345678", "--store", store],
        ["query", "0912345678", "--store", store, "--json"],
        ["explain", "0912345678", "--store", store],
    ):
        english, chinese = (
            run_cli("lookupd.cli", *arguments, env=os.environ | environment) for environment in (ENGLISH, CHINESE)
        )
        assert english.returncode == chinese.returncode == 0, chinese.stderr
        hide_age = re.compile(r'(age(_seconds)?"?[=:] ?)\d+')
        assert hide_age.sub(r"\1", english.stdout) == hide_age.sub(r"\1", chinese.stdout)


def test_doctor_says_its_verdicts_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("clock", "ok", "in step"), Check("daemon", "fail", "no answer", "start it")]
    assert format_checks(checks)[-1] == "1 ok, 0 warn, 1 fail"
    monkeypatch.setenv("LC_ALL", "zh_TW.UTF-8")
    monkeypatch.setattr(i18n, "choose_language", lambda: "zh_TW")
    i18n.begin()
    assert format_checks(checks) == [
        "正常 clock: in step",
        "不符 daemon: no answer",
        "     -> start it",
        "正常 1 項，注意 0 項，不符 1 項",
    ]


def url_of(served: Served) -> str:
    return f"http://127.0.0.1:{served.port('http', 'http')}"


async def test_page_is_given_its_strings_and_no_others(
    loaded: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locale" / "zh_TW" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    source = (ROOT / CATALOGUE / "lookupd.po").read_text() + PAGE
    subprocess.run(["msgfmt", "-o", folder / "lookupd.mo", "-"], input=source, text=True, check=True)
    monkeypatch.setattr(i18n, "LOCALES", tmp_path / "locale")
    async with serve(loaded.config()) as served, aiohttp.ClientSession(url_of(served)) as session:
        async with session.get("/messages/zh-TW.json") as reply:
            assert reply.status == 200
            assert reply.content_type == "application/json"
            strings, tag = await reply.json(), reply.headers["ETag"]
        assert strings["no such text on the page"] == "畫面上沒有的文字"
        assert strings["Replicas"] == "複本"
        assert "Usage:" not in strings
        assert "" not in strings
        async with session.get("/messages/zh-TW.json", headers={"If-None-Match": tag}) as reply:
            assert (reply.status, await reply.read(), reply.headers["ETag"]) == (304, b"", tag)
        async with session.get("/messages/zh-TW.json", headers={"If-None-Match": '"other"'}) as reply:
            assert reply.status == 200
        async with session.get("/messages/en.json") as reply:
            assert await reply.json() == {}
        for language, status in (("fr", 404), ("zh_TW", 404), ("..%2Flookupd", 400), ("%00", 400), ("x" * 1000, 404)):
            async with session.get(f"/messages/{language}.json") as reply:
                assert reply.status == status, language


async def test_daemon_with_a_broken_catalogue_serves_an_english_page(
    loaded: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(i18n, "LOCALES", tmp_path)
    async with (
        serve(loaded.config()) as served,
        aiohttp.ClientSession(url_of(served)) as session,
        session.get("/messages/zh-TW.json") as reply,
    ):
        assert await reply.json() == {}
    assert "catalogue_unreadable language=zh_TW" in capfd.readouterr().err


def tool_as_module() -> ModuleType:
    spec = spec_from_loader("messages_tool", SourceFileLoader("messages_tool", str(TOOL)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_catalogues_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, TOOL, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("new text in the code", "is not what the code says"),
        ("option's help changed", "is not what the code says"),
        ("no translation", "lacks"),
        ("only guessed", "lacks"),
        ("other placeholder", "argument"),
        ("not compiled", "is not compiled from it"),
        ("not merged", "is not merged"),
    ],
)
def test_check_finds(what: str, said: str, tmp_path: Path) -> None:
    for part in ("lookupd", "loader", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__", "_native*.so")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    po = tmp_path / CATALOGUE / "lookupd.po"
    tool = [sys.executable, str(tmp_path / "scripts/messages")]
    bytes_line = 'msgid "{bytes} bytes"\n'
    match what:
        case "new text in the code":
            append(tmp_path / "lookupd/status.py", '\n_("a text that nobody has translated")\n')
        case "option's help changed":
            replace(tmp_path / "lookupd/cli.py", "Seconds between two looks.", "Seconds from look to look.")
        case "no translation":
            replace(po, 'msgstr "資料庫"', 'msgstr ""')
            subprocess.run([*tool, "compile"], check=True)
        case "only guessed":
            replace(po, 'msgid "store"', '#, fuzzy\nmsgid "store"')
            subprocess.run([*tool, "compile"], check=True)
        case "other placeholder":
            replace(po, bytes_line + 'msgstr "{bytes}', bytes_line + 'msgstr "{byte}')
        case "not compiled":
            replace(po, 'msgstr "資料庫"', 'msgstr "庫"')
        case "not merged":
            append(po, '\nmsgid "a text that is gone"\nmsgstr "沒有了"\n')
            subprocess.run([*tool, "compile"], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*tool, "check"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert said in done.stderr


def test_new_text_is_printed_and_filled_in_from_the_printout(tmp_path: Path) -> None:
    for part in ("lookupd", "loader", "scripts"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "_native*.so"))
    tool = [sys.executable, str(tmp_path / "scripts/messages")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    append(tmp_path / "lookupd/status.py", '\n_("a text that nobody has translated")\n')
    printed = subprocess.run([*tool, "update"], capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.count("msgid ") == 2  # its header, and the new one
    new = tmp_path / "new.po"
    printed = printed.replace('translated"\nmsgstr ""', 'translated"\nmsgstr "還沒翻譯的文字"')
    new.write_text(printed.replace('"Plural-Forms: nplurals=1; plural=0;\\n"\n', ""))  # an editor left it out
    subprocess.run([*tool, "fill", str(new)], capture_output=True, check=True, env=environment)
    subprocess.run([*tool, "check"], check=True, env=environment)
    messages = read_messages(tmp_path / CATALOGUE / "lookupd.mo")
    assert messages["a text that nobody has translated"] == "還沒翻譯的文字"


def test_texts_of_the_page_are_found(tmp_path: Path) -> None:
    tool = tool_as_module()
    tool.ROOT = tmp_path
    html, script = tmp_path / "index.html", tmp_path / "page.js"
    html.write_text(
        '<h1 data-t>Two\n  replicas</h1><p>not this</p><b data-t="by value">shown</b>'
        '<input data-t-placeholder placeholder="a number"><img data-t-alt="a picture">'
    )
    script.write_text('cell.textContent = t("lost for {n} s", {n}); t(\'it\\\'s "so"\'); at("no"); x.t("no"); t(name);')
    found = tool.Catalogue()
    tool.of_html(found, html)
    tool.of_script(found, script)
    assert {context for context, _, _ in found} == {"page"}
    texts = {text for _, text, _ in found}
    assert texts == {"Two replicas", "by value", "a number", "a picture", "lost for {n} s", 'it\'s "so"'}
    assert '#, python-brace-format\nmsgctxt "page"\nmsgid "lost for {n} s"' in tool.pot(found)


def test_translations_are_in_traditional_characters_with_full_width_marks() -> None:
    for text in read_messages(ROOT / CATALOGUE / "lookupd.mo").values():
        text.encode("cp950")  # Taiwan's own encoding has no simplified ones
        assert not re.search(r"[\u4e00-\u9fff][,;:!?]", text), text
        assert not re.search(r"[\u4e00-\u9fff]\(|\)[\u4e00-\u9fff]", text), text


def test_error_in_json_is_english(loaded: Workbench) -> None:
    done = run_cli("lookupd.cli", "status", "--store", loaded.folder / "none", "--json", env=os.environ | CHINESE)
    told = json.loads(done.stdout)
    assert told["result"] == "failed"
    assert told["error"].isascii()
