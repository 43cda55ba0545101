"""docs/core.md names every stage, policy and option, with the defaults that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.policies import POLICY_TYPES
from core.stages import STORABLE

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "core.md").read_text()
KINDS: dict[str, Any] = {**STORABLE, **POLICY_TYPES}
PROSE = {"symbol_charset"}  # its default would break the table


def shown(option: msgspec.structs.FieldInfo) -> str:
    """A default as the page writes it."""
    if option.default is not msgspec.NODEFAULT:
        value = option.default
    elif option.default_factory is not msgspec.NODEFAULT:
        value = option.default_factory()
    else:
        return "**required**"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(value) or "[]"
    return str(value) if value != "" else '""'


@pytest.mark.parametrize("model", sorted(KINDS))
def test_every_option_is_documented(model: str) -> None:
    """A row for each type, with each option and its default, and no option that is not there."""
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{model}` |")]
    assert len(rows) == 1
    told = rows[0].rsplit(" | ", 1)[1].removesuffix(" |")
    found = {} if told == "–" else dict(re.findall(r"`(\w+)` (.*?)(?:; (?=`)|$)", told))
    expected = {option.encode_name: shown(option) for option in msgspec.structs.fields(KINDS[model].Options)}
    for name in PROSE & expected.keys():
        assert found.pop(name) and expected.pop(name)
    assert found == expected
