"""The error tree of the embedded core. Each class says which HTTP status it becomes and what a peer may be told.

::

    CorePartError
    ├── ValidationFailed        input is not accepted; ``fields`` says where      (400)
    │   └── BlueprintError      the same in a blueprint: file, line, entry, field
    ├── NotFound                no such object, or out of the caller's sight      (404)
    ├── Forbidden               the caller lacks the right                        (403)
    ├── ReadOnly                the object is owned by a blueprint file           (409)
    ├── TooLarge                more than may be kept was sent                    (413)
    ├── Busy                    a bounded queue is full                           (503)
    ├── PolicyFailed            a policy could not give a result (its ``failure_result`` decides)
    ├── DatabaseError           the file is unusable or was written by a newer version (exit code 1)
    └── CoreSettingError        a setting has a value that is not accepted        (exit code 2)

No message may hold a password, a token, a cookie or a code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NON_FIELD = "non_field_errors"  # the API's key for errors of the object as a whole


class CorePartError(Exception):
    """Base of all errors that the embedded core raises on purpose. ``status`` is the HTTP status it becomes."""

    status = 500


class ValidationFailed(CorePartError):
    """Input is not accepted. ``fields`` maps a field name to its messages, as the API answers them."""

    status = 400

    def __init__(self, fields: Mapping[str, list[str]] | str) -> None:
        self.fields: dict[str, list[str]] = {NON_FIELD: [fields]} if isinstance(fields, str) else dict(fields)
        super().__init__("; ".join(f"{name}: {' '.join(texts)}" for name, texts in self.fields.items()))


def options_error(error: Exception) -> ValidationFailed:
    """The text of a typed decoder (``… - at `$.name``` ) as an error of that field."""
    if isinstance(error, ValidationFailed):
        if NON_FIELD not in error.fields:
            return error
        error = ValueError(" ".join(error.fields[NON_FIELD]))
    text, _, place = str(error).partition(" - at ")
    named = re.search(r"\$\.([A-Za-z0-9_]+)", place) or re.search(r"field `([A-Za-z0-9_]+)`", text)
    return ValidationFailed({named[1]: [text]} if named else text)


class BlueprintError(ValidationFailed):
    """A blueprint cannot be applied. Nothing of it was kept.

    ``file`` names the source, ``line`` counts from 1, ``entry`` is the entry's model and id or position, ``field`` the
    attribute or identifier, each ``None`` where it does not apply.
    """

    def __init__(
        self, problem: str, *, file: str, line: int | None = None, entry: str | None = None, field: str | None = None
    ) -> None:
        where = file if line is None else f"{file}:{line}"
        if entry:
            where += f": entry {entry}"
        if field:
            where += f": {field}"
        super().__init__({field or NON_FIELD: [f"{where}: {problem}"]})
        self.args = (f"{where}: {problem}",)
        self.problem = problem
        self.file = file
        self.line = line
        self.entry = entry
        self.field = field


class NotFound(CorePartError):
    """There is no such object, or the caller may not see it."""

    status = 404


class Forbidden(CorePartError):
    """The caller lacks the right."""

    status = 403


class TooLarge(CorePartError):
    """More than may be kept was sent."""

    status = 413


class ReadOnly(CorePartError):
    """The object comes from a blueprint file and is changed there only."""

    status = 409


class Busy(CorePartError):
    """A bounded queue is full. Trying again later makes sense."""

    status = 503


class PolicyFailed(CorePartError):
    """A policy could not give a result; its binding's ``failure_result`` is used and the text becomes a message."""


class DatabaseError(CorePartError):
    """The database file cannot be used: not ours, damaged, or from a newer version."""

    exit_code = 1


class CoreSettingError(CorePartError):
    """A setting's value is not accepted. ``name`` is the setting as the operator wrote it."""

    exit_code = 2

    def __init__(self, name: str, problem: str, accepted: str) -> None:
        super().__init__(f"{name}: {problem}; accepted: {accepted}")
        self.name = name
