"""One accepted RADIUS request and what may become of it: ``Answer`` or ``Silence``. Facts only, no decisions.

An ``Answer`` with Access-Accept is made in one place, ``auth.py``. ``Silence`` says that no reply is sent: RADIUS has
no way to say "ask later", and a NAS that hears nothing asks its next server (RFC 2865 §2.6).
"""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field

from outposts.radius.providers import RadiusProvider
from outposts.radius.rfc import Attribute, Code
from outposts.radius.wire import Attributes, Packet

UDP, RADSEC = "udp", "radsec"


@dataclass(slots=True, eq=False)
class Request:
    """A request that passed intake: whole, from a known client, authentic as far as its kind can show.

    ``peer`` is the client's address (unmapped, without scope) and port; ``local`` the address it was sent to, empty
    where the socket does not tell. ``received_at`` is of the monotonic clock, in seconds. Treated as constant; not
    frozen, because making one is a part of every request's cost.
    """

    packet: Packet
    provider: RadiusProvider
    peer: tuple[str, int]
    transport: str  # UDP or RADSEC
    received_at: float
    local: str = ""
    _id: str = ""

    @property
    def id(self) -> str:
        """A name for the log, made when first asked for: a version 4 UUID (RFC 9562); nothing depends on chance."""
        if not self._id:
            bits = random.getrandbits(128)
            digits = f"{bits:032x}"
            self._id = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[bits & 3]}{digits[17:20]}-{digits[20:]}"
        return self._id

    @property
    def client_ip(self) -> str:
        """The NAS's address."""
        return self.peer[0]

    @property
    def delegated_ip(self) -> str:
        """Whose address the core is told: the NAS's, or the station's where that is wanted and an IP address."""
        if self.provider.client_ip == "calling-station":
            station = self.packet.first(Attribute.CALLING_STATION_ID)
            if station is not None:
                try:
                    return str(ipaddress.ip_address(station.decode("ascii").strip()))
                except ValueError:  # a MAC address, a telephone number, no text
                    pass
        return self.peer[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its code and the attributes beside Message-Authenticator and Proxy-State, which ``wire`` adds.

    ``reason`` is the metric label of a refusal, empty for an Accept. ``username`` is whom the log shall name, if that
    is better known than by User-Name. ``stage`` and ``message`` are the core's words for the log; ``core_request`` is
    the id under which the core has logged the flow's last call.
    """

    code: Code
    attributes: Attributes = field(default=(), repr=False)
    reason: str = ""
    username: str = ""
    stage: str = ""
    message: str = field(default="", repr=False)
    core_request: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """No reply, and why: ``reason`` is the label of ``radius_dropped_total``.

    ``again``: the next copy of the packet may be worked on from the start. False where the first try may have had an
    effect, such as a code that is used up.
    """

    reason: str
    again: bool = True
    message: str = field(default="", repr=False)
    username: str = ""
