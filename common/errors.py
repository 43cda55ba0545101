"""The error tree of everything that is shared. Each class says whether a retry makes sense.

::

    OutpostError
    ├── SettingError        a setting has a value that is not accepted          (exit code 2)
    ├── StartError          host, token or port missing or unusable             (exit code 1)
    ├── SealError           a state file is not ours, not this version, or was changed
    ├── WebSocketRefused    the core answered the WebSocket handshake with an error
    └── CoreError           a call to the core did not give an answer that can be used
        ├── CoreUnavailable     no answer, 429, 5xx                             (retry)
        │   └── CoreTimedOut    no answer in time; it may still have been heard (retry)
        ├── CoreForbidden       403: token wrong, expired or without the right
        ├── CoreNotFound        404: object gone or out of sight
        ├── CoreRejected        400: the request itself was refused
        └── CoreNonsense        an answer of the wrong type or shape            (retry)

No message may hold a password, a token, a cookie or a code.
"""

from __future__ import annotations


class OutpostError(Exception):
    """Base of all errors that this project raises on purpose."""

    retryable = False


class SettingError(OutpostError):
    """A setting's value is not accepted. ``name`` is the setting as the operator wrote it."""

    exit_code = 2

    def __init__(self, name: str, problem: str, accepted: str) -> None:
        super().__init__(f"{name}: {problem}; accepted: {accepted}")
        self.name = name
        self.problem = problem
        self.accepted = accepted


class StartError(OutpostError):
    """The daemon cannot start: no host, no token, or a port that cannot be used."""

    exit_code = 1


class SealError(OutpostError):
    """A sealed state file cannot be used: other format or key, or it was tampered with."""


class WebSocketRefused(OutpostError):
    """The core answered the WebSocket handshake with an error: token wrong, or an outpost that it may not see (403)."""

    retryable = True


class CoreError(OutpostError):
    """A call to the core gave no usable answer.

    ``call`` is method and path without query; ``status`` the HTTP status if there was one; ``request_id`` is the
    core's ``X-authentik-id``.
    """

    def __init__(
        self,
        call: str,
        problem: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        detail = f"{call}: {problem}"
        if status is not None:
            detail += f" (HTTP {status})"
        if request_id:
            detail += f" [request {request_id}]"
        super().__init__(detail)
        self.call = call
        self.problem = problem
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class CoreUnavailable(CoreError):
    """No answer, a time-out, 429 or 5xx. Trying again later makes sense."""

    retryable = True


class CoreTimedOut(CoreUnavailable):
    """No whole answer in time; the core may have acted on the request all the same."""


class CoreForbidden(CoreError):
    """403: the token is wrong, expired, or lacks the right."""


class CoreNotFound(CoreError):
    """404: the object is gone or the token may not see it."""


class CoreRejected(CoreError):
    """400: the core refused the request's content. ``fields`` holds its messages by field."""

    def __init__(self, call: str, problem: str, *, fields: dict[str, object] | None = None, **rest: object) -> None:
        super().__init__(call, problem, **rest)  # type: ignore[arg-type]
        self.fields = fields or {}


class CoreNonsense(CoreError):
    """The answer has the wrong content type or shape (a proxy's error page, a broken body)."""

    retryable = True
