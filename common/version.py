"""Who we say we are: version, build hash, user agent (core-contract §3, §5.3)."""

from __future__ import annotations

import os

VERSION = "0.1.0"  # equal to pyproject.toml's; a test compares them
# Never empty: the core calls an outpost outdated when versions differ and the build hash equals its own, so ours must
# be one that no core has.
OWN_BUILD = "outposts"


def build_hash(given: str | None = None) -> str:
    """The build hash for the core and for metrics: ``GIT_BUILD_HASH``, else our own mark."""
    return given or os.environ.get("GIT_BUILD_HASH") or OWN_BUILD


def version_text() -> str:
    """Version and, if the build has one, its hash."""
    given = os.environ.get("GIT_BUILD_HASH", "")
    return f"{VERSION}+{given}" if given else VERSION


def user_agent() -> str:
    """``goauthentik.io/outpost/<version>[+hash]``: the core looks for this prefix."""
    return f"goauthentik.io/outpost/{version_text()}"
