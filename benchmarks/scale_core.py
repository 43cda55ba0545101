"""A core whose users and groups are made when a page of them is asked for: a million of them take no memory here.

Beside the lists it does what ``tests.fakes.StubCore`` does; the one user who can log in is ``search``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from aiohttp import web

from benchmarks import ldap_data
from tests import factories
from tests.fakes import StubCore
from tests.stub_lists import page_of

PASSWORD = "bench-pw"
JSON = dict[str, Any]


class Made(Sequence[JSON]):
    """``count`` items, each made by ``make(index)`` whenever it is looked at."""

    def __init__(self, count: int, make: Callable[[int], JSON]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> JSON: ...
    @overload
    def __getitem__(self, index: slice) -> list[JSON]: ...
    def __getitem__(self, index: int | slice) -> JSON | list[JSON]:
        """One item, or a list of them."""
        if isinstance(index, slice):
            return [self._make(place) for place in range(*index.indices(self._count))]
        return self._make(index)


class ScaleCore(StubCore):
    """``revision`` n > 0: every hundredth user is in its n-th revision."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.revision = 0
        self.searcher = factories.user(count + 1, "search")
        self.users = [self.searcher]
        self.people.passwords = {"search": PASSWORD}
        self.providers["ldap"] = [factories.ldap_provider(search_mode="cached", bind_mode="cached")]
        self.outpost["config"]["log_level"] = "warning"  # no line per request
        self.made_users = Made(count + 1, self._user)
        self.made_groups = Made(ldap_data.group_count(count), self._group)

    def _user(self, place: int) -> JSON:
        number = place + 1
        if number > self.count:
            return self.searcher
        return dict(ldap_data.user(number, self.count, self.revision if number % 100 == 0 else 0))

    def _group(self, place: int) -> JSON:
        return ldap_data.group(place, self.count)

    def _bearer(self, request: web.Request, path: str) -> JSON:
        query = list(request.query.items())
        if path == "/core/users/":
            return page_of(self.made_users, query)  # type: ignore[arg-type]
        if path == "/core/groups/":
            return page_of(self.made_groups, query)  # type: ignore[arg-type]
        return super()._bearer(request, path)
