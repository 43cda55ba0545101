"""Second factors of users, one record class per kind (flows.md §5.11). WebAuthn and its keys are not here.

A device counts once it is ``confirmed``. ``throttling_failure_*`` is its back-off after wrong codes (:mod:`core.otp`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from core.model_base import Model

HASHED_NUMBER = "hash:"  # in front of a phone number of which only the hash is kept


@dataclass(kw_only=True, eq=False)
class _Device(Model):
    """What all devices have."""

    pk: int | None = None
    user: int
    name: str
    confirmed: bool = True
    throttling_failure_timestamp: float | None = None
    throttling_failure_count: int = 0
    created: float = 0.0
    last_used: float | None = None


@dataclass(kw_only=True, eq=False)
class TOTPDevice(_Device):
    """A time-based one-time password generator. ``key`` is the secret in hex; ``drift`` and ``last_t`` count steps."""

    key: str = field(repr=False)
    step: int = 30
    t0: int = 0
    digits: int = 6
    tolerance: int = 1
    drift: int = 0
    last_t: int = -1


@dataclass(kw_only=True, eq=False)
class StaticDevice(_Device):
    """A list of codes that work once each; a used code is removed from ``tokens``."""

    tokens: list[str] = field(default_factory=list, repr=False)


@dataclass(kw_only=True, eq=False)
class _SentCode(_Device):
    """A device to which codes are sent: the last one, until when it counts, and the stage that says how it is sent."""

    stage: str | None = None
    token: str = field(default="", repr=False)
    valid_until: float = 0.0


@dataclass(kw_only=True, eq=False)
class EmailDevice(_SentCode):
    """An e-mail address that gets codes."""

    email: str


@dataclass(kw_only=True, eq=False)
class SMSDevice(_SentCode):
    """A phone number that gets codes; one of which only the hash is kept was good for one verification."""

    phone_number: str

    @property
    def is_hashed(self) -> bool:
        """Whether the number is not known any more."""
        return self.phone_number.startswith(HASHED_NUMBER)


@dataclass(kw_only=True, eq=False)
class DuoDevice(_Device):
    """A user as Duo knows it; ``stage`` has the keys of the Duo application."""

    stage: str
    duo_user_id: str


Device = TOTPDevice | StaticDevice | EmailDevice | SMSDevice | DuoDevice
DEVICES: tuple[type[Device], ...] = (StaticDevice, TOTPDevice, EmailDevice, SMSDevice, DuoDevice)
