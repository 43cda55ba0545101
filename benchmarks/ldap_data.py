"""Made-up directories for measurements: users with 20 attributes and 5 groups each, as the core's API would list them.

Everything follows from the numbers given, so two runs measure the same data. ``raw_users`` and ``raw_groups`` yield one
JSON object per item in the shape of ``/core/users/`` and ``/core/groups/`` (all include flags set); nothing is kept, so
a million users cost no memory here.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator

GROUPS_PER_USER = 5
# Users per group on average, for 5 groups each: 10,000 users → 250 groups of 200.
GROUP_SIZE = 200
DEPARTMENTS = ("engineering", "sales", "support", "finance", "people", "legal", "research", "operations")
CITIES = ("Berlin", "Graz", "Porto", "Lyon", "Turku", "Brno", "Ghent", "Cork", "Tartu", "Split")
FIRST = ("Anna", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jan", "Kira", "Leo", "Mia", "Nils")
LAST = ("Abel", "Brandt", "Cole", "Dorn", "Engel", "Falk", "Gross", "Hahn", "Ivens", "Jost", "Krug", "Lang", "Maas")
AVATAR = "data:image/svg+xml;base64," + "PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcv" * 20  # its usual size in an answer


def group_count(users: int) -> int:
    """Number of groups that go with so many users."""
    return max(GROUPS_PER_USER, users * GROUPS_PER_USER // GROUP_SIZE)


def username(number: int) -> str:
    """Login name of user ``number`` (from 1)."""
    return f"user{number:07d}"


def group_name(number: int) -> str:
    """Name of group ``number`` (from 0)."""
    return f"group-{number:05d}"


def group_uuid(number: int) -> str:
    """Primary key of a group."""
    return str(uuid.UUID(int=int.from_bytes(hashlib.sha256(b"group%d" % number).digest()[:16], "big"), version=4))


def groups_of(number: int, users: int) -> list[int]:
    """The five groups of a user."""
    count = group_count(users)
    return [(number + step * (count // GROUPS_PER_USER or 1)) % count for step in range(GROUPS_PER_USER)]


def members_of(group: int, users: int) -> list[int]:
    """The users of a group."""
    count = group_count(users)
    stride = count // GROUPS_PER_USER or 1
    residues = {(group - step * stride) % count for step in range(GROUPS_PER_USER)}
    return sorted(number for residue in residues for number in range(residue or count, users + 1, count))


def user(number: int, users: int, revision: int = 0) -> dict[str, object]:
    """One user. ``revision`` changes its title and time of change, as an edit would."""
    first, last = FIRST[number % len(FIRST)], LAST[number // 7 % len(LAST)]
    groups = groups_of(number, users)
    digest = hashlib.sha256(b"user%d" % number).hexdigest()
    return {
        "pk": number,
        "username": username(number),
        "name": f"{first} {last} {number}",
        "is_active": number % 50 != 0,
        "last_login": None,
        "date_joined": f"2024-{number % 12 + 1:02d}-{number % 28 + 1:02d}T08:{number % 60:02d}:00.123456Z",
        "is_superuser": False,
        "groups": [group_uuid(group) for group in groups],
        "groups_obj": [
            {"pk": group_uuid(group), "num_pk": 10000 + group, "name": group_name(group), "is_superuser": False,
             "attributes": {}}
            for group in groups
        ],
        "roles": [],
        "email": f"{first}.{last}.{number}@example.test".lower(),
        "avatar": AVATAR,
        "attributes": {
            "givenName": first,
            "department": DEPARTMENTS[number % len(DEPARTMENTS)],
            "l": CITIES[number % len(CITIES)],
            "title": f"Position {number % 40} {revision}",
            "telephoneNumber": f"+49 30 {number:07d}",
            "employeeNumber": str(100000 + number),
            "loginShell": "/bin/bash",
        },
        "uid": digest,
        "path": "users",
        "type": "internal",
        "uuid": str(uuid.UUID(digest[:32])),
        "password_change_date": "2025-01-01T00:00:00Z",
        "last_updated": f"2025-06-{revision % 28 + 1:02d}T10:{number % 60:02d}:{number // 60 % 60:02d}.5Z",
    }  # fmt: skip


def raw_users(users: int, changed_every: int = 0) -> Iterator[bytes]:
    """JSON of each user. ``changed_every`` n: every n-th has another revision."""
    for number in range(1, users + 1):
        yield json.dumps(user(number, users, 1 if changed_every and number % changed_every == 0 else 0)).encode()


def group(number: int, users: int) -> dict[str, object]:
    """One group with its members."""
    members = members_of(number, users)
    return {
        "pk": group_uuid(number), "num_pk": 10000 + number, "name": group_name(number), "is_superuser": False,
        "parents": [], "parents_obj": [], "users": members,
        "users_obj": [{"pk": member, "username": username(member), "name": "", "is_active": True,
                       "email": "", "uid": "", "attributes": {}} for member in members],
        "attributes": {}, "roles": [], "children": [], "children_obj": [],
    }  # fmt: skip


def raw_groups(users: int) -> Iterator[bytes]:
    """JSON of each group with its members."""
    for number in range(group_count(users)):
        yield json.dumps(group(number, users)).encode()
