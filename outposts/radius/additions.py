"""Accounting, disconnecting and RadSec as parts of the service (``extension.Extension``); off until asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import logs, metrics
from common.cache import Configuration
from common.errors import StartError
from common.outcomes import CoreSession
from outposts.radius.accounting import Accounting, Journal, NotRecorded, Recorded, Session
from outposts.radius.das_sender import Disconnector
from outposts.radius.extension import Extension, Parts
from outposts.radius.journal import FILE_NAME, SqliteJournal
from outposts.radius.listed import SessionsSocket
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.radsec import Limits, Server
from outposts.radius.request import Request

log = logs.get_logger("radius")


def additions(parts: Parts) -> Sequence[Extension]:
    """What a daemon has beside Access-Requests over UDP."""
    radsec = RadsecPart(parts)
    disconnecting = DisconnectPart(parts, radsec.server)
    return (AccountingPart(parts, disconnecting.disconnector), disconnecting, radsec)


class Part:
    """An extension that does nothing; the ones below do something at some points."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """These are in service from now on."""

    async def listen(self, *, shared: bool) -> list[tuple[str, str, int]]:
        """No listeners."""
        return []

    def accepted(self, request: Request, session: CoreSession, class_: bytes, user_name: str) -> None:
        """Somebody is let in."""

    def session_ended(self, session_id: str) -> None:
        """A session of the core has ended."""

    def sweep(self) -> None:
        """Some seconds have passed."""

    def not_ready(self) -> list[str]:
        """It can do its work."""
        return []

    def stop_listening(self) -> None:
        """Nothing to stop."""

    async def close(self) -> None:
        """Nothing to close."""


class AccountingPart(Part):
    """Records sessions for providers with ``accounting``; tells ``outposts radius sessions`` and the disconnector."""

    def __init__(self, parts: Parts, disconnector: Disconnector) -> None:
        super().__init__(parts)
        context = parts.context
        self.accounting = Accounting(context.clock, report_event=context.api.report_event)
        self.accounting.listeners.append(disconnector.recorded)
        self.accounting.events = lambda provider: bool(parts.extra("accounting_events", provider))
        self._socket = SessionsSocket(self.accounting.sessions, context.settings.tmpdir)
        self._record = ""
        self._problem = ""
        metrics.radius_sessions.set_function(lambda: len(self.accounting.sessions))

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """Take accounting if a provider asks for it. The kind of record is fixed from then on."""
        sessions = self.accounting.sessions
        sessions.max_sessions = self.parts.extra("accounting_max_sessions", "")
        sessions.stale_after_s = self.parts.extra("accounting_stale", "")
        if not any(provider.accounting for provider in providers):
            self.parts.desk.accounting = None
            return
        wanted = self.parts.extra("accounting_record", "")
        if not self._record:
            self._record = wanted
            self.accounting.journal = self._journal(wanted)
            await self._socket.listen()
        elif wanted != self._record:
            log.error("accounting_record has changed; the daemon has to be restarted for it", record=self._record)
        if self.accounting.journal is not None and (not self.accounting.started or self._problem):
            try:
                await self.accounting.start(restore=self.parts.sole)
                self._problem = ""
            except NotRecorded as error:
                if str(error) != self._problem:
                    log.error("accounting cannot be recorded", problem=str(error))
                self._problem = str(error)
        self.parts.desk.accounting = self.accounting

    def _journal(self, wanted: str) -> Journal | None:
        settings = self.parts.context.settings
        keep_s = self.parts.extra("accounting_keep", "")
        stale_s = self.parts.extra("accounting_stale", "")
        if wanted == "memory":
            return None
        try:
            if wanted == "sqlite":
                if settings.record_dir is None:
                    raise StartError("accounting_record=sqlite needs OUTPOSTS_STATE_DIR")
                path = Path(settings.record_dir) / FILE_NAME
                return SqliteJournal(path, keep_s, self.parts.context.clock, stale_s=stale_s)
            if not settings.redis_url:
                raise StartError("accounting_record=redis needs OUTPOSTS_REDIS_URL")
            from outposts.radius.journal_redis import RedisJournal

            return RedisJournal(settings.redis_url, keep_s, stale_s=stale_s)
        except StartError as error:
            return NoJournal(str(error))

    def sweep(self) -> None:
        """Give up sessions that have not been heard of."""
        self.accounting.sweep()

    def not_ready(self) -> list[str]:
        """A record that was asked for and cannot be kept."""
        return [f"accounting: {self._problem}"] if self._problem else []

    async def close(self) -> None:
        """Write what is left."""
        await self._socket.close()
        await self.accounting.close()


class NoJournal:
    """The record that an operator has asked for and that cannot be: no report is answered, so none is lost."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    async def note(self, recorded: Recorded) -> None:
        """Refuse."""
        raise NotRecorded(self._problem)

    async def open_sessions(self) -> Sequence[Session]:
        """Refuse."""
        raise NotRecorded(self._problem)

    async def close(self) -> None:
        """Nothing to close."""


