"""Mails: a template and a user → one message, sent by SMTP in a bounded pool of threads.

A template is a name such as ``email/email_otp.html``; the text part comes from the ``.txt`` file beside it. Templates
get ``url``, ``user``, ``expires`` (a ``datetime``) and ``token``, as far as there is one. Nothing of a message is ever
logged.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import re
import smtplib
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

import jinja2

from core import models
from core.errors import Busy, ValidationFailed
from core.settings import MailSettings

THREADS = 4  # mails on their way at one time
QUEUE_LIMIT = 64  # waiting mails; more is an outage of the mail server or a flood
MAX_TIMEOUT_S = 60  # of one connection, whatever a stage says: a login waits for it
MAX_ADDRESS = 254  # characters (RFC 5321 §4.5.3.1.3 without the brackets)

# What mail systems agree on; not all of RFC 5322, which allows comments and line folding inside an address.
_ADDRESS = re.compile(r"[^\s@<>()\[\],;:\\\"]{1,64}@(?:[^\s@<>()\[\],;:\\\".]+\.)*[^\s@<>()\[\],;:\\\".]+")

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("core", "mail_templates"),
    autoescape=lambda name: name is not None and name.endswith(".html"),
    undefined=jinja2.StrictUndefined,
)


class MailFailed(Exception):
    """A mail could not be handed to the mail server. The text names neither recipient nor content."""


def is_address(text: str) -> bool:
    """Whether text is an e-mail address that can be written to."""
    return len(text) <= MAX_ADDRESS and _ADDRESS.fullmatch(text) is not None


def masked(address: str) -> str:
    """An address as it may be shown before its owner is known for certain."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}"


def check_template(name: str) -> None:
    """Refuse a template that does not exist.

    :raises ValidationFailed: there is none of this name.
    """
    known = sorted(item for item in _templates.list_templates() if item.endswith(".html") and "base" not in item)
    if name not in known:
        raise ValidationFailed({"template": [f"unknown: {name}; known: {', '.join(known)}"]})


@dataclass(frozen=True)
class Mail:
    """One message to one address. ``variables`` may hold secrets."""

    to: str
    subject: str
    template: str
    user: models.User
    variables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def message(self, sender: str) -> EmailMessage:
        """The message with its text and HTML parts.

        :raises ValueError: an address or the subject holds a line end.
        """
        names = {"user": self.user, "url": "", "token": "", "expires": None, "subject": self.subject, **self.variables}
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = self.subject, sender, self.to
        message["Date"] = email.utils.format_datetime(datetime.datetime.now(datetime.UTC))
        message["Message-ID"] = email.utils.make_msgid(domain=sender.rpartition("@")[2].rstrip(">") or "localhost")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday answers to this
        message.set_content(_templates.get_template(self.template.removesuffix(".html") + ".txt").render(names))
        message.add_alternative(_templates.get_template(self.template).render(names), subtype="html")
        return message


class Mailer:
    """Sends mails. ``default`` are the settings of the installation, for stages that have none of their own."""

    def __init__(self, default: MailSettings) -> None:
        self.default = default
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mail")
        self._waiting = 0
        self._lock = threading.Lock()

    async def send(self, mail: Mail, settings: MailSettings | None = None) -> None:
        """Hand a mail to the mail server.

        :raises MailFailed: it did not take it, or there is no mail server.
        :raises Busy: too many mails wait.
        """
        chosen = settings or self.default
        if not chosen.host:
            raise MailFailed("no mail server is configured")
        try:
            message = mail.message(chosen.from_address)
        except ValueError:
            raise MailFailed("an address or the subject cannot be written into a mail") from None
        with self._lock:
            if self._waiting >= QUEUE_LIMIT + THREADS:
                raise Busy("too many mails are waiting")
            self._waiting += 1
        future = self._pool.submit(_deliver, message, chosen)
        future.add_done_callback(lambda _: self._done())
        try:
            await asyncio.wrap_future(future)
        except (OSError, smtplib.SMTPException, ssl.SSLError) as error:
            # the texts of SMTP errors quote addresses and what the server said about them
            raise MailFailed(f"the mail server did not take a mail: {type(error).__name__}") from None

    def close(self) -> None:
        """Stop the threads; waiting mails are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self) -> None:
        with self._lock:
            self._waiting -= 1


def _deliver(message: EmailMessage, settings: MailSettings) -> None:
    timeout_s = max(1, min(settings.timeout, MAX_TIMEOUT_S))
    context = ssl.create_default_context() if settings.use_ssl or settings.use_tls else None
    server: smtplib.SMTP
    if settings.use_ssl and context is not None:
        server = smtplib.SMTP_SSL(settings.host, settings.port, timeout=timeout_s, context=context)
    else:
        server = smtplib.SMTP(settings.host, settings.port, timeout=timeout_s)
    with server:
        if settings.use_tls and not settings.use_ssl:
            server.starttls(context=context)
        if settings.username or settings.password:
            server.login(settings.username, settings.password)
        server.send_message(message)
