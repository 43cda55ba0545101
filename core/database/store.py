"""Reading and writing of any record by its table description: connection, transactions, migrations, look-ups.

One connection, guarded by a re-entrant lock, is the single writer; calls block for well under a millisecond and may
come from the loop's thread and from policy threads. A transaction must not contain an ``await``.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from core import lookups
from core.database.schema import STEPS, TABLES, Table
from core.errors import DatabaseError, NotFound, ValidationFailed
from core.models import Model

M = TypeVar("M", bound=Model)

BUSY_TIMEOUT_S = 5.0  # another process (the `core token` command) may hold the lock for one short transaction
PAGE_CACHE_KIB = 16 * 1024  # keeps the user table of about 50,000 users in memory
FILE_NAME = "core.sqlite3"

CREATED, UPDATED, DELETED = "created", "updated", "deleted"


class Change(NamedTuple):
    """What was committed: record class, primary key, ``created`` | ``updated`` | ``deleted``, and the record."""

    model: type[Model]
    pk: Any
    kind: str
    record: Model


class Store:
    """Generic storage. ``path`` is the database file or ``":memory:"``; ``clock`` gives Unix seconds.

    :raises DatabaseError: the file is damaged, not ours, or written by a newer version.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = str(path)
        self.clock = clock
        self._lock = threading.RLock()
        self._depth = 0
        self._pending: list[Change] = []
        self._listeners: list[Callable[[Change], None]] = []
        if self.path != ":memory:":
            # Created with owner-only rights before SQLite opens it: password hashes and token keys are inside.
            Path(self.path).touch(mode=0o600, exist_ok=True)
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise DatabaseError(f"{self.path}: {error}") from error
        try:
            self._connection.row_factory = sqlite3.Row
            self._connection.create_function("casefold", 1, _casefold, deterministic=True)
            self._connection.create_function("regexp_match", 3, _regexp_match, deterministic=True)
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(f"PRAGMA cache_size=-{PAGE_CACHE_KIB}")
            self._migrate()
        except sqlite3.Error as error:
            self._connection.close()
            raise DatabaseError(f"{self.path}: {error}") from error
        except DatabaseError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file. Nothing may be called afterwards."""
        with self._lock:
            self._connection.close()

    # --- migrations -------------------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        """Run the steps that this file has not seen, all in one transaction."""
        self._connection.execute("CREATE TABLE IF NOT EXISTS migration (step INTEGER PRIMARY KEY, at REAL NOT NULL)")
        row = self._connection.execute("SELECT ifnull(max(step), 0) FROM migration").fetchone()
        done = int(row[0])
        if done > len(STEPS):
            raise DatabaseError(f"{self.path}: written by a newer version (step {done}, this one knows {len(STEPS)})")
        if done == len(STEPS):
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for number, step in enumerate(STEPS[done:], start=done + 1):
                for statement in filter(str.strip, step.split(";\n")):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO migration VALUES (?, ?)", (number, self.clock()))
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    # --- transactions and notifications -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. May be nested: an inner failure undoes the inner part. Listeners run after the commit."""
        with self._lock:
            depth, seen = self._depth, len(self._pending)
            name = f"level{depth}"
            try:
                # A policy thread may be interrupted anywhere, so nothing is done before the ``try``.
                self._connection.execute("BEGIN IMMEDIATE" if depth == 0 else f"SAVEPOINT {name}")
                self._depth = depth + 1
                yield
            except BaseException:
                self._depth = depth
                del self._pending[seen:]
                if depth:
                    self._connection.execute(f"ROLLBACK TO {name}")
                    self._connection.execute(f"RELEASE {name}")
                elif self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth = depth
            if depth:
                self._connection.execute(f"RELEASE {name}")
                return
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self._pending.clear()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            changes, self._pending = self._pending, []
        for change in changes:
            for listener in self._listeners:
                listener(change)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call ``listener`` for every committed change, in order, in the thread that committed. It must not raise."""
        self._listeners.append(listener)

    def notify(self, record: Model, kind: str) -> None:
        """Queue a notification for the end of the running transaction."""
        self._pending.append(Change(type(record), record.pk, kind, record))

    def sql(self, statement: str, parameters: Iterable[Any] = ()) -> list[sqlite3.Row]:
        """Run one statement and return all rows; only for the modules of this package."""
        with self._lock:
            return self._connection.execute(statement, tuple(parameters)).fetchall()

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, model: type[M], /, pk: Any) -> M:
        """The record with this primary key.

        :raises NotFound: there is none (or it is expired).
        """
        found = self.find(model, pk=pk)
        if not found:
            raise NotFound(f"no {model.__name__} with this primary key")
        return found[0]

    def first(self, model: type[M], /, *, order_by: str | None = None, **filters: Any) -> M | None:
        """The first record for which all look-ups hold, or ``None``."""
        found = self.find(model, order_by=order_by, limit=1, **filters)
        return found[0] if found else None

    def find(
        self,
        model: type[M],
        /,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> list[M]:
        """Records for which all look-ups hold (see :mod:`core.lookups`), in the table's usual order or by ``order_by``.

        ``order_by`` is a column, with ``-`` in front for descending. A look-up on a list of primary keys
        (``group_pks=…``, ``providers=…``) holds for records whose list has that key (with ``__in``: any of them).
        Expired records are not seen. Reads related lists in one query per list, never per record.

        :raises ValueError: unknown column or operator.
        """
        table = TABLES[model]
        where, values = self._where(table, filters)
        order = table.order if order_by is None else _order(table, order_by)
        columns = table.selected
        statement = f'SELECT {columns} FROM "{table.name}" WHERE {where} ORDER BY {order}'
        if limit is not None:
            if offset:
                # Skipping rows touches only the index of the order, not the rows themselves.
                inner = f'SELECT pk FROM "{table.name}" WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?'
                statement = f'SELECT {columns} FROM "{table.name}" WHERE pk IN ({inner}) ORDER BY {order}'
            else:
                statement += " LIMIT ? OFFSET ?"
            values += [limit, offset]
        with self._lock:
            records = [self._record(model, table, row) for row in self._connection.execute(statement, values)]
            if records and table.many:
                self._read_lists(table, records)
            self._complete(model, records)
        return records

    def get_many(self, model: type[M], /, pks: Iterable[Any]) -> dict[Any, M]:
        """The records with these primary keys by primary key; unknown ones are missing."""
        return {record.pk: record for record in self.find(model, pk__in=list(pks))}

    def count(self, model: type[Model], /, **filters: Any) -> int:
        """How many records :meth:`find` would give without a limit."""
        table = TABLES[model]
        where, values = self._where(table, filters)
        return int(self.sql(f'SELECT count(*) FROM "{table.name}" WHERE {where}', values)[0][0])

    def exists(self, model: type[Model], /, **filters: Any) -> bool:
        """Whether :meth:`find` would give anything."""
        table = TABLES[model]
        where, values = self._where(table, filters)
        return bool(self.sql(f'SELECT 1 FROM "{table.name}" WHERE {where} LIMIT 1', values))

    def _record(self, model: type[M], table: Table, row: sqlite3.Row) -> M:
        values = dict(zip(table.columns, row, strict=True))
        for name in table.json:
            values[name] = msgspec.json.decode(values[name])
        for name in table.booleans:
            values[name] = bool(values[name])
        return model(**values)

    def _read_lists(self, table: Table, records: list[M]) -> None:
        by_pk = {record.pk: record for record in records}
        keys = msgspec.json.encode(list(by_pk)).decode()
        for name, many in table.many.items():
            rows = self._connection.execute(
                f'SELECT own, other FROM "{many.table}" WHERE own IN (SELECT value FROM json_each(?)) ORDER BY rowid',
                (keys,),
            )
            for own, other in rows:
                getattr(by_pk[own], name).append(other)

    def _complete(self, model: type[M], records: list[M]) -> None:
        """Fill in computed fields; the directory part does it for users."""

    def _where(self, table: Table, filters: dict[str, Any]) -> tuple[str, list[Any]]:
        parts: list[str] = []
        values: list[Any] = []
        if table.expires:
            live = "expires IS NULL OR expires > ?"
            parts.append(f"({live}{' OR NOT expiring' if 'expiring' in table.columns else ''})")
            values.append(self.clock())
        for name, value in filters.items():
            lookup = lookups.parse(name, value)
            if lookup.field in table.many:
                parts.append(_in_list(table, lookup, values))
            else:
                parts.append(_condition(table, lookup, values))
        return " AND ".join(parts) or "1", values

    # --- writing ----------------------------------------------------------------------------------------------------

    def save(self, record: M) -> M:
        """Insert or update a record with its lists; a missing primary key is made. Returns the same record.

        A given primary key is kept for a new record.

        :raises ValidationFailed: a unique or reference rule is broken, with the fields concerned.
        """
        table = TABLES[type(record)]
        with self.transaction():
            self.before_save(record)
            kind = CREATED
            if record.stored and self.sql(f'SELECT 1 FROM "{table.name}" WHERE pk = ?', (record.pk,)):
                kind = UPDATED
            elif not record.stored and table.key == "uuid":
                record.pk = str(uuid.uuid4())
            values = [_column(table, name, getattr(record, name)) for name in table.columns]
            try:
                if kind == UPDATED:
                    assignments = ", ".join(f'"{name}" = ?' for name in table.columns)
                    self.sql(f'UPDATE "{table.name}" SET {assignments} WHERE pk = ?', [*values, record.pk])
                else:
                    names = ", ".join(f'"{name}"' for name in table.columns)
                    marks = ", ".join("?" * len(values))
                    cursor = self._connection.execute(f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})', values)
                    if not record.stored:
                        record.pk = cursor.lastrowid
                for name, many in table.many.items():
                    self._write_list(many.table, record.pk, getattr(record, name), new=kind == CREATED)
            except sqlite3.IntegrityError as error:
                raise _refused(table, str(error)) from error
            self.notify(record, kind)
            self.after_save(record, kind)
        return record

    def _write_list(self, table: str, own: Any, wanted: list[Any], *, new: bool) -> None:
        present: set[Any] = set()
        if not new:
            present = {row[0] for row in self.sql(f'SELECT other FROM "{table}" WHERE own = ?', (own,))}
        for other in present - set(wanted):
            self.sql(f'DELETE FROM "{table}" WHERE own = ? AND other = ?', (own, other))
        for other in dict.fromkeys(wanted):
            if other not in present:
                self.sql(f'INSERT INTO "{table}" (own, other) VALUES (?, ?)', (own, other))

    def delete(self, record: Model) -> None:
        """Delete a record and what hangs on it. Deleting what is gone does nothing."""
        table = TABLES[type(record)]
        with self.transaction():
            if not self.sql(f'SELECT 1 FROM "{table.name}" WHERE pk = ?', (record.pk,)):
                return
            self.before_delete(record)
            self.sql(f'DELETE FROM "{table.name}" WHERE pk = ?', (record.pk,))
            self.notify(record, DELETED)
            self.after_delete(record)

    def before_save(self, record: Model) -> None:
        """Hook: checks and computed columns."""

    def after_save(self, record: Model, kind: str) -> None:
        """Hook: what follows from a save, in the same transaction."""

    def before_delete(self, record: Model) -> None:
        """Hook: what must be read or deleted first."""

    def after_delete(self, record: Model) -> None:
        """Hook: what follows from a deletion, in the same transaction."""

    # --- settings of the installation -------------------------------------------------------------------------------

    def setting(self, name: str) -> str | None:
        """A stored setting of this installation or ``None``."""
        rows = self.sql("SELECT value FROM setting WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_setting(self, name: str, value: str) -> None:
        """Store a setting of this installation."""
        with self.transaction():
            self.sql(
                "INSERT INTO setting VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
            )


def _casefold(text: Any) -> Any:
    return text.casefold() if isinstance(text, str) else text


def _regexp_match(operator: str, text: Any, pattern: str) -> bool:
    return lookups.compare(operator, text, pattern)


def _column(table: Table, name: str, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if name in table.json else value


def _order(table: Table, order_by: str) -> str:
    name = order_by.removeprefix("-")
    if name not in table.columns:
        raise ValueError(f"cannot order by {name}")
    return f'"{name}" {"DESC" if order_by.startswith("-") else "ASC"}, rowid'


def _in_list(table: Table, lookup: lookups.Lookup, values: list[Any]) -> str:
    many = table.many[lookup.field]
    if lookup.operator == "isnull":
        return f'{"NOT " if lookup.value else ""}EXISTS (SELECT 1 FROM "{many.table}" m WHERE m.own = pk)'
    if lookup.operator not in {"exact", "in"}:
        raise ValueError(f"{lookup.field} knows no {lookup.operator}")
    wanted = list(lookup.value) if lookup.operator == "in" else [lookup.value]
    values.append(msgspec.json.encode([getattr(item, "pk", item) for item in wanted]).decode())
    return f'pk IN (SELECT own FROM "{many.table}" WHERE other IN (SELECT value FROM json_each(?)))'


_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _condition(table: Table, lookup: lookups.Lookup, values: list[Any]) -> str:
    """One look-up on a column, or on a path inside a JSON column, as SQL."""
    if lookup.field not in table.columns:
        raise ValueError(f"unknown field {lookup.field}")
    column = f'"{lookup.field}"'
    if lookup.path:
        if lookup.field not in table.json:
            raise ValueError(f"{lookup.field} has no inner fields")
        if any('"' in key for key in lookup.path):
            raise ValueError("a quote is not allowed in a field name")
        path = "$" + "".join(f'."{key}"' for key in lookup.path)
        # Written into the statement, not bound, so that an index on the same expression can serve it.
        column = f"json_extract({column}, '{path.replace(chr(39), chr(39) * 2)}')"
    value = getattr(lookup.value, "pk", lookup.value)
    if isinstance(value, dict | list) and lookup.operator in {"exact"}:
        value = msgspec.json.encode(value).decode()
    match lookup.operator:
        case "isnull":
            return f"{column} IS {'' if value else 'NOT '}NULL"
        case "exact":
            values.append(value)
            return f"{column} IS ?"
        case "in":
            values.append(msgspec.json.encode([getattr(item, "pk", item) for item in value]).decode())
            return f"{column} IN (SELECT value FROM json_each(?))"
        case "gt" | "gte" | "lt" | "lte":
            values.append(value)
            return f"{column} {_COMPARISONS[lookup.operator]} ?"
        case "iexact":
            values.append(str(value).casefold())
            return f"casefold({column}) = ?"
        case "contains" | "icontains":
            folded = lookup.operator == "icontains"
            values.append(str(value).casefold() if folded else str(value))
            return f"instr({f'casefold({column})' if folded else column}, ?) > 0"
        case "startswith" | "istartswith":
            folded = lookup.operator == "istartswith"
            text = str(value).casefold() if folded else str(value)
            values.extend((len(text), text))
            return f"substr({f'casefold({column})' if folded else column}, 1, ?) = ?"
        case operator:
            values.extend((operator, value))
            return f"regexp_match(?, {column}, ?)"


def _refused(table: Table, message: str) -> ValidationFailed:
    """SQLite's text for a broken rule as fields; the texts name tables and columns, never values."""
    if message.startswith("UNIQUE constraint failed: "):
        names = [part.rsplit(".", 1)[-1] for part in message.removeprefix("UNIQUE constraint failed: ").split(", ")]
        known = [name for name in names if name in table.columns]
        if len(known) == 1:
            return ValidationFailed({known[0]: ["This field must be unique."]})
        return ValidationFailed(f"The fields {', '.join(names)} must make a unique set.")
    if message.startswith("NOT NULL constraint failed: "):
        return ValidationFailed({message.rsplit(".", 1)[-1]: ["This field may not be null."]})
    if message.startswith("FOREIGN KEY"):
        return ValidationFailed("A referenced object does not exist.")
    return ValidationFailed("A rule of the database is broken.")
