"""Which connection is bound as whom: found by session when the core ends one, by user when one is deactivated.

A session may be in use on several connections (concurrent identical binds share one flow run, cached binds share its
session), so the last one to leave is told. Plain state, no input or output.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from outposts.ldap.bind_cache import Bound, session_key

C = TypeVar("C")
B = TypeVar("B", bound=Bound)


class BoundConnections(Generic[C, B]):
    """Connections (any hashable object) and the identity each is bound as."""

    def __init__(self) -> None:
        self._identities: dict[C, B] = {}
        self._by_session: dict[str, set[C]] = {}
        self._by_user: dict[int, set[C]] = {}

    def __len__(self) -> int:
        return len(self._identities)

    def enter(self, connection: C, identity: B) -> B | None:
        """Note a bind. Returns the identity that the connection had before, if any."""
        former = self.leave(connection)
        self._identities[connection] = identity
        self._by_session.setdefault(session_key(identity.session), set()).add(connection)
        self._by_user.setdefault(identity.user_pk, set()).add(connection)
        return former

    def leave(self, connection: C) -> B | None:
        """Note that a connection is unbound or gone. Returns the identity it had, if any."""
        identity = self._identities.pop(connection, None)
        if identity is not None:
            _discard(self._by_session, session_key(identity.session), connection)
            _discard(self._by_user, identity.user_pk, connection)
        return identity

    def uses(self, identity: B) -> bool:
        """Whether any connection rests on this identity's session."""
        return session_key(identity.session) in self._by_session

    def of_session(self, session_id: str) -> list[C]:
        """The connections of a session."""
        return list(self._by_session.get(session_id, ()))

    def of_user(self, user_pk: int) -> list[C]:
        """The connections of a user."""
        return list(self._by_user.get(user_pk, ()))

    def of_provider(self, provider_pk: int) -> list[C]:
        """The connections that were bound through a provider."""
        return [connection for connection, identity in self._identities.items() if identity.provider_pk == provider_pk]


K = TypeVar("K")


def _discard(sets: dict[K, set[C]], key: K, member: C) -> None:
    members = sets.get(key)
    if members is not None:
        members.discard(member)
        if not members:
            del sets[key]
