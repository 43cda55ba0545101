"""Pictures of users without a picture: initials on a colour, as a ``data:`` URI; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from xml.sax.saxutils import escape

DEFAULT_AVATAR = "/static/dist/assets/images/user_default.png"
CACHE_SIZE = 4096  # pictures; 400 bytes each, so at most 2 MB
# dark enough for white letters on them (contrast at least 4.5:1)
COLOURS = ("#1f5f8b", "#7a3e9d", "#2e7d32", "#9c2a2a", "#6d4c41", "#37507a", "#8a5a00", "#00695c")


@functools.lru_cache(CACHE_SIZE)
def avatar(username: str, name: str) -> str:
    """The picture for a user; the default picture if there is no user name."""
    if not username:
        return DEFAULT_AVATAR
    words = (name or username).split() or [username]
    letters = (words[0][:1] + words[-1][:1] if len(words) > 1 else words[0][:2]).upper()
    colour = COLOURS[hashlib.sha256(username.encode()).digest()[0] % len(COLOURS)]
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 64 64">'
        f'<rect width="64" height="64" fill="{colour}"/>'
        '<text x="50%" y="50%" fill="#fff" font-family="sans-serif" font-size="28" dominant-baseline="central" '
        f'text-anchor="middle">{escape(letters)}</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()
