"""Codes that are sent to a device: making them, checking them during set-up, and the options of mail servers.

While a device is set up its address and a keyed hash of the code live in the flow's context, so that whoever may look
at the context (the inspector) does not see the code.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import msgspec

from core import durations
from core.errors import ValidationFailed
from core.mail import check_template, is_address
from core.services import Services
from core.settings import MailSettings
from core.stages.base import Options, check_duration

DIGITS = 6
MAX_ATTEMPTS = 5  # wrong codes while a device is set up; then a new code must be asked for


class SetupOptions(Options, kw_only=True):
    """What all set-up stages have: who may set a device up from the outside, and how devices are called."""

    configure_flow: str | None = None
    friendly_name: str = ""


class MailOptions(Options, kw_only=True):
    """A mail server of a stage's own; ``timeout`` in seconds."""

    use_global_settings: bool = False
    host: str = "localhost"
    port: int = 25
    username: str = ""
    password: str = ""
    use_tls: bool = False
    use_ssl: bool = False
    timeout: int = 10
    from_address: str = "system@authentik.local"
    subject: str = "authentik"
    template: str = ""
    token_expiry: str = "minutes=30"  # noqa: S105 - a duration


def check_mail_options(options: MailOptions) -> None:
    """What types alone cannot say.

    :raises ValidationFailed: a port, address, template or duration is not possible.
    """
    if not 0 < options.port < 65536:
        raise ValidationFailed({"port": ["must be from 1 to 65535"]})
    if not is_address(options.from_address):
        raise ValidationFailed({"from_address": ["Enter a valid email address."]})
    check_template(options.template)
    check_duration("token_expiry", options.token_expiry)


def mail_settings(options: MailOptions, services: Services) -> MailSettings:
    """The mail server that a stage uses."""
    if options.use_global_settings:
        return services.mailer.default
    return MailSettings(
        host=options.host,
        port=options.port,
        username=options.username,
        password=options.password,
        use_tls=options.use_tls,
        use_ssl=options.use_ssl,
        timeout=options.timeout,
        from_address=options.from_address,
    )


def new_code() -> str:
    """A fresh random code."""
    return str(secrets.randbelow(10**DIGITS)).zfill(DIGITS)


class Pending(msgspec.Struct, kw_only=True):
    """A device that is being set up: where its code went, its hash, until when it counts, wrong answers so far."""

    to: str
    digest: str
    valid_until: float
    failures: int = 0

    @classmethod
    def make(cls, services: Services, to: str, code: str, expiry: str) -> Pending:
        """What to keep of a code that goes to ``to``."""
        return cls(to=to, digest=_digest(services, to, code), valid_until=services.now() + durations.seconds(expiry))

    @classmethod
    def read(cls, value: Any) -> Pending | None:
        """From the flow's context, ``None`` if there is none."""
        return msgspec.convert(value, cls) if isinstance(value, dict) else None

    def data(self) -> dict[str, Any]:
        """For the flow's context."""
        return {"to": self.to, "digest": self.digest, "valid_until": self.valid_until, "failures": self.failures}

    def accepts(self, services: Services, code: str) -> bool:
        """Whether this is the code; a wrong one counts."""
        if self.failures >= MAX_ATTEMPTS or services.now() >= self.valid_until:
            return False
        if hmac.compare_digest(self.digest, _digest(services, self.to, code)):
            return True
        self.failures += 1
        return False


def _digest(services: Services, to: str, code: str) -> str:
    return hmac.digest(services.derived_key("sent-code"), f"{to}\0{code}".encode(), "sha256").hex()
