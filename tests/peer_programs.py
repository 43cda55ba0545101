"""Where the real clients and servers are that tests talk to. ``scripts/install-peers`` installs them.

A missing one is a visible skip that names the line to type; with ``scripts/test --all`` it is a failure.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

PEERS = Path(__file__).resolve().parent.parent / ".peers"  # packages from PyPI that must not enter this environment


def missing(what: str) -> NoReturn:
    """Skip, or fail with ``--all``, because a peer is not installed."""
    _refuse(f"{what} is not installed; run scripts/install-peers")


def needs_root() -> None:
    """Skip, or fail with ``--all``, unless this is root: some servers start as nobody else."""
    if os.geteuid() != 0:
        _refuse("only root can start this peer")


def _refuse(message: str) -> NoReturn:
    if os.environ.get("OUTPOSTS_TEST_ALL") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str) -> str:
    """The path of a program, looked for in PATH and where Debian puts servers."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return found or missing(name)


def folder(name: str) -> Path:
    """The folder of a package from PyPI, for PYTHONPATH of a subprocess."""
    path = PEERS / name
    return path if (path / ".complete").exists() else missing(name)
