"""``docs/radius.md`` names every reason that a log line or metric can show, every setting, every dictionary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.setting_rows import EXTRAS
from outposts.radius import dictionary, refusals

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "radius.md").read_text()
NAMED = set(re.findall(r"`([a-z_…]+)`", TEXT))
SOURCES = sorted((ROOT / "outposts" / "radius").rglob("*.py"))
# What makes a label where it is written down: these calls, and the intake's returned reasons.
MAKERS = re.compile(
    r"\b(?:Drop|Silence|Ignore|Denied|PacketError|AttributesError|AnswerRefused|FragmentError|AvpError|Failed|_fail|_refuse|_end)"
    r'\(\s*(?:request,\s*)?"([a-z_]+)"'
)
RETURNED = re.compile(r'(?:return|else) "([a-z_]+)"')
# Reasons of PacketError that cannot come from a peer's packet: we would have built a wrong one.
OURS_ONLY = {"bad_authenticator"}


def labels() -> set[str]:
    """Every reason that the code states by name."""
    found = set(refusals.DENIED.values()) | {refusals.UNKNOWN_DENIAL, refusals.OVERLOAD, "core_error"}
    for path in SOURCES:
        if path.name.startswith(("radsec", "radius11", "das", "journal", "listed", "sessions_command")):
            continue  # other counters, with reasons of their own
        text = path.read_text()
        found |= set(MAKERS.findall(text))
        if path.name in ("intake.py", "auth.py") or path.parts[-2:] == ("eap", "tls.py"):
            found |= set(RETURNED.findall(text))
    return found


def test_every_reason_is_explained() -> None:
    """An operator who meets a label finds it in one of the two tables."""
    every = labels()
    assert len(every) > 60
    missing = {label for label in every if label not in NAMED and not label.startswith("eap_")} - OURS_ONLY
    assert not missing
    assert "eap_…" in NAMED


def rows_of_reasons() -> list[list[str]]:
    """The cells of each row in the two tables of reasons."""
    section = TEXT.partition("\n## What comes of a request\n")[2].partition("\n### Nobody gets in\n")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    return [[cell.strip() for cell in row] for row in rows]


def test_no_reason_is_explained_that_is_gone() -> None:
    """The tables of reasons name nothing that the code does not say."""
    assert {label for row in rows_of_reasons() for label in re.findall(r"`([a-z_]+)`", row[0])} <= labels()


def test_each_reason_says_when_it_comes_and_what_to_change() -> None:
    """Three cells, none of them empty."""
    assert [row for row in rows_of_reasons() if len(row) != 3 or not all(row)] == []


def test_every_setting_is_named() -> None:
    """By what it is called in the outpost's configuration, or in the environment."""
    rows = [row for row in EXTRAS if row.type in ("radius", "radsec")]
    assert len(rows) > 50
    assert [row.key for row in rows if row.key not in TEXT and row.variable not in TEXT] == []


@pytest.mark.parametrize("file", sorted(dictionary.FILE.parent.glob("*.dictionary")), ids=lambda file: file.stem)
def test_every_dictionary_is_named(file: Path) -> None:
    """RFCs by number, vendors by name."""
    name = file.stem
    number = name.removeprefix("rfc")
    covered = {"rfc2866", "rfc2867", "rfc2868"}  # within "RFC 2865 to 2869"
    assert name == "all" or name in covered or re.search(number, TEXT, re.IGNORECASE)
