"""`lookupd explain`: what each dialect would answer, for whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Workbench, run_cli

CONFIG = """
[enum]
apex = ["np.example", "e164.arpa"]
[[client]]
name = "first"
sources = ["192.0.2.1"]
[client.sip]
form = "prefix"
[[client]]
name = "second"
sources = ["192.0.2.2"]
[[client]]
name = "third"
sources = ["192.0.2.3"]
"""
LISTEN = 'enum = ["udp://127.0.0.1:0"]\nsip = ["udp://127.0.0.1:0"]'


def explained(workbench: Workbench, asked: str, *arguments: str, config: str = CONFIG) -> list[dict[str, Any]]:
    told = run_cli("lookupd.cli", "explain", asked, "--config", workbench.config(config, LISTEN), "--json", *arguments)
    assert told.returncode == 0, told.stderr
    found: list[dict[str, Any]] = json.loads(told.stdout)["dialects"]
    return found


def test_clients_that_are_answered_alike_stand_together(loaded: Workbench) -> None:
    first, others = explained(loaded, "0912345678")
    assert (first["clients"], others["clients"]) == (["first"], ["second", "third"])
    assert first["sip"] == {
        "status": "302 Moved Temporarily",
        "contact": "<sip:D0402886912345678;npdi@127.0.0.1;user=phone>",
    }
    assert others["sip"]["contact"] == "<sip:+886912345678;npdi;rn=+D0402@127.0.0.1;user=phone>"
    assert first["enum"] == others["enum"]
    assert [entry["name"] for entry in first["enum"]] == [
        "8.7.6.5.4.3.2.1.9.6.8.8.np.example.",
        "8.7.6.5.4.3.2.1.9.6.8.8.e164.arpa.",
    ]
    assert first["enum"][0]["records"] == ['100 10 "u" "E2U+pstn:tel" "!^(.*)$!tel:\\\\1;npdi;rn=+D0402!" .']
    assert "pdb" not in first, "it is not served"


def test_one_client_can_be_named(loaded: Workbench) -> None:
    (found,) = explained(loaded, "0912345678", "--client", "third")
    assert found["clients"] == ["third"]
    told = run_cli("lookupd.cli", "explain", "1", "--config", loaded.config(CONFIG, LISTEN), "--client", "fourth")
    assert (told.returncode, told.stderr) == (3, "error: client: there is no 'fourth'; known: first, second, third\n")


def test_store_alone_shows_every_dialect_as_by_default(loaded: Workbench) -> None:
    told = run_cli("lookupd.cli", "explain", "0912345678", "--store", loaded.store, "--json")
    (found,) = json.loads(told.stdout)["dialects"]
    assert found["pdb"] == {"code": "OK", "carrier_id": 102}
    assert [entry["code"] for entry in found["enum"]] == ["NOERROR"]
    assert found["sip"]["status"] == "302 Moved Temporarily"


@pytest.mark.parametrize(
    ("asked", "enum", "sip"),
    [
        ("886911111111", "NOERROR", "302 Moved Temporarily"),
        ("886930000000", "NXDOMAIN", "404 Not Found"),
        ("110", "NXDOMAIN", "484 Address Incomplete"),
        ("886223450000", "SERVFAIL", "500 Server Internal Error"),
        ("letters", None, "404 Not Found"),
        ("9" * 60, None, "404 Not Found"),
        ("é\r\nX: y", None, None),
    ],
)
def test_every_outcome_is_told(loaded: Workbench, asked: str, enum: str | None, sip: str | None) -> None:
    found = explained(loaded, asked)[0]
    assert [entry["code"] for entry in found["enum"]] == ([] if enum is None else [enum] * 2)
    if sip is not None:
        assert found["sip"]["status"] == sip
