"""Users, groups and their closure, roles, permissions, tokens, sessions: storage with the rules of flows.md §7."""

from __future__ import annotations

import copy
import hashlib
import secrets
import string
import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from core.database.store import UPDATED, Change, Store
from core.errors import ValidationFailed
from core.models import (
    INTENT_API,
    INTENT_APP_PASSWORD,
    TOKEN_INTENTS,
    USER_TYPES,
    Group,
    Model,
    Permission,
    Role,
    Session,
    Token,
    User,
)
from core.random_text import random_text

USERS_KEPT = 1024  # users whose rows are kept in memory; each takes about two kilobytes
TOKEN_LENGTH = 60  # characters of 62: 357 bits
TOKEN_LIFE_S = 24 * 3600.0  # one day: what a token gets that is expiring and names no time
TOKEN_ALPHABET = string.ascii_letters + string.digits
USERNAME_LENGTH = 150

# Groups (with ancestors) of the users given as a JSON list.
_EFFECTIVE = """
    FROM user_group ug JOIN group_closure c ON c.grp = ug.other
    WHERE ug.own IN (SELECT value FROM json_each(?))
"""
_ROLES_OF_USER = """
    SELECT other FROM user_role WHERE own = :user
    UNION SELECT gr.other FROM user_group ug JOIN group_closure c ON c.grp = ug.other
                 JOIN group_role gr ON gr.own = c.ancestor WHERE ug.own = :user
"""


def new_token_key() -> str:
    """A fresh random token key: ``TOKEN_LENGTH`` letters and digits."""
    return random_text(TOKEN_ALPHABET, TOKEN_LENGTH)


