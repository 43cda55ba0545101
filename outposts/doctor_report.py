"""What ``outposts doctor`` found: a ``Finding`` per check, in words for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MAX_TEXT = 400  # characters of one finding: what a core or a proxy answers goes on a line, not on pages
COLOURS = {"ok": "\x1b[32m", "warn": "\x1b[33m", "fail": "\x1b[31m"}
RESET = "\x1b[0m"


class State(StrEnum):
    """How a check ended. ``WARN``: it works, and somebody should know; ``FAIL``: it does not work, or will not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One check: its name, how it ended, what was found, and what to do about it, which names the setting."""

    check: str
    state: State
    found: str
    next: str = ""


@dataclass
class Report:
    """All findings, in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)

    def ok(self, check: str, found: str) -> None:
        """Something is as it should be."""
        self.findings.append(Finding(check, State.OK, plain(found)))

    def warn(self, check: str, found: str, next: str) -> None:
        """Something works but should be looked at."""
        self.findings.append(Finding(check, State.WARN, plain(found), plain(next)))

    def fail(self, check: str, found: str, next: str) -> None:
        """Something does not work."""
        self.findings.append(Finding(check, State.FAIL, plain(found), plain(next)))

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(finding.state is State.FAIL for finding in self.findings)


def plain(text: str) -> str:
    """One line without control characters, of bounded length: foreign text must not move the cursor of a terminal."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


def as_text(findings: Sequence[Finding], *, colour: bool) -> str:
    """One line per check, and a last one with the sums."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        word = f"{finding.state:<4}"
        if colour:
            word = COLOURS[finding.state] + word + RESET
        then = f" → {finding.next}" if finding.next else ""
        lines.append(f"{word}  {finding.check:<{width}}  {finding.found}{then}")
    counts = [f"{sum(finding.state is state for finding in findings)} {state}" for state in State]
    return "\n".join([*lines, ", ".join(counts)]) + "\n"


def as_json(findings: Sequence[Finding]) -> str:
    """The same for programs: an object with ``ok`` and ``checks``."""
    checks = [
        {"check": finding.check, "state": str(finding.state), "found": finding.found, "next": finding.next}
        for finding in findings
    ]
    good = all(finding.state is not State.FAIL for finding in findings)
    return json.dumps({"ok": good, "checks": checks}, indent=2, ensure_ascii=False) + "\n"
