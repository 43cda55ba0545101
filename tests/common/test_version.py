"""Who we say we are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common import version

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_the_project_s() -> None:
    """One number in two places."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == version.VERSION


def test_user_agent_and_build_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix the core looks for; a build hash that is never empty and never a core's."""
    monkeypatch.delenv("GIT_BUILD_HASH", raising=False)
    assert version.user_agent() == f"goauthentik.io/outpost/{version.VERSION}"
    assert version.build_hash() == version.OWN_BUILD
    monkeypatch.setenv("GIT_BUILD_HASH", "abc123")
    assert version.user_agent() == f"goauthentik.io/outpost/{version.VERSION}+abc123"
    assert version.version_text() == f"{version.VERSION}+abc123"
    assert version.build_hash() == "abc123"
    assert version.build_hash("given") == "given"
