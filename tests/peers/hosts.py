"""A host whose accounts come from the directory, whichever program asks for them: names, numbers, groups, logins."""

from __future__ import annotations

from dataclasses import dataclass

from tests.peers.machine import Machine

PAM_SERVICE = "office"


@dataclass(frozen=True)
class Host:
    """A host: ``source`` is its name service (``sss`` or ``ldap``), ``way`` where members of groups come from."""

    machine: Machine
    source: str
    way: str

    def names(self, database: str, key: str) -> list[str]:
        """The fields of one line of ``getent``; empty when there is none."""
        done = self.machine.run("getent", "-s", self.source, database, key)
        assert done.returncode in (0, 2), done.stderr  # 2: no such key
        return done.stdout.rstrip("\n").split(":") if done.returncode == 0 else []

    def members(self, group: str) -> set[str]:
        """Login names of the members of a group, by its name or number."""
        return set(self.names("group", group)[3].split(","))

    def listed(self, database: str) -> set[str]:
        """All names that ``getent`` lists."""
        done = self.machine.run("getent", "-s", self.source, database)
        assert done.returncode == 0, done.stderr
        return {line.split(":")[0] for line in done.stdout.splitlines()}

    def groups_of(self, user: str) -> set[str]:
        """Names of all groups that ``id`` knows for somebody."""
        done = self.machine.run("id", "-nG", user)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def login(self, user: str, password: str, *steps: str) -> bool:
        """Whether PAM lets somebody in: password and account check, or the ``steps`` of pamtester."""
        command = ["pamtester", PAM_SERVICE, user, *(steps or ("authenticate", "acct_mgmt"))]
        return self.machine.run(*command, stdin=f"{password}\n").returncode == 0
