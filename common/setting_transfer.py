"""``Settings`` as bytes and back: how a supervisor tells its workers what the operator decided, token included.

A worker so needs neither the environment nor the configuration files, and cannot come to another result than its
supervisor if they change meanwhile.
"""

from __future__ import annotations

import ipaddress
from dataclasses import fields
from typing import Any

import msgspec

from common.errors import OutpostError
from common.setting_values import CoreAddress, ListenAddress
from common.settings import Settings


class TransferError(OutpostError):
    """The bytes are not settings of this release. Never holds any of them."""


def to_bytes(settings: Settings) -> bytes:
    """All fields. The outcome holds the token."""
    plain: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    plain["trusted_proxies"] = [str(network) for network in settings.trusted_proxies]
    plain["extras"] = [[type_, name, list(values)] for (type_, name), values in settings.extras.items()]
    return msgspec.msgpack.encode(plain)


def from_bytes(content: bytes) -> Settings:
    """The opposite. Raises ``TransferError``."""
    try:
        plain = msgspec.msgpack.decode(content, type=dict[str, Any])
        for name, value in plain.items():
            if name.startswith("listen_"):
                plain[name] = tuple(ListenAddress(host, port) for host, port in value)
            elif name in ("warnings", "log_http_headers"):
                plain[name] = tuple(value)
        plain["core_address"] = CoreAddress(*plain["core_address"])
        plain["trusted_proxies"] = tuple(ipaddress.ip_network(text) for text in plain["trusted_proxies"])
        plain["extras"] = {(type_, name): tuple(values) for type_, name, values in plain["extras"]}
        return Settings(**plain)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
        raise TransferError("not the settings of this release") from None
