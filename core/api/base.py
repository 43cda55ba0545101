"""What all API handlers share: the call, the answer, rights, pages and filters (flows.md §8)."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from core import models
from core.errors import Forbidden, NotFound, ReadOnly, ValidationFailed
from core.http_request import HTTPRequest
from core.services import Services
from core.sessions import SessionHandle

T = TypeVar("T")

PAGE_SIZE = 20  # objects on a page if the client names no size
MAX_PAGE_SIZE = 100  # larger sizes are cut silently, as clients expect

NO_CREDENTIALS = "Authentication credentials were not provided."
NO_PERMISSION = "You do not have permission to perform this action."
INVALID_PAGE = "Invalid page."


@dataclass
class Answer:
    """What a handler returns: JSON, or nothing for 204."""

    data: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)  # a body that is not JSON
    content_type: str = "application/json"


@dataclass
class Call:
    """One API request. ``user`` is ``None`` without valid credentials."""

    services: Services
    http: HTTPRequest
    session: SessionHandle
    user: models.User | None
    path: Mapping[str, str]
    params: Sequence[tuple[str, str]]
    read: Callable[[], Awaitable[bytes]] = field(repr=False)
    announce: bool = False  # send the session cookie again although nothing changed

    # --- rights ----------------------------------------------------------------------------------------------------

    def require_user(self) -> models.User:
        """Whoever calls.

        :raises Forbidden: nobody is authenticated.
        """
        if self.user is None:
            raise Forbidden(NO_CREDENTIALS)
        return self.user

    def require_superuser(self) -> models.User:
        """The caller, who must be a superuser.

        :raises Forbidden: nobody is authenticated, or it is no superuser.
        """
        user = self.require_user()
        if not user.is_superuser:
            raise Forbidden(NO_PERMISSION)
        return user

    def visible(self, permission: str, model_name: str, *, own: Iterable[Any] = ()) -> set[str] | None:
        """Primary keys (text) that a list may show, ``None`` for all; outposts get an empty list instead of a refusal.

        :raises Forbidden: nobody is authenticated, or nothing is permitted.
        """
        user = self.require_user()
        pks = self.services.access.visible_pks(user, permission, model_name)
        if pks is None:
            return None
        pks = pks | {str(pk) for pk in own}
        if not pks and not self.services.access.empty_list_allowed(user):
            raise Forbidden(NO_PERMISSION)
        return pks

    def require_visible(self, permission: str, record: models.Model, name: str) -> None:
        """One object must be in the caller's sight.

        :raises NotFound: it is not; the answer is that of an object that does not exist.
        """
        if not self.services.access.may(self.require_user(), permission, record):
            raise not_found(name)

    def writable(self, record: models.Model) -> None:
        """Refuse to change what a blueprint file owns.

        :raises ReadOnly: a blueprint owns it.
        """
        owner = self.services.database.owner_of(record)
        if owner is not None:
            raise ReadOnly(f"This object is kept by the blueprint {owner}; change it there.")

    # --- parameters ------------------------------------------------------------------------------------------------

    def param(self, name: str) -> str | None:
        """The last value of a parameter, ``None`` if it is missing or empty (an empty filter does not filter)."""
        values = self.all(name)
        return values[-1] if values else None

    def all(self, name: str) -> list[str]:
        """All values of a parameter that are not empty."""
        return [value for key, value in self.params if key == name and value != ""]

    def flag(self, name: str, default: bool) -> bool:
        """A boolean parameter; text that is neither true nor false gives the default."""
        value = (self.param(name) or "").lower()
        return {"true": True, "1": True, "false": False, "0": False}.get(value, default)

    def boolean(self, name: str) -> bool | None:
        """A boolean filter; ``None`` if it is not set or not a boolean."""
        value = (self.param(name) or "").lower()
        return {"true": True, "1": True, "false": False, "0": False}.get(value)

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        :raises ValidationFailed: it is not one.
        """
        try:
            data = msgspec.json.decode(await self.read() or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValidationFailed("JSON parse error") from None
        if not isinstance(data, dict):
            raise ValidationFailed("Invalid data. Expected a dictionary.")
        return data

    # --- pages -----------------------------------------------------------------------------------------------------

    def page(self, count: int, fetch: Callable[[int, int], Sequence[T]], show: Callable[[Sequence[T]], Any]) -> Answer:
        """One page of a list of ``count`` objects. ``fetch(limit, offset)`` reads, ``show`` turns into JSON data.

        :raises NotFound: there is no such page.
        """
        size = _number(self.param("page_size"), PAGE_SIZE)
        size = min(size, MAX_PAGE_SIZE) if size > 0 else PAGE_SIZE
        pages = max(1, math.ceil(count / size))
        text = self.param("page") or "1"
        page = pages if text == "last" else _number(text, 0)
        if not 1 <= page <= pages:
            raise NotFound(INVALID_PAGE)
        start = (page - 1) * size
        found = fetch(size, start) if count else []
        pagination = {
            "next": page + 1 if page < pages else 0,
            "previous": page - 1,
            "count": count,
            "current": page,
            "total_pages": pages,
            "start_index": start + 1 if count else 0,
            "end_index": min(start + size, count),
        }
        return Answer({"pagination": pagination, "results": show(found), "autocomplete": {}})

    def listed(
        self,
        model: type[models.Model],
        filters: Mapping[str, Any],
        show: Callable[[Sequence[Any]], Any],
        *,
        ordering: Iterable[str] = (),
        keep: Callable[[Any], bool] | None = None,
    ) -> Answer:
        """A page of stored objects. ``ordering`` names the columns that the parameter of that name may use.

        ``keep`` filters in memory what the database cannot; it is for rare questions only.
        """
        database = self.services.database
        order = self.param("ordering")
        order_by = order if order is not None and order.removeprefix("-") in ordering else None
        if keep is not None:
            kept = [record for record in database.find(model, order_by=order_by, **filters) if keep(record)]
            return self.page(len(kept), lambda limit, offset: kept[offset : offset + limit], show)
        return self.page(
            database.count(model, **filters),
            lambda limit, offset: database.find(model, order_by=order_by, limit=limit, offset=offset, **filters),
            show,
        )


@dataclass(frozen=True)
class Route:
    """Method and path below ``/api/v3`` (``{name}`` for a part of it) → handler."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Answer]]


def not_found(name: str) -> NotFound:
    """The API's text for an object that is gone or out of sight; ``name`` is the class as the API calls it."""
    return NotFound(f"No {name} matches the given query.")


def by_uuid(call: Call, model: type[T], name: str, text: str) -> T:
    """The object with this UUID.

    :raises NotFound: there is none, or the text is no UUID.
    """
    try:
        pk = str(uuid.UUID(text))
    except ValueError:
        raise not_found(name) from None
    found: T | None = call.services.database.first(model, pk=pk)  # type: ignore[type-var]
    if found is None:
        raise not_found(name)
    return found


def by_number(call: Call, model: type[T], name: str, text: str) -> T:
    """The object with this integer primary key.

    :raises NotFound: there is none, or the text is no number.
    """
    found: T | None = None
    if text.isascii() and text.isdigit() and len(text) < 19:
        found = call.services.database.first(model, pk=int(text))  # type: ignore[type-var]
    if found is None:
        raise not_found(name)
    return found


def moment(value: float | None) -> str | None:
    """Unix seconds as the API's time text (RFC 3339, UTC, microseconds)."""
    if value is None:
        return None
    text = datetime.datetime.fromtimestamp(value, datetime.UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def read_moment(name: str, text: str) -> float:
    """The API's time text as Unix seconds; without zone it is UTC.

    :raises ValidationFailed: it is no time.
    """
    try:
        value = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValidationFailed({name: ["Enter a valid date/time."]}) from None
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def invalid_choice(name: str, value: str) -> ValidationFailed:
    """The API's refusal of a filter value that names nothing."""
    return ValidationFailed({name: [f"Select a valid choice. {value} is not one of the available choices."]})


def contains(whole: Any, part: Any) -> bool:
    """JSON containment: every key of ``part`` is in ``whole`` with a containing value; other values are equal."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(contains(item, wanted) for item in whole) for wanted in part)
    return bool(whole == part) and type(whole) is type(part)


def attribute_filter(call: Call) -> dict[str, Any] | None:
    """The ``attributes`` filter: a JSON object, or ``None``.

    :raises ValidationFailed: it is no JSON object.
    """
    text = call.param("attributes")
    if text is None:
        return None
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValidationFailed({"attributes": ["Value must be valid JSON."]})
    return value


def update(record: models.Model, data: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """Set the fields of ``record`` that ``data`` names; unknown names are ignored, as the API does.

    :raises ValidationFailed: a value is of the wrong type.
    """
    problems: dict[str, list[str]] = {}
    for name, kind in fields.items():
        if name not in data:
            continue
        value = data[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            problems[name] = ["Not a valid value."]
        else:
            setattr(record, name, value)
    if problems:
        raise ValidationFailed(problems)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default