class DisconnectPart(Part):
    """Ends the network's session when the core's ends, for providers with ``das``."""

    def __init__(self, parts: Parts, radsec: Server) -> None:
        super().__init__(parts)
        self.disconnector = Disconnector(
            self._provider_of, clock=parts.context.clock, port_of=self._port_of, ask_radsec=radsec.ask
        )
        metrics.radius_logins_remembered.set_function(lambda: len(self.disconnector.logins))

    def _provider_of(self, pk: int) -> RadiusProvider | None:
        return self.parts.desk.intake.providers.by_pk.get(pk)

    def _port_of(self, provider: RadiusProvider) -> int:
        port: int = self.parts.extra("das_port", provider.name)
        return port

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """How much is remembered."""
        self.disconnector.logins.max_age_s = self.parts.extra("das_remember", "")
        self.disconnector.logins.max_logins = self.parts.extra("das_max_logins", "")

    def accepted(self, request: Request, session: CoreSession, class_: bytes, user_name: str) -> None:
        """Remember it."""
        self.disconnector.remember(
            session.session_id, request, class_=class_, user_name=user_name.encode() if user_name else None
        )

    def session_ended(self, session_id: str) -> None:
        """Disconnect whom it let in."""
        self.disconnector.session_ended(session_id)

    def sweep(self) -> None:
        """Forget what is too old."""
        self.disconnector.sweep()

    async def close(self) -> None:
        """Give up what is in flight."""
        await self.disconnector.close()


class RadsecPart(Part):
    """Listens for RadSec on ``OUTPOSTS_LISTEN__RADSEC`` and, with pre-shared keys, on the address beside it."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.server = Server(parts.desk, parts.pairs)
        self._settings = parts.context.settings

    async def apply(self, configuration: Configuration, providers: Providers) -> None:
        """Serve these clients from now on."""
        if not (self._settings.listen_radsec or self._settings.listen_radsec_psk):
            return
        config = configuration.outpost.config
        limits = Limits(
            max_connections=self._extra("max_connections", config),
            max_connections_per_address=self._extra("max_connections_per_address", config),
            max_outstanding=self._extra("max_outstanding", config),
            handshake_timeout=self._extra("handshake_timeout", config),
            idle_timeout=self._extra("idle_timeout", config),
        )
        self.server.configure(
            providers,
            lambda provider: self._extra("clients", config, provider.name),
            limits,
            ca_path=self._extra("ca", config),
            psk_file=self._extra("psk_file", config),
            versions=self._extra("versions", config),
        )
        if not len(self.server.clients):
            log.warning("RadSec listens, and no provider has clients: see x_radsec_clients")

    def _extra(self, name: str, config: Mapping[str, Any], provider_name: str = "") -> Any:
        return self._settings.extra("radsec", name, config, provider_name)

    async def listen(self, *, shared: bool) -> list[tuple[str, str, int]]:
        """Open the listeners."""
        bound = []
        for address in self._settings.listen_radsec:
            bound += await self.server.listen(address, shared=shared)
        for address in self._settings.listen_radsec_psk:
            bound += await self.server.listen_psk(address, shared=shared)
        return bound

    def stop_listening(self) -> None:
        """Accept nobody new; replies can still be sent."""
        self.server.stop_listening()

    async def close(self) -> None:
        """Say goodbye to everybody."""
        await self.server.close()
