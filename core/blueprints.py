"""Blueprint loader: version-1 YAML → objects (flows.md §9). One file is one transaction.

``apply`` runs entries in order. What a file given with ``--blueprint`` declares belongs to that file from then on and
is read-only elsewhere, except what it only creates (``state: created``). Applying the same file again changes nothing:
a record is saved only if a field differs, a password is hashed only if the stored hash does not fit it.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from core import blueprint_models as catalogue
from core import models, passwords
from core.blueprint_tags import Document, Entry, Resolver, Tag, parse
from core.database import OUTPOST_CONFIG, Database, model_name, record_key
from core.errors import BlueprintError, ValidationFailed, options_error
from core.models import Model
from core.policies.base import PolicyType

STATES = ("present", "created", "must_created", "absent")
ENTRY_KEYS = {"model", "id", "state", "conditions", "identifiers", "attrs", "permissions", "optional"}
MAX_FILE_BYTES = 256 * 1024 * 1024  # a file with 100,000 users is about 30 MB
MAX_META_DEPTH = 8  # blueprints that apply others
BUILT_IN_CONTEXT: dict[str, Any] = {
    "goauthentik.io/enterprise/licensed": False,
    "goauthentik.io/rbac/models": {},
}


def default_documents() -> list[tuple[str, str]]:
    """(name, text) of the blueprints that come with the package, in the order in which they are applied."""
    folder = importlib.resources.files("core") / "defaults"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml"))
    return [(name, (folder / name).read_text(encoding="utf-8")) for name in names]


class Blueprints:
    """Applies blueprints. ``stages`` and ``policies`` are the registries of types by model name.

    ``environ`` and ``read_file`` serve ``!Env`` and ``!File``; ``salt`` gives the random bytes of a password hash.
    """

    def __init__(
        self,
        database: Database,
        stages: Mapping[str, Any],
        policies: Mapping[str, type[PolicyType]],
        *,
        environ: Mapping[str, str] | None = None,
        read_file: Callable[[str], str] = lambda path: Path(path).read_text(encoding="utf-8"),
        salt: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.database = database
        self.rows = catalogue.rows(stages, policies)
        self.environ = os.environ if environ is None else environ
        self.read_file = read_file
        self.salt = salt

    def apply_defaults(self, *, password: str = "", token: str = "", email: str = "root@example.com") -> None:
        """Apply the package's own blueprints: flows, brand, and akadmin with this password, API token and address.

        Done at every start; they only create, so the arguments count at the first one. Without ``password`` akadmin
        cannot log in by password.
        """
        context = {"bootstrap_password": password or None, "bootstrap_token": token or None, "bootstrap_email": email}
        for name, text in default_documents():
            self.apply(text, name, context=context)

    def apply_file(self, path: Path) -> None:
        """Apply a file that was given on the command line; its objects become read-only elsewhere.

        :raises BlueprintError: it cannot be read or applied; nothing of it was kept.
        """
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BlueprintError(f"larger than {MAX_FILE_BYTES} bytes", file=str(path))
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise BlueprintError(error.strerror or "cannot be read", file=str(path)) from None
        except UnicodeDecodeError:
            raise BlueprintError("not UTF-8", file=str(path)) from None
        self.apply(text, str(path), owner=str(path))

    def apply(
        self, text: str, file: str, *, context: Mapping[str, Any] | None = None, owner: str | None = None
    ) -> dict[str, Any]:
        """Apply a blueprint in one transaction and return the primary keys by entry id.

        ``context`` goes over the file's own; ``owner`` is the name under which its objects become read-only.

        :raises BlueprintError: with file, line, entry and field; nothing of it was kept.
        """
        document = parse(text, file)
        with self.database.transaction():
            if owner is not None:
                self.database.forget_owned(owner)
            keys = self._apply(document, context or {}, owner, 0)
            self._note(document, text, context or {})
        return keys

    def validate(self, text: str, file: str, *, context: Mapping[str, Any] | None = None) -> None:
        """A dry run.

        :raises BlueprintError: the blueprint could not be applied.
        """
        try:
            with self.database.transaction():
                self.apply(text, file, context=context)
                raise _DryRunOver
        except _DryRunOver:
            return

    def _note(self, document: Document, text: str, context: Mapping[str, Any]) -> None:
        known = self.database.first(models.Blueprint, name=document.name)
        record = known or models.Blueprint(name=document.name)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if known is None or record.digest != digest or record.path != document.file:
            record.path, record.digest, record.last_applied = document.file, digest, self.database.clock()
            self.database.save(record)

    def _apply(self, document: Document, context: Mapping[str, Any], owner: str | None, depth: int) -> dict[str, Any]:
        resolver = Resolver(
            file=document.file,
            objects=self,
            context=BUILT_IN_CONTEXT | document.context | dict(context),
            environ=self.environ,
            read_file=self.read_file,
        )
        for position, entry in enumerate(document.entries, start=1):
            _Application(self, document, resolver, entry, position, owner, depth).run()
        return resolver.keys

    # --- the port of the tags ---------------------------------------------------------------------------------------

    def row(self, model: str) -> catalogue.ModelRow:
        """The row of a model name.

        :raises ValueError: unknown, forbidden or not offered yet.
        """
        name = catalogue.OLDER_NAMES.get(model, model)
        if name in self.rows:
            return self.rows[name]
        if name in catalogue.NOT_OFFERED:
            raise ValueError(f"{name} is not offered yet")
        raise ValueError(f"unknown model {name!r}")

    def lookup(self, model: str, wanted: Mapping[str, Any]) -> Model | None:
        """The first record of a model whose fields are as wanted; dictionaries need only be contained.

        :raises ValueError: a field is unknown.
        """
        row = self.row(model)
        columns = {item.name for item in fields(row.record)}
        filters: dict[str, Any] = {}
        if row.options is not None:
            filters["type"] = model
        for name, value in wanted.items():
            column = row.renamed.get(name, name)
            if column not in columns:
                if row.options is None:
                    raise ValueError(f"{model} has no field {name!r}")
                column = f"options__{name}"
            if value is None:
                filters[f"{column}__isnull"] = True
            elif isinstance(value, dict):
                filters |= {f"{column}__{path}": item for path, item in _flat(value)}
            elif isinstance(value, list):
                for item in value:
                    filters[column] = item
            else:
                filters[column] = value
        return self.database.first(row.record, **filters)

    def find(self, model: str, wanted: Mapping[str, Any]) -> Any | None:
        """The primary key of :meth:`lookup`'s record."""
        record = self.lookup(model, wanted)
        return None if record is None else record.pk

    def find_object(self, model: str, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record as plain data, without secrets."""
        record = self.lookup(model, wanted)
        if record is None:
            return None
        row = self.row(model)
        names = {column: name for name, column in row.renamed.items()}
        shown = [item for item in fields(record) if item.repr and item.name not in {"options", "directory"}]
        data = {names.get(item.name, item.name): getattr(record, item.name) for item in shown}
        data.update(getattr(record, "options", {}))
        return data


class _DryRunOver(Exception):
    """A dry run came to its end."""


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        name = f"{path}__{key}" if path else str(key)
        if isinstance(item, dict) and item:
            found += _flat(item, name)
        else:
            found.append((name, item))
    return found


class _Application:
    """One entry on its way into the database; knows where it stands, for errors."""

    def __init__(
        self,
        owner: Blueprints,
        document: Document,
        resolver: Resolver,
        entry: Entry,
        position: int,
        source: str | None,
        depth: int,
    ) -> None:
        self.blueprints = owner
        self.database = owner.database
        self.document = document
        self.resolver = resolver
        self.entry = entry
        self.source = source
        self.depth = depth
        self.label = f"{entry.values.get('id') or position}"
        self.model = ""

    def error(self, problem: str, field: str | None = None) -> BlueprintError:
        """An error at this entry."""
        label = f"{self.label} ({self.model})" if self.model else self.label
        return BlueprintError(problem, file=self.document.file, line=self.entry.line, entry=label, field=field)

    def run(self) -> None:
        """Apply the entry, or skip it when a condition does not hold."""
        unknown = set(self.entry.values) - ENTRY_KEYS
        if unknown:
            raise self.error("unknown key of an entry", sorted(map(str, unknown))[0])
        self.model = catalogue.OLDER_NAMES.get(str(self._value("model", "")), str(self._value("model", "")))
        conditions = self._value("conditions", [])
        if not isinstance(conditions, list):
            raise self.error("must be a list", "conditions")
        if not all(conditions):
            return
        identifiers, attrs = self._mapping("identifiers"), self._mapping("attrs")
        if self.model == catalogue.META_APPLY:
            self._apply_other(identifiers | attrs)
            return
        try:
            row = self.blueprints.row(self.model)
        except ValueError as error:
            if self._value("optional", False) and self.model in catalogue.NOT_OFFERED:
                return
            raise self.error(str(error), "model") from None
        state = str(self._value("state", "present"))
        if state not in STATES:
            raise self.error(f"must be one of {', '.join(STATES)}", "state")
        record = self._existing(row, identifiers)
        if state == "absent":
            if record is not None:
                self.database.delete(record)
            return
        if record is not None and state == "must_created":
            raise self.error("the object exists already", "state")
        if record is None or state != "created":
            record = self._write(row, record, identifiers, attrs)
        if "id" in self.entry.values:
            self.resolver.keys[str(self._value("id", ""))] = record.pk
        written = identifiers.get("pk")
        if isinstance(written, str) and written != record.pk:
            self.resolver.rewrites[written] = record.pk
        if self.source is not None and state != "created":
            self.database.mark_owned(record, self.source)

    def _value(self, name: str, default: Any) -> Any:
        value = self._resolve(self.entry.values.get(name, default), name)
        return default if value is None else value

    def _mapping(self, name: str) -> dict[str, Any]:
        value = self.entry.values.get(name) or {}
        if isinstance(value, Tag):
            value = self._resolve(value, name)
        if not isinstance(value, dict):
            raise self.error("must be a mapping", name)
        return {str(key): self._resolve(item, str(key)) for key, item in value.items()}

    def _resolve(self, value: Any, field: str) -> Any:
        """A value without tags; errors of a tag say the entry and field as well."""
        try:
            return self.resolver.resolve(value)
        except BlueprintError as error:
            if error.entry is not None:
                raise
            raise BlueprintError(
                error.problem, file=error.file, line=error.line, entry=self.label, field=field
            ) from None

    def _apply_other(self, named: dict[str, Any]) -> None:
        """Apply another blueprint first, found by its name or path among the package's own."""
        if self.depth >= MAX_META_DEPTH:
            raise self.error("blueprints apply each other without end")
        wanted = {str(value) for key, value in named.items() if key in {"name", "path"}}
        for name, text in default_documents():
            document = parse(text, name)
            if document.name in wanted or name in wanted:
                self.blueprints._apply(document, {}, None, self.depth + 1)
                return
        if named.get("required", True):
            raise self.error(f"there is no blueprint {' '.join(sorted(wanted))!r}", "name")

    def _existing(self, row: catalogue.ModelRow, identifiers: dict[str, Any]) -> Model | None:
        """The record whose ``pk`` is given, or that matches all other identifiers together."""
        rest = {name: value for name, value in identifiers.items() if name != "pk"}
        try:
            if identifiers.get("pk") is not None:
                found = self.blueprints.lookup(self.model, {"pk": identifiers["pk"]})
                if found is not None:
                    return found
            return self.blueprints.lookup(self.model, rest) if rest else None
        except ValueError as error:
            raise self.error(str(error), "identifiers") from None

    def _write(
        self, row: catalogue.ModelRow, record: Model | None, identifiers: dict[str, Any], attrs: dict[str, Any]
    ) -> Model:
        values = identifiers | attrs
        if record is not None:
            values.pop("pk", None)
        extra = {name: values.pop(name) for name in list(values) if name in row.extra}
        options: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        known = catalogue.hints(row.record)
        for name, value in values.items():
            column = row.renamed.get(name, name)
            if column in known:
                try:
                    plain[column] = catalogue.convert(row.record, column, value)
                except ValidationFailed as error:
                    raise self.error(" ".join(next(iter(error.fields.values()))), name) from None
            elif row.options is not None and name not in row.ignored:
                options[name] = value
            elif name not in row.ignored:
                raise self.error(f"{self.model} has no such field", name)
        if row.record is models.Outpost:
            plain["config"] = OUTPOST_CONFIG | plain.get("config", {})
        before = None if record is None else _snapshot(record)
        record = self._filled(row, record, plain, options)
        try:
            self._before(record, extra)
            if before is None or before != _snapshot(record):
                self.database.save(record)
            self._after(record, extra)
        except ValidationFailed as error:
            if isinstance(error, BlueprintError):
                raise
            name, texts = next(iter(error.fields.items()))
            raise self.error(" ".join(texts), name) from None
        return record

    def _filled(
        self, row: catalogue.ModelRow, record: Model | None, plain: dict[str, Any], options: dict[str, Any]
    ) -> Model:
        if record is None:
            if row.record is models.Flow:
                plain.setdefault("title", plain.get("name", ""))
            if row.record is models.Application:
                plain.setdefault("name", plain.get("slug", ""))
            for name in catalogue.required(row.record):
                if name not in plain:
                    raise self.error("must be given", name)
            typed = {"type": self.model} if row.options is not None else {}
            record = row.record(**typed, **plain)
        else:
            for name, value in plain.items():
                setattr(record, name, value)
        if row.options is not None:
            try:
                checked = row.options(getattr(record, "options", {}) | options)
            except (ValidationFailed, msgspec.ValidationError) as error:
                refused = options_error(error)
                name, texts = next(iter(refused.fields.items()))
                raise self.error(" ".join(texts), name) from None
            record.options = msgspec.to_builtins(checked)  # type: ignore[attr-defined]  # only rows with options
        return record

    # --- fields that are more than a column -------------------------------------------------------------------------

    def _before(self, record: Model, extra: dict[str, Any]) -> None:
        if isinstance(record, models.User) and extra.get("password") is not None:
            password = str(extra["password"])
            if not passwords.verify(record.password_hash, password):
                try:
                    record.password_hash = passwords.hash_password(password, self.blueprints.salt(passwords.SALT_BYTES))
                except ValueError as error:
                    raise self.error(str(error), "password") from None
                record.password_change_date = self.database.clock()
        if isinstance(record, models.Group) and extra.get("parent") is not None:
            record.parents = list(dict.fromkeys([*record.parents, str(extra["parent"])]))

    def _after(self, record: Model, extra: dict[str, Any]) -> None:
        if isinstance(record, models.Group):
            for pk in extra.get("users") or ():
                user = self._user(pk, "users")
                if record.pk not in user.group_pks:
                    self.database.set_membership(user, record.pk, True)
        if isinstance(record, models.Role):
            for permission in extra.get("permissions") or ():
                self.database.grant(record, _permission(permission))
        if isinstance(record, models.User):
            for permission in extra.get("permissions") or ():
                self.database.grant(self.database.managed_role(record), _permission(permission))
        if isinstance(record, models.Provider) and extra.get("search_group"):
            self._search_group(record, str(extra["search_group"]))
        for item in self._value("permissions", []):
            self._grant(record, item)

    def _grant(self, record: Model, item: Any) -> None:
        """One row of the entry's ``permissions``: a right on this object for a role or a user."""
        if not isinstance(item, dict) or not item.get("permission"):
            raise self.error("must have permission and user or role", "permissions")
        if item.get("role") is not None:
            role = self.database.first(models.Role, pk=str(item["role"]))
            if role is None:
                raise self.error("there is no such role", "permissions")
        elif item.get("user") is not None:
            role = self.database.managed_role(self._user(item["user"], "permissions"))
        else:
            raise self.error("must name a user or a role", "permissions")
        self.database.grant(role, _permission(item["permission"]), record_key(record))

    def _search_group(self, provider: models.Provider, group_pk: str) -> None:
        """The older way to say who may search everything: a group becomes a role with the right on this provider."""
        group = self.database.first(models.Group, pk=group_pk)
        if group is None:
            raise self.error("there is no such group", "search_group")
        name = f"ak-search-group--provider-{provider.pk}"
        role = self.database.first(models.Role, name=name) or self.database.save(models.Role(name=name, managed=name))
        self.database.grant(
            role, "authentik_providers_ldap.search_full_directory", (model_name(provider), str(provider.pk))
        )
        if role.pk not in group.role_pks:
            group.role_pks.append(role.pk)
            self.database.save(group)

    def _user(self, pk: Any, field: str) -> models.User:
        user = self.database.first(models.User, pk=pk)
        if user is None:
            raise self.error("there is no such user", field)
        return user


def _permission(value: Any) -> str:
    if not isinstance(value, str) or value.count(".") != 1:
        raise ValidationFailed({"permissions": ["must be written app_label.codename"]})
    return value


def _snapshot(record: Model) -> dict[str, Any]:
    """The fields of a record, to see whether an entry changes anything."""
    return {
        item.name: msgspec.json.encode(getattr(record, item.name))
        for item in fields(record)
        if item.name != "directory"
    }
