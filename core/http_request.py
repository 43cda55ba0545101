"""What planner, stages and policies see of the HTTP request; made by ``core.server``, without any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from core.models import Brand, Outpost, User

FALLBACK_CLIENT_IP = "255.255.255.255"  # no usable address at all (flows.md §3.9)


@dataclass
class HTTPRequest:
    """One request. ``query`` is the parsed *inner* query of the executor, the page's own query string.

    ``outpost`` is set when the request carried valid outpost headers; ``client_ip`` is then the address they gave.
    ``client_certificate`` is the name and text of the header with the client's certificate, only if whoever sent it is
    trusted with that. ``target`` is the path with the raw query as it was sent. Values of ``query`` are the last of
    each name.
    """

    method: str
    path: str
    target: str
    host: str
    secure: bool
    client_ip: str
    user: User
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: dict[str, str] = field(default_factory=dict, repr=False)
    brand: Brand | None = None
    outpost: Outpost | None = None
    request_id: str = ""
    session: Any = field(default=None, repr=False)
    client_certificate: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def GET(self) -> dict[str, str]:
        """The inner query under the name that policy expressions use."""
        return self.query

    @property
    def POST(self) -> dict[str, str]:
        """Always empty: bodies are JSON and belong to stages."""
        return {}

    @property
    def META(self) -> dict[str, str]:
        """Headers as CGI names (``HTTP_USER_AGENT``), the form that policy expressions use."""
        found = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in self.headers.items()}
        return found | {"REMOTE_ADDR": self.client_ip, "REQUEST_METHOD": self.method, "PATH_INFO": self.path}


def parse_query(text: str) -> dict[str, str]:
    """A query string as a dictionary; the last value of a name wins, blank values stay."""
    return dict(parse_qsl(text.removeprefix("?"), keep_blank_values=True))
