"""Functions that every expression has at hand and that need neither request nor storage (flows.md §6.1)."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import httpx

DNS_KEPT = 32  # answers
DNS_KEPT_S = 180.0  # three minutes
HTTP_TIMEOUT_S = 10.0  # per call of an expression; below the 30 s that a policy may take by default


class _Requests:
    """The ``requests`` name: a fresh HTTP call each, so that no cookie goes from one policy to another."""

    def __getattr__(self, name: str) -> Callable[..., httpx.Response]:
        if name not in {"get", "post", "put", "patch", "delete", "head", "options", "request"}:
            raise AttributeError(name)
        function = getattr(httpx, name)

        def call(*arguments: Any, **named: Any) -> httpx.Response:
            named.setdefault("timeout", HTTP_TIMEOUT_S)
            named.setdefault("follow_redirects", True)
            response: httpx.Response = function(*arguments, **named)
            return response

        return call


class _Kept:
    """Answers of a function for a short time, a few of them; races between threads only cost a second look-up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._answers: dict[Any, tuple[float, Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        now = time.monotonic()
        known = self._answers.get(arguments)
        if known is not None and known[0] > now:
            return known[1]
        answer = self._function(*arguments)
        if len(self._answers) >= DNS_KEPT:
            self._answers.clear()
        self._answers[arguments] = (now + DNS_KEPT_S, answer)
        return answer


def regex_match(value: str, pattern: str) -> bool:
    """Whether the pattern is found anywhere in the value."""
    return re.search(pattern, value) is not None


def regex_replace(value: str, pattern: str, replacement: str) -> str:
    """The value with every match replaced."""
    return re.sub(pattern, replacement, value)


def list_flatten(value: Any) -> Any:
    """The first item of a list (``None`` if empty), or the value itself."""
    if isinstance(value, list | tuple):
        return value[0] if value else None
    return value


def slugify(value: str) -> str:
    """Lower case letters, digits and single hyphens."""
    text = unicodedata.normalize("NFKD", str(value)).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text.lower())).strip("-_")


def _resolve_dns(host: str, version: int | None = None) -> list[str]:
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(version or 0, socket.AF_UNSPEC)
    try:
        return list(dict.fromkeys(str(row[4][0]) for row in socket.getaddrinfo(host, None, family)))
    except OSError:
        return []


def _reverse_dns(address: str) -> str:
    try:
        return socket.getfqdn(str(address))
    except OSError:
        return str(address)


HELPERS: dict[str, Any] = {
    "regex_match": regex_match,
    "regex_replace": regex_replace,
    "list_flatten": list_flatten,
    "slugify": slugify,
    "ip_address": ipaddress.ip_address,
    "ip_network": ipaddress.ip_network,
    "resolve_dns": _Kept(_resolve_dns),
    "reverse_dns": _Kept(_reverse_dns),
    "requests": _Requests(),
}
