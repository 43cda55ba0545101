"""Reply attributes of RADIUS providers: property mappings → one packet, as ``check_access`` hands it to outposts.

Each mapping's expression runs over one shared pyrad packet: ``packet["Name"] = value`` or a list of values,
``packet.AddAttribute("Name", value)``, ``packet[number] = [raw bytes]`` for what ``attributes.dictionary`` does not
name, and ``define_attribute(...)`` for attributes of further vendors. The packet is an Access-Request without
Message-Authenticator whose identifier and authenticator mean nothing: only its attributes count.
"""

from __future__ import annotations

import base64
import copy
import functools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrad.dictionary import Attribute, Dictionary
from pyrad.packet import AccessRequest, AuthPacket

from core import models
from core.policies.base import PolicyRequest
from core.policies.environment import SkipObject
from core.policies.expression import evaluate
from core.services import Services

RADIUS_MAPPING = "authentik_providers_radius.radiusproviderpropertymapping"
DICTIONARY = Path(__file__).with_name("attributes.dictionary")
MAPPING_TIMEOUT_S = 5.0  # all mappings of one login; a NAS asks again after that long
MAX_PACKET = 4096  # octets (RFC 2865 §3)
MAX_ERROR_TEXT = 500  # characters of an exception's text that go into the event
CONFIGURATION_ERROR = "configuration_error"
APP = "authentik.providers.radius"


@functools.cache
def _dictionary() -> Dictionary:
    """The names that every mapping finds."""
    return Dictionary(str(DICTIONARY))


def _own_dictionary() -> Dictionary:
    """A dictionary that one login may add to: attributes are shared, what names them is not."""
    base = _dictionary()
    own = copy.copy(base)
    own.attributes = dict(base.attributes)
    for name in ("vendors", "attrindex"):
        twin = copy.copy(getattr(base, name))
        twin.forward, twin.backward = dict(twin.forward), dict(twin.backward)
        setattr(own, name, twin)
    return own


def _definer(dictionary: Dictionary) -> Callable[..., None]:
    def define_attribute(
        vendor_code: int, vendor_name: str, attribute_name: str, attribute_code: int, attribute_type: str
    ) -> None:
        """Make ``<vendor_name>-<attribute_name>`` known as a vendor-specific attribute (RFC 2865 §5.26)."""
        dictionary.vendors.Add(vendor_name, vendor_code)
        name = f"{vendor_name}-{attribute_name}"
        dictionary.attributes[name] = Attribute(name, attribute_code, attribute_type, vendor=vendor_name)
        dictionary.attrindex.Add(name, (vendor_code, attribute_code))

    return define_attribute


class MappingFailed(Exception):
    """A mapping raised, or what the mappings made is no packet. ``mapping`` is ``None`` in the second case."""

    def __init__(self, mapping: models.PropertyMapping | None, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}"[:MAX_ERROR_TEXT])
        self.mapping = mapping


def _build(mappings: list[models.PropertyMapping], request: PolicyRequest, names: dict[str, Any]) -> bytes:
    dictionary = _own_dictionary()
    packet = AuthPacket(
        code=AccessRequest,
        id=secrets.randbelow(256),
        secret=b"",
        authenticator=secrets.token_bytes(16),
        dict=dictionary,
    )
    names = names | {"packet": packet, "user": request.user, "define_attribute": _definer(dictionary)}
    names["SkipObject"] = SkipObject
    for mapping in mappings:
        try:
            evaluate(mapping.options["expression"], mapping.name, names)
        except SkipObject:
            continue
        except (Exception, RecursionError) as error:
            raise MappingFailed(mapping, error) from error
    try:
        packet.message_authenticator = None
        encoded = bytes(packet.RequestPacket())
        if len(encoded) > MAX_PACKET:
            raise ValueError(f"{len(encoded)} octets; a packet has at most {MAX_PACKET}")
    except Exception as error:
        raise MappingFailed(None, error) from error
    return encoded


async def reply_attributes(
    services: Services, provider: models.Provider, user: models.User, http_request: Any
) -> str | None:
    """Base64 of the packet with the attributes for ``user``; mappings run in order of their names.

    ``None`` if a mapping failed, which also stores an event: access does not depend on it, the outpost decides.
    """
    found = services.database.get_many(models.PropertyMapping, provider.property_mappings)
    mappings = sorted(
        (mapping for mapping in found.values() if mapping.type == RADIUS_MAPPING), key=lambda mapping: mapping.name
    )
    request = PolicyRequest(user=user, http_request=http_request, obj=provider)
    try:
        if not mappings:
            encoded = _build([], request, {})
        else:
            encoded = await services.engine.compute(
                lambda names: _build(mappings, request, names), request, provider.name, MAPPING_TIMEOUT_S
            )
    except Exception as error:
        mapping = error.mapping if isinstance(error, MappingFailed) else None
        services.database.log_event(
            CONFIGURATION_ERROR,
            APP,
            context={
                "message": f"Failed to evaluate property mapping: {error}",
                "provider": {"pk": provider.pk, "name": provider.name, "model_name": provider.type},
                "mapping": {"pk": mapping.pk, "name": mapping.name} if mapping is not None else None,
            },
            user=user,
            client_ip=getattr(http_request, "client_ip", None),
        )
        return None
    return base64.b64encode(encoded).decode()
