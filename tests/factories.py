"""Users, groups and providers as the core's API writes them, the directory of spec case table, and a fixed clock."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

BASE_DN = "DC=ldap,DC=goauthentik,DC=io"
JSON = dict[str, Any]

NAMESPACE = uuid.UUID("6f0f2a5e-6d0e-4a0c-9c57-2f7f0d6a9b11")  # any constant: equal runs make equal identifiers


class FixedClock:
    """A clock that a test moves by hand; call it for the time in seconds."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def group_uuid(name: str) -> str:
    """The same uuid for the same group name, always."""
    return str(uuid.uuid5(NAMESPACE, f"group {name}"))


def user(pk: int, username: str, **fields: Any) -> JSON:
    """One item of ``/core/users/`` without its groups; ``Directory`` fills those in."""
    record: JSON = {
        "pk": pk,
        "username": username,
        "name": username.title(),
        "is_active": True,
        "last_login": None,
        "date_joined": "2026-01-02T03:04:05.678901Z",
        "is_superuser": False,
        "groups": [],
        "groups_obj": [],
        "roles": [],
        "roles_obj": [],
        "email": f"{username}@x.io",
        "avatar": "data:image/svg+xml;base64,PHN2Zy8+",
        "attributes": {},
        "uid": hashlib.sha256(f"user {pk}".encode()).hexdigest(),
        "path": "users",
        "type": "internal",
        "uuid": str(uuid.uuid5(NAMESPACE, f"user {pk}")),
        "password_change_date": "2026-01-03T03:04:05.123456Z",
        "last_updated": "2026-01-04T03:04:05.999999Z",
    }
    return record | fields


def group(name: str, num_pk: int, *, users: list[int], parents: list[str] | None = None, **fields: Any) -> JSON:
    """One item of ``/core/groups/``; ``users`` are pks, ``parents`` names. ``Directory`` fills in the objects."""
    record: JSON = {
        "pk": group_uuid(name),
        "num_pk": num_pk,
        "name": name,
        "is_superuser": False,
        "parents": [group_uuid(parent) for parent in parents or []],
        "parents_obj": None,
        "users": list(users),
        "users_obj": None,
        "attributes": {},
        "roles": [],
        "roles_obj": [],
        "inherited_roles_obj": None,
        "children": [],
        "children_obj": None,
    }
    return record | fields


def ldap_provider(pk: int = 1, **fields: Any) -> JSON:
    """One item of ``/outposts/ldap/``."""
    record: JSON = {
        "pk": pk,
        "name": f"ldap-{pk}",
        "base_dn": BASE_DN,
        "bind_flow_slug": "bind-flow",
        "unbind_flow_slug": "unbind-flow",
        "application_slug": "ldap-app",
        "certificate": None,
        "tls_server_name": "",
        "uid_start_number": 2000,
        "gid_start_number": 4000,
        "search_mode": "direct",
        "bind_mode": "direct",
        "mfa_support": True,
    }
    return record | fields


def radius_provider(pk: int = 7, **fields: Any) -> JSON:
    """One item of ``/outposts/radius/``."""
    record: JSON = {
        "pk": pk,
        "name": f"radius-{pk}",
        "application_slug": f"radius-app-{pk}",
        "auth_flow_slug": "bind-flow",
        "client_networks": "0.0.0.0/0, ::/0",
        "shared_secret": "testing123",
        "mfa_support": True,
        "certificate": None,
    }
    return record | fields


def outpost(type_: str = "ldap", **fields: Any) -> JSON:
    """One item of ``/outposts/instances/``."""
    record: JSON = {
        "pk": str(uuid.uuid5(NAMESPACE, f"outpost {type_}")),
        "name": f"stub {type_} outpost",
        "type": type_,
        "providers": [],
        "providers_obj": [],
        "service_connection": None,
        "service_connection_obj": None,
        "refresh_interval_s": 3600,
        "token_identifier": "stub",
        "config": {"log_level": "debug", "refresh_interval": "hours=1"},
        "managed": None,
    }
    return record | fields


def conformance_users() -> list[JSON]:
    """The five users of the case table."""
    attributes = {
        "extra": "bar",
        "a.b/c": "x",
        "HomeDirectory": "/h/%s",
        "lst": ["a", 6, None, 1.5],
        "flag": True,
    }
    return [
        user(1, "alice", attributes=attributes),
        user(2, "bob", attributes={"uidNumber": "8000"}),
        user(3, "Carol, X", is_active=False, is_superuser=True, email=""),
        user(4, "dave(1)*"),
        user(5, "svc", type="service_account", path="users"),
    ]


def conformance_groups() -> list[JSON]:
    """The three groups of the case table: gc is a child of ga."""
    return [
        group("ga", 20001, users=[1, 2]),
        group("gb", 20002, users=[1]),
        group("gc", 20003, users=[], parents=["ga"], attributes={"gidNumber": "777"}),
    ]


def link(users: list[JSON], groups: list[JSON]) -> None:
    """Make both sides agree, in place: users' groups, groups' users, children and parents with their objects."""
    by_pk = {record["pk"]: record for record in users}
    by_uuid = {record["pk"]: record for record in groups}
    children: dict[str, list[JSON]] = {}
    for record in groups:
        for parent in record["parents"]:
            children.setdefault(parent, []).append(record)
    members: dict[int, list[JSON]] = {}
    for record in groups:
        record["parents_obj"] = [_related(by_uuid[pk]) for pk in record["parents"]]
        record["children"] = [child["pk"] for child in children.get(record["pk"], [])]
        record["children_obj"] = [_related(child) for child in children.get(record["pk"], [])]
        record["users_obj"] = [_member(by_pk[pk]) for pk in record["users"] if pk in by_pk]
        for pk in record["users"]:
            members.setdefault(pk, []).append(record)
    for person in users:
        own = members.get(person["pk"], [])
        person["groups"] = [record["pk"] for record in own]
        person["groups_obj"] = [
            {key: record[key] for key in ("pk", "num_pk", "name", "is_superuser", "attributes")} for record in own
        ]


def _related(record: JSON) -> JSON:
    return {key: record[key] for key in ("pk", "name", "is_superuser", "attributes")}


def _member(record: JSON) -> JSON:
    keys = ("pk", "username", "name", "is_active", "last_login", "email", "attributes", "uid")
    return {key: record[key] for key in keys}
