"""What every record of the embedded core has in common; see :mod:`core.models`."""

from __future__ import annotations

from typing import Any, ClassVar


class Model:
    """Base of all records: equal when class and stored ``pk`` are equal, like rows of a database."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    pk: Any

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Model):
            return NotImplemented
        return self is other or (self.stored and self.pk == other.pk)

    def __hash__(self) -> int:
        return hash((type(self), self.pk)) if self.stored else id(self)

    @property
    def stored(self) -> bool:
        """Whether the object has a primary key."""
        return self.pk not in (None, "")
