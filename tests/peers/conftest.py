"""One suite for all tests with real peers that do not break it; every one of them is marked ``peer``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import peer_programs
from tests.peers import wifi as wifis
from tests.peers.office import Office, opened
from tests.peers.suite import Suite, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever is in this folder talks to a real peer."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peer)


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    """Core and LDAP daemon with the demo's people."""
    with running() as started:
        yield started


@pytest.fixture(scope="session")
def office() -> Iterator[Office]:
    """Core and LDAP daemon as configured programs meet them: more people, a certificate that can be checked."""
    with opened() as started:
        yield started


@pytest.fixture(scope="session")
def wifi() -> Iterator[wifis.Wifi]:
    """Core and RADIUS daemon as 802.1X meets them."""
    peer_programs.program("eapol_test")
    with wifis.opened() as started:
        yield started
