"""What every policy type has in common: its options, the request it judges, and its result.

A policy is plain synchronous code. The engine runs it in a thread with a time limit, unless the type says that it is
``quick`` (no waiting, no foreign code).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from core import models
from core.errors import options_error

if TYPE_CHECKING:
    from core.database import Database


@dataclass
class PolicyRequest:
    """What a policy is asked about. ``context`` is a fresh dictionary for each evaluation: assigning a key in it does
    not reach the plan, changing the objects in it does (flows.md §1.5). ``http_request`` is ``None`` outside a request.
    """

    user: models.User
    http_request: Any = None
    obj: models.Model | None = None
    context: dict[str, Any] = field(default_factory=dict)
    debug: bool = False

    @property
    def brand(self) -> models.Brand | None:
        """The brand of the HTTP request, if there is one."""
        return getattr(self.http_request, "brand", None)

    @property
    def client_ip(self) -> str | None:
        """Address of the client, if there is an HTTP request."""
        return getattr(self.http_request, "client_ip", None)


@dataclass(frozen=True)
class PolicyResult:
    """``passing`` is only ever true where code says so. ``messages`` may be shown to the user."""

    passing: bool = False
    messages: tuple[str, ...] = ()
    raw_result: Any = None


class PolicyOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the typed options of a policy; names and defaults are the API's. Unknown names are an error."""


@dataclass(frozen=True)
class PolicyServices:
    """What a policy may use: storage, and ``make``, which builds another stored policy."""

    database: Database
    make: Callable[[models.Policy], PolicyType]


class PolicyType:
    """Base of all policies. ``model`` is the blueprint's model name; one class serves one policy type."""

    model: ClassVar[str]
    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    component: ClassVar[str] = ""  # name of the admin form
    verbose_name: ClassVar[str] = ""
    quick: ClassVar[bool] = False

    def __init__(self, services: PolicyServices, policy: models.Policy) -> None:
        self.services = services
        self.policy = policy
        self.options: Any = self.read_options(policy.options)

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """The typed options of stored ones; also the check before a policy is saved.

        :raises ValidationFailed: a name is unknown, a value is of the wrong type, an expression does not compile.
        """
        try:
            return msgspec.convert(options, cls.Options)
        except msgspec.ValidationError as error:
            raise options_error(error) from None

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Judge a request.

        :raises PolicyFailed: there is no result; the binding's ``failure_result`` is used.
        """
        raise NotImplementedError
