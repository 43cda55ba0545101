"""Django-style look-ups (``name=``, ``name__iexact=``, ``attributes__department=``) parsed and matched in memory.

The database translates the same parsed look-ups to SQL; policies use :func:`matches` on objects they already hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

OPERATORS = frozenset(
    {
        "exact", "iexact", "in", "contains", "icontains", "startswith", "istartswith", "endswith", "iendswith",
        "gt", "gte", "lt", "lte", "isnull", "regex", "iregex",
    }
)  # fmt: skip


class Lookup(NamedTuple):
    """``field``, the path inside it (JSON keys or fields of a related object), the operator and the value."""

    field: str
    path: tuple[str, ...]
    operator: str
    value: Any


def parse(name: str, value: Any) -> Lookup:
    """Split ``a__b__iexact`` into field ``a``, path ``(b,)`` and operator ``iexact``; no operator means ``exact``."""
    field, *rest = name.split("__")
    operator = rest.pop() if rest and rest[-1] in OPERATORS else "exact"
    return Lookup(field, tuple(rest), operator, value)


def compare(operator: str, left: Any, right: Any) -> bool:
    """Whether ``left`` stands in relation ``operator`` to ``right``. Values of unlike types never match."""
    if operator == "isnull":
        return (left is None) == bool(right)
    if operator == "in":
        return left in right
    if operator == "exact":
        return bool(left == right)
    if left is None:
        return False
    if operator in {"gt", "gte", "lt", "lte"}:
        try:
            return bool({"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[operator])
        except TypeError:
            return False
    if operator == "contains" and isinstance(left, list | tuple | dict):
        return right in left
    text, wanted = str(left), str(right)
    if operator in {"regex", "iregex"}:
        return re.search(wanted, text, re.IGNORECASE if operator == "iregex" else 0) is not None
    if operator.startswith("i"):
        text, wanted, operator = text.casefold(), wanted.casefold(), operator[1:]
    match operator:
        case "exact":
            return text == wanted
        case "contains":
            return wanted in text
        case "startswith":
            return text.startswith(wanted)
        case "endswith":
            return text.endswith(wanted)
    raise ValueError(f"unknown look-up operator {operator}")


def matches(item: object, filters: Mapping[str, Any]) -> bool:
    """Whether every look-up of ``filters`` holds for ``item``. Unknown fields raise ``AttributeError``."""
    for name, value in filters.items():
        lookup = parse(name, value)
        found = getattr(item, lookup.field)
        for key in lookup.path:
            found = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
        wanted = getattr(value, "pk", value)
        if not compare(lookup.operator, getattr(found, "pk", found), wanted):
            return False
    return True


class Related(Generic[T]):
    """A read-only list of related objects with the few query methods that policy expressions use."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = list(items)

    def all(self) -> Related[T]:
        """Everything."""
        return self

    def filter(self, **filters: Any) -> Related[T]:
        """Those for which all look-ups hold, e.g. ``filter(name__startswith="x")``."""
        return Related(item for item in self._items if matches(item, filters))

    def exclude(self, **filters: Any) -> Related[T]:
        """Those for which not all look-ups hold."""
        return Related(item for item in self._items if not matches(item, filters))

    def exists(self) -> bool:
        """Whether there is at least one."""
        return bool(self._items)

    def count(self) -> int:
        """How many."""
        return len(self._items)

    def first(self) -> T | None:
        """The first one or ``None``."""
        return self._items[0] if self._items else None

    def values_list(self, name: str, flat: bool = True) -> list[Any]:
        """One field of each object; ``flat`` is accepted for compatibility and must be true."""
        if not flat:
            raise ValueError("values_list needs flat=True")
        return [getattr(item, name) for item in self._items]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> T:
        return self._items[index]

    def __contains__(self, item: object) -> bool:
        return item in self._items
