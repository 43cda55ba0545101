"""The core of the large measurements: its lists are whole, and the same whenever they are asked for."""

from __future__ import annotations

import os

from benchmarks import ldap_data
from benchmarks.scale import memory_of
from benchmarks.scale_core import Made, ScaleCore
from tests.stub_lists import page_of

COUNT = 1050


def test_pages_hold_every_user_once() -> None:
    """The searching user last."""
    core = ScaleCore(COUNT)
    names = []
    number = 1
    while number:
        page = page_of(core.made_users, [("page", str(number)), ("page_size", "100")])  # type: ignore[arg-type]
        names += [item["username"] for item in page["results"]]
        number = page["pagination"]["next"]
    assert names == [*(ldap_data.username(number) for number in range(1, COUNT + 1)), "search"]


def test_one_in_a_hundred_changes() -> None:
    """By revision; groups name the same users."""
    core = ScaleCore(COUNT)
    before = core.made_users[:]
    core.revision = 1
    changed = [user["pk"] for user, old in zip(core.made_users[:], before, strict=True) if user != old]
    assert changed == list(range(100, COUNT + 1, 100))
    members = [member["pk"] for group in core.made_groups[:] for member in group["users_obj"]]
    assert sorted(members) == sorted(list(range(1, COUNT + 1)) * ldap_data.GROUPS_PER_USER)


def test_items_are_made_when_they_are_looked_at() -> None:
    """Not before."""
    made = []
    items = Made(10, lambda place: made.append(place) or {"place": place})  # type: ignore[func-returns-value]
    assert (len(items), made) == (10, [])
    assert [item["place"] for item in items[3:5]] == made == [3, 4]


def test_memory_of_this_process() -> None:
    """Everything is at least what is held alone; both are some MiB."""
    found = memory_of(os.getpid())
    assert 5 < found.serving < 10_000
    assert 5 < found.whole < 10_000
