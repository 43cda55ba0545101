"""``docs/radius.md`` names every reason that a log line or metric can show, every policy word, every dictionary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


def test_no_reason_is_explained_that_is_gone() -> None:
    """The tables of reasons name nothing that the code does not say."""
    reasons = re.findall(r"^\| ((?:`[a-z_…]+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    named = {label for row in reasons for label in re.findall(r"`([a-z_]+)`", row)}
    settings = {label for label in named if label.startswith("x_")}
    fields = set(
        re.findall(r"\w+", "requestId client provider code identifier user result reason stage message auto yes no")
    )
    assert named - settings - fields <= labels()


@pytest.mark.parametrize("file", sorted(dictionary.FILE.parent.glob("*.dictionary")), ids=lambda file: file.stem)
def test_every_dictionary_is_named(file: Path) -> None:
    """RFCs by number, vendors by name."""
    name = file.stem
    number = name.removeprefix("rfc")
    covered = {"rfc2866", "rfc2867", "rfc2868"}  # within "RFC 2865 to 2869"
    assert name == "all" or name in covered or re.search(number, TEXT, re.IGNORECASE)
