"""Accounting through the real daemon with several workers, and a record that cannot be kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from outposts.radius.rfc import AcctStatusType, Code
from outposts.radius.wire import encode_request, verify_reply
from tests import daemons, factories
from tests.fakes import StubCore
from tests.radius.accounting_packets import SECRET, rows
from tests.radius.client import Nas


def account(daemon: daemons.Daemon, status: int, session: str) -> None:
    """A report from a port of its own, so that any worker may get it; it has to be answered."""
    octets = encode_request(Code.ACCOUNTING_REQUEST, 3, SECRET, rows(status, session, user_name="alice"), sign=False)
    with Nas(daemon, listener="accounting") as nas:
        nas.send(octets)
        assert verify_reply(nas.receive()[0], octets[4:20], SECRET).code == Code.ACCOUNTING_RESPONSE


def listed(daemon: daemons.Daemon, *arguments: str, **settings: str) -> list[dict[str, Any]]:
    """What ``outposts radius sessions`` says."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(daemons.ROOT),
        "TMPDIR": str(daemon.folder),
        **settings,
    }
    command = [sys.executable, "-m", "outposts", "radius", "sessions", "--json", *arguments]
    done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_several_workers_keep_one_record(tmp_path: Path) -> None:
    """Starts and ends that come to different workers; the list is right, a new daemon goes on with it."""
    with StubCore("radius") as core:
        core.providers["radius"] = [factories.radius_provider(7)]
        environment = daemons.outpost_environment(
            core.url,
            core.token,
            OUTPOSTS_LISTEN__ACCOUNTING="127.0.0.1:0",
            OUTPOSTS_STATE_DIR=str(tmp_path),
            OUTPOSTS_RADIUS__ACCOUNTING="true",
            OUTPOSTS_RADIUS__ACCOUNTING_RECORD="sqlite",
        )
        with daemons.running("radius", environment | {"OUTPOSTS_WORKERS": "2"}) as daemon:
            for number in range(8):
                account(daemon, AcctStatusType.START, f"s{number}")
            for number in range(4):
                account(daemon, AcctStatusType.STOP, f"s{number}")
            known = listed(daemon, OUTPOSTS_STATE_DIR=str(tmp_path))
            assert [one["session_id"] for one in known] == [f"s{number}" for number in range(4, 8)]
            assert len(listed(daemon, "--all", OUTPOSTS_STATE_DIR=str(tmp_path))) == 8
            assert daemon.stop() == 0
            assert not list(daemon.folder.glob("*.sock"))
        with daemons.running("radius", environment) as daemon:
            assert len(listed(daemon)) == 4
            account(daemon, AcctStatusType.ACCOUNTING_ON, "")
            assert listed(daemon) == []


def test_a_record_that_cannot_be_kept_is_said_and_nothing_is_answered() -> None:
    """Not ready, with the reason; logins go on all the same."""
    with StubCore("radius") as core:
        core.providers["radius"] = [factories.radius_provider(7)]
        environment = daemons.outpost_environment(
            core.url,
            core.token,
            OUTPOSTS_LISTEN__ACCOUNTING="127.0.0.1:0",
            OUTPOSTS_RADIUS__ACCOUNTING="true",
            OUTPOSTS_RADIUS__ACCOUNTING_RECORD="sqlite",
        )
        with daemons.running("radius", environment, until_ready=False) as daemon:
            status, body = daemon.get("/readyz")
            assert status == 503 and b"accounting_record=sqlite needs OUTPOSTS_STATE_DIR" in body
            octets = encode_request(Code.ACCOUNTING_REQUEST, 3, SECRET, rows(AcctStatusType.START, "s1"), sign=False)
            with Nas(daemon, listener="accounting") as nas:
                assert nas.silent(octets)
