"""Fields of prompt stages: what is shown, and what is stored of what was answered (flows.md §5.6).

Each type is one function from the posted value to the stored one; it raises :class:`Refused` with text and code. What a
person cannot change (read-only, hidden, static) never looks at the posted value.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.mail import is_address
from core.models import Prompt

CHOICES = frozenset({"radio-button-group", "dropdown"})
READ_ONLY = frozenset({"text_read_only", "text_area_read_only"})
FIXED = frozenset({"hidden", "static"})
DISPLAY_ONLY = "separator"
MAX_TEXT = 64 * 1024  # characters of one value; the flow's context must fit into a session
MAX_FILE = 128 * 1024  # characters of a file as a data address

_FILE = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,[A-Za-z0-9+/]*={0,2}")
_TRUE = frozenset({"true", "1", "on", "yes", "t", "y"})
_FALSE = frozenset({"false", "0", "off", "no", "f", "n", ""})


class Refused(Exception):
    """A value is not accepted. ``code`` is what clients test."""

    def __init__(self, text: str, code: str = "invalid") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


@dataclass
class Shown:
    """A prompt as it stands for one person now: expressions evaluated. ``choices`` are (value, label), for choices."""

    prompt: Prompt
    placeholder: Any = ""
    initial: Any = ""
    choices: list[tuple[Any, str]] = field(default_factory=list)

    @property
    def required(self) -> bool:
        """Whether an answer must have it: a value to begin with makes it optional."""
        return self.prompt.required and self.prompt.type != DISPLAY_ONLY and self.initial in ("", None)

    def challenge(self) -> dict[str, Any]:
        """The field of the challenge; values are texts there."""
        chosen = self.prompt.type in CHOICES
        return {
            "field_key": self.prompt.field_key,
            "label": self.prompt.label,
            "type": self.prompt.type,
            "required": self.prompt.required and self.prompt.type != DISPLAY_ONLY,
            "placeholder": "" if chosen else _text(self.placeholder),
            "initial_value": _text(self.initial),
            "order": self.prompt.order,
            "sub_text": self.prompt.sub_text,
            "choices": [{"value": _text(value), "label": label} for value, label in self.choices] if chosen else None,
        }

    def stored(self, answer: Mapping[str, Any]) -> tuple[bool, Any]:
        """Whether something is stored for this field, and what.

        :raises Refused: the answer is not accepted.
        """
        kind, key = self.prompt.type, self.prompt.field_key
        if kind == DISPLAY_ONLY:
            return False, None
        if kind in READ_ONLY:
            return True, _text(self.initial)
        if kind in FIXED:
            return True, self.initial if self.initial not in ("", None) else self.placeholder
        if key not in answer:
            if self.initial not in ("", None):
                return True, self.initial
            if self.required and kind not in ("checkbox", "ak-locale"):
                raise Refused("This field is required.", "required")
            return False, None
        value = answer[key]
        if value is None:
            raise Refused("This field may not be null.", "null")
        if kind in CHOICES:
            return self._chosen(value)
        if value == "" and kind not in ("checkbox", "ak-locale"):
            if self.prompt.required:
                raise Refused("This field may not be blank.", "blank")
            return (True, "") if kind in _BLANK else (False, None)
        return True, _READERS[kind](value)

    def _chosen(self, value: Any) -> tuple[bool, Any]:
        if value == "" and not self.prompt.required:
            return False, None
        for known, _ in self.choices:
            if _text(known) == _text(value):
                return True, known
        raise Refused(f'"{_text(value)[:100]}" is not a valid choice.', "invalid_choice")


def choices_of(value: Any) -> list[tuple[Any, str]]:
    """Choices from what an expression or the context gives: one value or a list, of scalars or ``{label, value}``."""
    items: Iterable[Any] = value if isinstance(value, list | tuple | set) else [] if value in ("", None) else [value]
    found = []
    for item in items:
        if isinstance(item, Mapping):
            found.append((item.get("value"), _text(item.get("label", item.get("value")))))
        else:
            found.append((item, _text(item)))
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _string(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Refused("Not a valid string.")
    text = str(value)
    if "\x00" in text:
        raise Refused("Null characters are not allowed.", "null_characters_not_allowed")
    if len(text) > MAX_TEXT:
        raise Refused(f"Ensure this field has no more than {MAX_TEXT} characters.", "max_length")
    return text


def _email(value: Any) -> str:
    text = _string(value).strip()
    if not is_address(text):
        raise Refused("Enter a valid email address.")
    return text


def _number(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,18}", str(value).strip()):
        raise Refused("A valid integer is required.")
    return int(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise Refused("Must be a valid boolean.")


def _date(value: Any) -> str:
    try:
        return datetime.date.fromisoformat(_string(value)).isoformat()
    except ValueError:
        raise Refused("Date has wrong format. Use YYYY-MM-DD.") from None


def _moment(value: Any) -> str:
    try:
        return datetime.datetime.fromisoformat(_string(value)).isoformat()
    except ValueError:
        raise Refused("Datetime has wrong format. Use YYYY-MM-DDThh:mm[:ss][+HH:MM|Z].") from None


def _file(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_FILE or not _FILE.fullmatch(value):
        raise Refused(f"Must be a file as data:<type>;base64,… of at most {MAX_FILE} characters.")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "text": _string,
    "text_area": _string,
    "username": _string,
    "email": _email,
    "password": _string,
    "number": _number,
    "checkbox": _boolean,
    "date": _date,
    "date-time": _moment,
    "file": _file,
    "ak-locale": _string,
}
_BLANK = frozenset({"text", "text_area", "username", "email", "password"})  # an optional one may be stored as ""
TYPES = frozenset(_READERS) | CHOICES | READ_ONLY | FIXED | {DISPLAY_ONLY}
