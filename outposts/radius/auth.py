"""Access-Request: from the packet to the core's verdict and back to a reply. The one place where Accept is stated."""

from __future__ import annotations

from outposts.radius.request import Answer, Request, Silence


class Authenticator:
    """Decides Access-Requests. One per process."""

    def at_once(self, request: Request) -> Answer | Silence | None:
        """The answer where nobody has to be asked. None: call ``answer``."""
        raise NotImplementedError

    async def answer(self, request: Request) -> Answer | Silence:
        """Decide one Access-Request. Never raises but for cancellation."""
        raise NotImplementedError
