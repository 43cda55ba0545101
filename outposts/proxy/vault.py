"""How one provider's sessions look inside a store: sealed, and found again only by who knows the provider's secret.

All keys come from the provider's ``cookie_secret`` and ``client_id`` (HKDF-SHA256): whoever has a copy of a store
learns neither who is logged in nor any token, a session that is brought to another provider cannot be opened there, and
after a change of the secret all its sessions are over. Level 2: randomness is an argument.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from outposts.proxy import session as sessions
from outposts.proxy.providers import ProxyProvider
from outposts.proxy.session import Session, StoredError

NONCE_SIZE = 12  # octets, the size GCM is made for (NIST SP 800-38D §8.2)
INDEX_SIZE = 16  # octets of a keyed digest: two users with one digest will not be seen
_SALT = b"outposts proxy"


class Vault:
    """Seals one provider's sessions and kept forms, and names users without naming them."""

    __slots__ = ("_cipher", "_index_key", "_owner", "client_id", "pk")

    def __init__(self, pk: int, client_id: str, cookie_secret: str) -> None:
        self.pk = pk
        self.client_id = client_id
        self._owner = b"%d\0%b" % (pk, client_id.encode())

        def derived(purpose: bytes) -> bytes:
            info = b"outposts proxy " + purpose + b"\0" + self._owner
            return HKDF(SHA256(), 32, salt=_SALT, info=info).derive(cookie_secret.encode())

        self._cipher = AESGCM(derived(b"session"))
        self._index_key = derived(b"index")

    def __repr__(self) -> str:
        return f"Vault({self.pk})"

    def subject_index(self, subject: str) -> bytes:
        """What sessions of a user are found by; b"" for nobody."""
        return self._index(b"subject\0", subject)

    def sid_index(self, sid: str) -> bytes:
        """What sessions of a login at the core are found by; b"" if there was none."""
        return self._index(b"sid\0", sid)

    def _index(self, kind: bytes, name: str) -> bytes:
        if not name:
            return b""
        return hmac.digest(self._index_key, kind + name.encode("utf-8", "surrogatepass"), "sha256")[:INDEX_SIZE]

    def seal(self, session: Session, random: Callable[[int], bytes]) -> bytes:
        """A session as a store keeps it. Raises ``StoredError`` if it is too large."""
        octets = sessions.encode(session)
        if len(octets) > sessions.MAX_STORED:
            raise StoredError("too large")
        return self.seal_octets(b"session", session.key, octets, random)

    def open(self, key: bytes, sealed: bytes, provider: ProxyProvider) -> Session:
        """A session out of a store. Raises ``StoredError`` if it is not this provider's, or was changed."""
        session = sessions.decode(key, self.open_octets(b"session", key, sealed), provider.options)
        if session.provider_pk != provider.pk or session.client_id != provider.client_id:
            raise StoredError("another provider's")
        session.client_id = provider.client_id  # one text for all sessions
        return session

    def seal_octets(self, kind: bytes, name: bytes, octets: bytes, random: Callable[[int], bytes]) -> bytes:
        """Anything else that is kept under a name."""
        nonce = random(NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, octets, kind + b"\0" + name)

    def open_octets(self, kind: bytes, name: bytes, sealed: bytes) -> bytes:
        """What was sealed under this kind and name. Raises ``StoredError``."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], kind + b"\0" + name)
        except (InvalidTag, ValueError):
            raise StoredError("sealed by somebody else, or changed") from None
