"""Each row of the case tables has a test with its number: R01 to R60 of RADIUS, C01 to C60 of the core contract.

``test_r14_r15_codes`` is a test of two rows, ``test_r35_to_r38_refused`` one of four. What holds for every daemon is
tested once, in ``tests/common``; rows that show at a daemon's own sockets are tested at each daemon too.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LAST = 60  # rows of either table
NUMBERED = re.compile(r"test((?:_(?:to_)?[a-z]\d\d)+)(?:_|$)")
# Rows of the contract that show in whole daemons: settings, health, signals, calls of a login, certificates.
AT_EACH_DAEMON = {1, 5, 11, 12, 13, 14, 16, 21, 24, 28, 29, 30, 31, 32, 33, 34, 35, 45, 50, 51, 57, 58, 59, 60}
AT = {"ldap": AT_EACH_DAEMON, "radius": AT_EACH_DAEMON | {8, 23, 36, 39, 40, 41, 42, 43, 44, 46, 52, 53, 54, 55}}


def rows_of(name: str) -> set[str]:
    """The rows that a test's name says: ``{"r35", "r36", "r37", "r38"}`` for ``test_r35_to_r38_…``."""
    found: set[str] = set()
    match = NUMBERED.match(name)
    last = ""
    for word in re.findall(r"_(to_)?([a-z]\d\d)", match[1]) if match else ():
        first = int(last[1:]) if word[0] else int(word[1][1:])
        found |= {f"{word[1][0]}{number:02d}" for number in range(first, int(word[1][1:]) + 1)}
        last = word[1]
    return found


def rows_below(*folders: str) -> set[str]:
    """The rows of all tests in these folders."""
    found: set[str] = set()
    for folder in folders:
        for path in (TESTS / folder).rglob("test_*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found |= rows_of(node.name)
    return found


def rows(letter: str) -> set[str]:
    """All rows of a table."""
    return {f"{letter}{number:02d}" for number in range(1, LAST + 1)}


def test_names_are_read_as_they_are_meant() -> None:
    """Single rows, several, ranges; other names have none."""
    assert rows_of("test_r01") == {"r01"}
    assert rows_of("test_r14_r15_codes") == {"r14", "r15"}
    assert rows_of("test_r35_to_r38_r40_refused") == {"r35", "r36", "r37", "r38", "r40"}
    assert rows_of("test_r1x_is_no_row") == rows_of("test_radius_r01") == rows_of("helper_r01") == set()


def test_every_row_of_radius_has_a_test() -> None:
    """R01 to R60, without real peers: those may not be installed."""
    assert not rows("r") - rows_below("radius")


def test_every_row_of_the_core_contract_has_a_test() -> None:
    """C01 to C60."""
    assert not rows("c") - rows_below("common", "core")


@pytest.mark.parametrize("daemon", list(AT))
def test_rows_that_show_at_a_daemon_are_tested_there(daemon: str) -> None:
    """With its own sockets and the calls that it makes."""
    assert not {f"c{number:02d}" for number in AT[daemon]} - rows_below(daemon)
