"""Log lines: their keys, their order, and what never appears in them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from common import logs
from common.errors import StartError


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged, at level info."""
    text = io.StringIO()
    logs.configure("info", stream=text)
    yield text
    logs.configure("info")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines as objects."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_keys_and_order(stream: io.StringIO) -> None:
    """``event timestamp level logger``, then the call's fields; the time is RFC 3339 in UTC."""
    logs.get_logger("part").bind(client="10.1.2.3").info("bound", took_ms=3)
    (line,) = lines(stream)
    assert list(line) == ["event", "timestamp", "level", "logger", "client", "took_ms"]
    assert (line["event"], line["level"], line["logger"], line["client"]) == ("bound", "info", "part", "10.1.2.3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])


@pytest.mark.parametrize(
    "key",
    ["password", "new_password", "token", "AUTHENTIK_TOKEN", "Authorization", "X-authentik-outpost-token", "cookie",
     "Set-Cookie", "shared_secret", "code", "otp", "private_key", "private_key_pem", "sid", "authentik_csrf"],
)  # fmt: skip
def test_secrets_are_masked_by_key(stream: io.StringIO, key: str) -> None:
    """On any level of nesting, in text and bytes."""
    log = logs.get_logger("part")
    log.info("one", **{key: "s3cr3t"})
    log.info("two", body={"inner": [{key: "s3cr3t"}]})
    log.info("three", **{key: b"s3cr3t"})
    assert "s3cr3t" not in stream.getvalue()
    assert stream.getvalue().count(logs.MASK) == 3


def test_what_only_looks_like_a_secret(stream: io.StringIO) -> None:
    """Result codes, absent values and switches are shown."""
    logs.get_logger("part").info("x", code=49, token=None, password_flow="reset", has_password=True, result_code=1)
    (line,) = lines(stream)
    assert (line["code"], line["token"], line["password_flow"]) == (49, None, "reset")
    assert (line["has_password"], line["result_code"]) == (True, 1)


def test_levels(stream: io.StringIO) -> None:
    """Lines below the level in force are not written; an unknown level is debug."""
    log = logs.get_logger("part")
    log.trace("t")
    log.debug("d")
    log.info("i")
    logs.set_level("ERROR")
    log.warning("w")
    log.error("e")
    assert logs.set_level("nonsense") is True
    assert logs.set_level("debug") is False
    log.trace("t2")
    log.debug("d2")
    logs.set_level("trace")
    log.trace("t3")
    assert [(line["event"], line["level"]) for line in lines(stream)] == [
        ("i", "info"),
        ("e", "error"),
        ("d2", "debug"),
        ("t3", "trace"),
    ]
    assert log.enabled("trace") is True


def test_a_level_that_is_off_renders_nothing(stream: io.StringIO) -> None:
    """The level is looked at before the fields are."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError("rendered")

    logs.get_logger("part").debug("x", value=Costly())
    assert stream.getvalue() == ""


def test_one_call_is_one_line(stream: io.StringIO) -> None:
    """Whatever a client sends cannot start a line of its own, in either format."""
    logs.get_logger("part").info("a\nb", name='x\n{"event":"forged"}\x1b[31m')
    logs.configure("info", debug=True, stream=stream)
    logs.get_logger("part").info("a\nb", name='x\n{"event":"forged"}\x1b[31m')
    assert stream.getvalue().count("\n") == 2
    assert "\x1b" not in stream.getvalue()


def test_long_and_foreign_values(stream: io.StringIO) -> None:
    """Texts are cut, bytes counted, deep structures ended, objects written as text."""
    deep: Any = "end"
    for _ in range(20):
        deep = [deep]
    logs.get_logger("part").info("x", filter="a" * 9000, raw=b"abc", deep=deep, error=StartError("no port"))
    (line,) = lines(stream)
    assert len(line["filter"]) == logs.MAX_TEXT + 1
    assert line["raw"] == "<3 bytes>"
    assert "end" not in json.dumps(line["deep"])
    assert line["error"] == "no port"


def test_exceptions_show_origin_not_values(stream: io.StringIO) -> None:
    """Type and place; the text only of errors that are known to carry no secret."""
    log = logs.get_logger("part")
    for error in (ValueError("s3cr3t"), StartError("port taken")):
        try:
            raise error
        except Exception:
            log.exception("failed")
    first, second = lines(stream)
    assert first["exception"][0] == "ValueError"
    assert "test_logs.py" in first["exception"][1]
    assert second["exception"][0] == "StartError: port taken"
    assert "s3cr3t" not in stream.getvalue()


def test_lines_of_libraries(stream: io.StringIO) -> None:
    """From warning on, in the same format."""
    logging.getLogger("aiohttp.server").warning("slow %s", "peer")
    logging.getLogger("aiohttp.server").info("chatter")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("slow peer", "warning", "aiohttp.server")


def test_text_format(stream: io.StringIO) -> None:
    """For people: one line, readable."""
    logs.configure("info", debug=True, stream=stream)
    logs.get_logger("part").warning("setting ignored", setting="x", token="s3cr3t")
    assert re.search(r"Z warning part: setting ignored setting=\"x\" token=\"\*\*\*\"\n", stream.getvalue())


def test_request_lines_read_like_others_and_are_written_together() -> None:
    """Same keys in the same order, long texts cut, nothing before ``write``."""
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    lines = logs.RequestLines("ldap")
    try:
        assert lines.add("search", {"client": "192.0.2.1", "took-ms": 0.5, "filter": "x" * (logs.MAX_TEXT + 1)})
        assert not lines.add("search", {"client": "192.0.2.2"})
        assert stream.getvalue() == ""
        lines.write()
        lines.write()
        first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    finally:
        logs.configure("info")
    assert list(first) == ["event", "timestamp", "level", "logger", "client", "took-ms", "filter"]
    assert len(first["filter"]) == logs.MAX_TEXT + 1
    assert (second["event"], second["level"], second["logger"]) == ("search", "info", "ldap")