class DirectoryStore(Store):
    """Storage of people and what they may do; it is the port that :class:`core.models.User` asks."""

    # --- installation -----------------------------------------------------------------------------------------------

    @property
    def install_id(self) -> str:
        """Random id of this installation, made once."""
        return self.secret("install_id")

    def secret(self, name: str) -> str:
        """A stored random secret of 64 hex digits, made on first use (session signing key, install id)."""
        found = self._secrets.get(name)
        if found is None:
            with self.transaction():
                found = self.setting(name)
                if found is None:
                    found = secrets.token_hex(32)
                    self.set_setting(name, found)
            self._secrets[name] = found
        return found

    @property
    def _secrets(self) -> dict[str, str]:
        cached: dict[str, str] | None = self.__dict__.get("_secret_cache")
        if cached is None:
            cached = self.__dict__["_secret_cache"] = {}
        return cached

    # --- users ------------------------------------------------------------------------------------------------------

    def user(self, pk: Any) -> User | None:
        """The user with this primary key, from memory if it was asked for lately; the record is the caller's own.

        Nothing is taken from or put into memory inside a transaction, where rows may differ from what is committed.
        """
        with self._lock:
            if self._depth:
                return self.first(User, pk=pk)
            kept = self._users.get(pk)
            if kept is None:
                kept = self.first(User, pk=pk)
                if kept is None:
                    return None
                if len(self._users) >= USERS_KEPT:
                    self._users.clear()
                self._users[pk] = kept
            return copy.deepcopy(kept)

    @property
    def _users(self) -> dict[Any, User]:
        kept: dict[Any, User] | None = self.__dict__.get("_users_kept")
        if kept is None:
            kept = self.__dict__["_users_kept"] = {}
            self.on_change(self._forget_users)
        return kept

    def _forget_users(self, change: Change) -> None:
        """A user's row depends on the user, and on groups for superusers and memberships; roles hang on both."""
        if change.model is User:
            self._users.pop(change.pk, None)
        elif change.model in (Group, Role):
            self._users.clear()

    def note_login(self, user: User, now: float) -> None:
        """Store the time of a login and nothing else of the user."""
        with self.transaction():
            self.sql("UPDATE user SET last_login = ? WHERE pk = ?", (now, user.pk))
            user.last_login = now
            self.notify(user, UPDATED)

    def _complete(self, model: type[Any], records: list[Any]) -> None:
        if model is not User or not records:
            return
        superusers = {
            row[0]
            for row in self.sql(
                "SELECT DISTINCT ug.own FROM user_group ug JOIN group_closure c ON c.grp = ug.other"
                " JOIN grp g ON g.pk = c.ancestor AND g.is_superuser WHERE ug.own IN (SELECT value FROM json_each(?))",
                (_keys(records),),
            )
        }
        install_id = self.install_id
        for user in records:
            user.directory = self
            user.is_superuser = user.pk in superusers
            user.uid = _uid(user.pk, install_id)

    def uid(self, user_pk: int) -> str:
        """The ``uid`` of a user: sha256 hex of ``<pk>-<install id>``."""
        return _uid(user_pk, self.install_id)

    def user_by_login(self, text: str, fields: Iterable[str], *, case_insensitive: bool = True) -> User | None:
        """The user whose ``username``, ``email`` or ``upn`` (those in ``fields``) is ``text``; ``None`` if none is.

        An exact match wins; after that the first field of ``fields``, then the lowest primary key.
        """
        if not text:
            return None
        suffixes = ("", "__iexact") if case_insensitive else ("",)
        for suffix in suffixes:
            for name in fields:
                column = "attributes__upn" if name == "upn" else name
                found = self.first(User, order_by="pk", **{column + suffix: text})
                if found is not None:
                    return found
        return None

    def members(self, group_pk: str, *, inherited: bool = False) -> list[User]:
        """Direct members of a group, or with ``inherited`` also the members of its descendants, by username."""
        if not inherited:
            return self.find(User, group_pks=group_pk)
        below = [row[0] for row in self.sql("SELECT grp FROM group_closure WHERE ancestor = ?", (group_pk,))]
        return self.find(User, group_pks__in=below)

    def member_pks(self, group_pks: Iterable[str]) -> dict[str, list[int]]:
        """Primary keys of the direct members of many groups in one query: group → sorted user keys."""
        wanted = list(group_pks)
        found: dict[str, list[int]] = {pk: [] for pk in wanted}
        for group, user in self.sql(
            "SELECT other, own FROM user_group WHERE other IN (SELECT value FROM json_each(?)) ORDER BY own",
            (msgspec.json.encode(wanted).decode(),),
        ):
            found[group].append(user)
        return found

    def set_membership(self, user: User, group_pk: str, member: bool) -> None:
        """Add a user to a group or take it out."""
        pks = [pk for pk in user.group_pks if pk != group_pk]
        user.group_pks = [*pks, group_pk] if member else pks
        self.save(user)

    # --- groups -----------------------------------------------------------------------------------------------------

    def children(self, group_pks: Iterable[str]) -> dict[str, list[str]]:
        """Primary keys of the direct children of many groups in one query."""
        wanted = list(group_pks)
        found: dict[str, list[str]] = {pk: [] for pk in wanted}
        for parent, child in self.sql(
            "SELECT other, own FROM group_parent WHERE other IN (SELECT value FROM json_each(?)) ORDER BY rowid",
            (msgspec.json.encode(wanted).decode(),),
        ):
            found[parent].append(child)
        return found

    def ancestor_pks(self, group_pk: str) -> set[str]:
        """The group itself and all groups above it."""
        return {row[0] for row in self.sql("SELECT ancestor FROM group_closure WHERE grp = ?", (group_pk,))}

    def direct_groups(self, user: User) -> list[Group]:
        """Groups of which the user is a direct member, by name."""
        rows = self.sql("SELECT other FROM user_group WHERE own = ?", (user.pk,))
        return self.find(Group, pk__in=[row[0] for row in rows])

    def effective_groups(self, user: User) -> list[Group]:
        """Direct groups and their ancestors, by name."""
        rows = self.sql(f"SELECT DISTINCT c.ancestor {_EFFECTIVE}", (f"[{int(user.pk or 0)}]",))
        return self.find(Group, pk__in=[row[0] for row in rows])

    def is_member(self, user_pk: int | None, group_pk: str) -> bool:
        """Whether the user is a direct or inherited member. A user that is not stored never is."""
        if user_pk is None:
            return False
        return bool(
            self.sql(
                "SELECT 1 FROM user_group ug JOIN group_closure c ON c.grp = ug.other"
                " WHERE ug.own = ? AND c.ancestor = ? LIMIT 1",
                (user_pk, group_pk),
            )
        )

    def merged_attributes(self, user: User, brand_attributes: dict[str, Any] | None = None) -> dict[str, Any]:
        """Brand ← groups (direct and ancestors, by name) ← user, merged deeply; lists are joined."""
        merged = copy.deepcopy(brand_attributes or {})
        if user.stored:
            for group in self.effective_groups(user):
                merge(merged, group.attributes)
        merge(merged, user.attributes)
        return merged

    def _rebuild_closure(self, group_pk: str) -> None:
        """Recompute the ancestors of a group and of everything below it, after its parents changed."""
        below = {row[0] for row in self.sql("SELECT grp FROM group_closure WHERE ancestor = ?", (group_pk,))}
        below.add(group_pk)
        for pk in below:
            self.sql("DELETE FROM group_closure WHERE grp = ?", (pk,))
            self.sql(
                "WITH RECURSIVE up(pk) AS (VALUES (?)"
                " UNION SELECT p.other FROM group_parent p JOIN up ON p.own = up.pk)"
                " INSERT INTO group_closure SELECT ?, pk FROM up",
                (pk, pk),
            )

    # --- roles and permissions --------------------------------------------------------------------------------------

    def effective_roles(self, user: User) -> list[Role]:
        """Own roles and the roles of all effective groups, by name."""
        with self._lock:
            rows = self._connection.execute(_ROLES_OF_USER, {"user": user.pk}).fetchall()
        return self.find(Role, pk__in=[row[0] for row in rows])

    def has_permission(self, user_pk: int | None, permission: str, record_key: tuple[str, str] | None = None) -> bool:
        """Whether one of the user's roles holds ``permission`` globally, or on ``record_key`` = (model name, pk)."""
        if user_pk is None:
            return False
        model, pk = record_key or (None, None)
        with self._lock:
            row = self._connection.execute(
                f"SELECT 1 FROM permission p WHERE p.permission = :permission AND p.role IN ({_ROLES_OF_USER})"
                " AND (p.object_pk IS NULL OR (p.model = :model AND p.object_pk = :pk)) LIMIT 1",
                {"permission": permission, "user": user_pk, "model": model, "pk": pk},
            ).fetchone()
        return row is not None

    def permitted_pks(self, user_pk: int, permission: str, model: str) -> set[str] | None:
        """Primary keys (as text) of the objects of ``model`` on which the user holds it; ``None`` = all (global)."""
        with self._lock:
            rows = self._connection.execute(
                f"SELECT p.object_pk FROM permission p WHERE p.permission = :permission"
                f" AND p.role IN ({_ROLES_OF_USER}) AND (p.object_pk IS NULL OR p.model = :model)",
                {"permission": permission, "user": user_pk, "model": model},
            ).fetchall()
        found = {row[0] for row in rows}
        return None if None in found else found

    def grant(self, role: Role, permission: str, record_key: tuple[str, str] | None = None) -> None:
        """Give a role a permission, globally or on ``record_key`` = (model name, pk). Twice is once."""
        model, pk = record_key or (None, None)
        if not self.exists(Permission, role=role.pk, permission=permission, model=model, object_pk=pk):
            self.save(Permission(role=role.pk, permission=permission, model=model, object_pk=pk))

    def managed_role(self, user: User) -> Role:
        """The role that holds a single user's own permissions; made and assigned on first use."""
        name = f"ak-managed-role--user-{user.pk}"
        role = self.first(Role, name=name)
        if role is None:
            role = self.save(Role(name=name, managed=name))
        if role.pk not in user.role_pks:
            user.role_pks.append(role.pk)
            self.save(user)
        return role

    # --- tokens -----------------------------------------------------------------------------------------------------

    def token_by_key(self, key: str, intent: str) -> Token | None:
        """The unexpired token with this key and intent, or ``None``."""
        return self.first(Token, key=key, intent=intent) if key else None

    def user_by_api_key(self, key: str) -> User | None:
        """The *active* user behind an unexpired API token, or ``None``."""
        token = self.token_by_key(key, INTENT_API)
        return self.first(User, pk=token.user, is_active=True) if token else None

    def app_password(self, user: User, key: str) -> Token | None:
        """The unexpired app password of this user with this key, or ``None``."""
        token = self.token_by_key(key, INTENT_APP_PASSWORD)
        return token if token is not None and token.user == user.pk else None

    # --- sessions ---------------------------------------------------------------------------------------------------

    def end_sessions(self, user_pk: int, *, keep: str | None = None) -> int:
        """Delete a user's sessions except ``keep`` (a session's pk); each deletion is notified. Returns how many."""
        ended = 0
        with self.transaction():
            for session in self.find(Session, user=user_pk):
                if session.pk != keep:
                    self.delete(session)
                    ended += 1
        return ended

    def expire(self) -> None:
        """Do what is due: rotate expired API tokens, delete other expired rows; ended sessions are notified."""
        now = self.clock()
        with self.transaction():
            for pk, intent in self.sql("SELECT pk, intent FROM token WHERE expiring AND expires <= ?", (now,)):
                if intent == INTENT_API:
                    self.sql(
                        "UPDATE token SET key = ?, expires = ? WHERE pk = ?", (new_token_key(), now + TOKEN_LIFE_S, pk)
                    )
                else:
                    self.sql("DELETE FROM token WHERE pk = ?", (pk,))
            for pk, user in self.sql("SELECT pk, user FROM session WHERE expires <= ?", (now,)):
                self.delete(Session(pk=pk, user=user))  # whose it was decides whether outposts are told
            codes_and_tokens = ("oauth2_code", "oauth2_access_token", "oauth2_refresh_token")
            for table in ("event", "reputation", "flow_token", *codes_and_tokens):
                self.sql(f"DELETE FROM {table} WHERE expires <= ?", (now,))
            for table in ("consent", "invitation"):
                self.sql(f"DELETE FROM {table} WHERE expiring AND expires <= ?", (now,))

    # --- rules on save and delete -----------------------------------------------------------------------------------

    def before_save(self, record: Model) -> None:
        super().before_save(record)
        now = self.clock()
        match record:
            case User():
                _check_user(record)
                record.uuid = record.uuid or str(uuid.uuid4())
                record.date_joined = record.date_joined or now
                record.password_change_date = record.password_change_date or now
                record.last_updated = now
            case Token():
                if record.intent not in TOKEN_INTENTS:
                    raise ValidationFailed({"intent": [f"must be one of {', '.join(TOKEN_INTENTS)}"]})
                record.key = record.key or new_token_key()
                if record.expiring and record.expires is None:
                    record.expires = now + TOKEN_LIFE_S
            case Session():
                record.uuid = record.uuid or str(uuid.uuid4())
                record.created = record.created or now

    def after_save(self, record: Model, kind: str) -> None:
        super().after_save(record, kind)
        match record:
            case User():
                self._complete(User, [record])
                if kind == UPDATED and not record.is_active:
                    self.end_sessions(int(record.pk or 0))
            case Group():
                self._rebuild_closure(record.pk)
                self._refuse_circle(record)

    def _refuse_circle(self, group: Group) -> None:
        for parent in group.parents:
            if group.pk in self.ancestor_pks(parent):
                raise ValidationFailed({"parents": ["A group cannot be above itself."]})

    def before_delete(self, record: Model) -> None:
        super().before_delete(record)
        if isinstance(record, User):
            self.end_sessions(int(record.pk or 0))
        if isinstance(record, Group):
            rows = self.sql("SELECT grp FROM group_closure WHERE ancestor = ? AND grp <> ?", (record.pk, record.pk))
            self._orphans = [row[0] for row in rows]

    _orphans: list[str] = []  # noqa: RUF012 - replaced, never changed; groups below one that is being deleted

    def after_delete(self, record: Model) -> None:
        super().after_delete(record)
        if isinstance(record, Group):
            for pk in self._orphans:
                self._rebuild_closure(pk)
        if isinstance(record, User):
            role = self.first(Role, name=f"ak-managed-role--user-{record.pk}")
            if role is not None:
                self.delete(role)


def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """Merge ``other`` deeply into ``into``: the later value wins, mappings merge, lists are joined."""
    for key, value in other.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            merge(present, value)
        elif isinstance(present, list) and isinstance(value, list):
            into[key] = [*present, *copy.deepcopy(value)]
        else:
            into[key] = copy.deepcopy(value)


def _uid(user_pk: int, install_id: str) -> str:
    return hashlib.sha256(f"{user_pk}-{install_id}".encode()).hexdigest()


def _keys(records: Iterable[Model]) -> str:
    return msgspec.json.encode([record.pk for record in records]).decode()


def _check_user(user: User) -> None:
    problems: dict[str, list[str]] = {}
    if not user.username:
        problems["username"] = ["This field may not be blank."]
    elif len(user.username) > USERNAME_LENGTH:
        problems["username"] = [f"Ensure this field has no more than {USERNAME_LENGTH} characters."]
    if user.type not in USER_TYPES:
        problems["type"] = [f"must be one of {', '.join(USER_TYPES)}"]
    if user.path == "" or any(not part for part in user.path.split("/")):
        problems["path"] = ["No empty segments in user path allowed."]
    if problems:
        raise ValidationFailed(problems)
