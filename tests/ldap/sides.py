"""What the LDAP tests share: a daemon with the core behind it, and the names in the case table's directory."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests import daemons, factories
from tests.fakes import StubCore
from tests.ldap_client import Client
from tests.stub_flows import Executor, People

B = factories.BASE_DN
b = B.lower()


def user(name: str) -> str:
    """DN of a user whose name needs no escaping."""
    return f"cn={name},ou=users,{b}"


def group(name: str) -> str:
    """DN of a group."""
    return f"cn={name},ou=groups,{b}"


def virtual(name: str) -> str:
    """DN of a user's own group."""
    return f"cn={name},ou=virtual-groups,{b}"


def folded(dns: list[str]) -> list[str]:
    """Lower case and sorted."""
    return sorted(dn.lower() for dn in dns)


ALICE = user("alice")
CAROL = rf"cn=Carol\, X,ou=users,{b}"

USERS = [ALICE, user("bob"), CAROL, user("dave(1)*"), user("svc")]
GROUPS = [group("ga"), group("gb"), group("gc")]
VIRTUAL = [
    virtual("alice"),
    virtual("bob"),
    rf"cn=Carol\, X,ou=virtual-groups,{b}",
    virtual("dave(1)*"),
    virtual("svc"),
]
CONTAINERS = [f"ou=users,{b}", f"ou=groups,{b}", f"ou=virtual-groups,{b}"]


@dataclass
class Side:
    """A daemon and the core behind it."""

    core: StubCore
    daemon: daemons.Daemon
    mode: str

    def client(self, *, tls: bool = False) -> Client:
        """A new connection."""
        return Client(self.daemon.address("ldaps" if tls else "ldap"), tls=tls)

    @contextmanager
    def bound(self, username: str = "alice", password: str = "pw") -> Iterator[Client]:
        """A connection bound as a user."""
        with self.client() as client:
            escaped = username.replace(",", "\\,")
            answer = client.bind(f"cn={escaped},ou=users,{b}", password)
            assert answer.code == 0, answer
            yield client

    def reset(self) -> None:
        """Back to the directory and flows of the case table; what the daemon has cached stays cached."""
        core = self.core
        core.clear_faults()
        core.denied.clear()
        core.searchers = None
        core.people.passwords.clear()
        core.people.codes.clear()
        core.people.inactive.clear()
        core.executor.flows = Executor(People()).flows
        provider = core.providers["ldap"][0]
        core.load_conformance(search_mode=provider["search_mode"], bind_mode=provider["bind_mode"])
        core.forget()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 if it is not there."""
        text = self.daemon.get("/metrics")[1].decode()
        found = re.findall(rf"(?m)^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text)
        return sum(float(value) for value in found)

    def refresh(self) -> None:
        """Make the daemon read its configuration again and wait until it has taken effect."""
        before = self.metric("authentik_outpost_last_update")
        self.daemon.signal(signal.SIGUSR1)
        self.daemon.wait_for(
            lambda: self.metric("authentik_outpost_last_update") > before, 10.0, lambda: "refresh after SIGUSR1"
        )


def posts(side: Side) -> list[dict[str, object]]:
    """The answers that flows were given."""
    return [call.body for call in side.core.called("/flows/executor/", "POST")]


def bind_with_code(side: Side, sent: str, password: str, code: str) -> int:
    """Bind as dave, whose password and code are these; returns the result."""
    name = "dave(1)*"
    side.core.people.passwords[name] = password
    side.core.people.codes[name] = {code}
    with side.client() as client:
        return client.bind(user(name), sent).code


Starter = Callable[..., Side]


@contextmanager
def started(mode: str, settings: dict[str, str], provider: dict[str, Any]) -> Iterator[Side]:
    """A core with the case table's directory and a daemon in front of it."""
    with StubCore() as core:
        core.load_conformance(**({"search_mode": mode, "bind_mode": mode} | provider))
        environment = daemons.outpost_environment(core.url, core.token, **settings)
        with daemons.running("ldap", environment) as daemon:
            yield Side(core, daemon, mode)
