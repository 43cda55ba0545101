"""Controls (RFC 4511 §4.1.11): one row each in ``ROWS``, which is also what the root DSE advertises.

A control that is not in the table, or not for the operation it comes with, is ignored, or refused (12) when it is
critical. One that is sent twice is a protocol error: no control here has a meaning for that. So are controls with a
value that does not decode. What the controls mean is in the modules that decode them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Flag, auto
from typing import Any, Final

import msgspec

from common.errors import OutpostError
from outposts.ldap import assertion, matched_values, paging, sorting, vlv
from outposts.ldap.ber import ProtocolError, boolean
from outposts.ldap.filters import Filter
from outposts.ldap.messages import Control
from outposts.ldap.rfc import ControlOid, ResultCode
from outposts.ldap.sync_wire import PersistentSearch, SyncRequest, decode_persistent_search, decode_sync_request


class Operation(Flag):
    """Operations that a control can come with."""

    BIND = auto()
    SEARCH = auto()
    COMPARE = auto()
    WRITE = auto()
    EXTENDED = auto()


ANY = Operation.BIND | Operation.SEARCH | Operation.COMPARE | Operation.WRITE | Operation.EXTENDED
READ = Operation.SEARCH | Operation.COMPARE


class ControlError(OutpostError):
    """A request cannot be served because of its controls. ``diagnostic`` may be shown to the peer."""

    def __init__(self, code: ResultCode, diagnostic: str) -> None:
        super().__init__(diagnostic)
        self.code = code
        self.diagnostic = diagnostic


class Row(msgspec.Struct, frozen=True):
    """One control. ``field`` is the name in ``Controls`` that ``decode`` fills; ``answer`` the control sent back."""

    oid: str
    field: str
    operations: Operation
    decode: Callable[[bytes | None], Any]
    answer: str = ""
    advertised: bool = True


class Controls(msgspec.Struct, frozen=True):
    """The controls of one request that count for its operation. ``critical``: fields whose control was critical."""

    paged: paging.PagedRequest | None = None
    sort: tuple[sorting.SortKey, ...] | None = None
    view: vlv.ListView | None = None
    matched_values: tuple[Filter, ...] | None = None
    assertion: Filter | None = None
    subentries: bool | None = None
    sync: SyncRequest | None = None
    persistent: PersistentSearch | None = None
    dont_use_copy: bool = False
    manage_dsa_it: bool = False
    domain_scope: bool = False
    authorization_identity: bool = False
    proxied: bool = False
    password_policy: bool = False
    critical: frozenset[str] = frozenset()


NONE: Final = Controls()


def _given(value: bytes | None) -> bool:
    """A control that is all said by being there. A value is ignored: some clients send an empty one."""
    return True


def _subentries(value: bytes | None) -> bool:
    """RFC 3672 §3: BOOLEAN, true for subentries only, false for other entries only."""
    if value is None:
        raise ProtocolError("subentries control without value", fatal=False)
    visible, end = boolean(value, 0, len(value))
    if end != len(value):
        raise ProtocolError("octets behind the subentries value", fatal=False)
    return visible


ROWS: Final[tuple[Row, ...]] = (
    Row(ControlOid.PAGED_RESULTS, "paged", Operation.SEARCH, paging.decode),
    Row(ControlOid.SORT_REQUEST, "sort", Operation.SEARCH, sorting.decode, ControlOid.SORT_RESPONSE),
    Row(ControlOid.VLV_REQUEST, "view", Operation.SEARCH, vlv.decode, ControlOid.VLV_RESPONSE),
    Row(ControlOid.MATCHED_VALUES, "matched_values", Operation.SEARCH, matched_values.decode),
    Row(ControlOid.ASSERTION, "assertion", READ, assertion.decode),
    # Of cached directories only (sync.CONTROLS).
    Row(ControlOid.SYNC_REQUEST, "sync", Operation.SEARCH, decode_sync_request),
    Row(ControlOid.PERSISTENT_SEARCH, "persistent", Operation.SEARCH, decode_persistent_search),
    # There are no subentries, no referrals and no other domains here, so these hold without doing anything else.
    Row(ControlOid.SUBENTRIES, "subentries", Operation.SEARCH, _subentries),
    Row(ControlOid.MANAGE_DSA_IT, "manage_dsa_it", READ | Operation.WRITE, _given),
    Row(ControlOid.DOMAIN_SCOPE, "domain_scope", Operation.SEARCH, _given),
    # Directories held in memory are copies: such a request asks the core.
    Row(ControlOid.DONT_USE_COPY, "dont_use_copy", READ, _given),
    Row(
        ControlOid.AUTHORIZATION_IDENTITY_REQUEST,
        "authorization_identity",
        Operation.BIND,
        _given,
        ControlOid.AUTHORIZATION_IDENTITY_RESPONSE,
    ),
    # The answer says that a password has expired, the only fact of this kind that the core tells.
    Row(ControlOid.PASSWORD_POLICY, "password_policy", Operation.BIND, _given),
    # Known only to be refused in the words of RFC 4370: nobody may act for somebody else.
    Row(ControlOid.PROXIED_AUTHORIZATION, "proxied", ANY ^ Operation.BIND, _given, advertised=False),
)

BY_OID: Final[Mapping[str, Row]] = {row.oid: row for row in ROWS}

ADVERTISED: Final[tuple[str, ...]] = tuple(
    oid for row in ROWS if row.advertised for oid in (row.oid, row.answer) if oid
)
"""Values of supportedControl. Response controls too, as clients of the original outpost see them."""


def read(controls: Sequence[Control], operation: Operation) -> Controls:
    """The controls that count for a request. Raises ``ControlError``: 2, 12, or 123."""
    if not controls:
        return NONE
    seen: set[str] = set()
    fields: dict[str, Any] = {}
    critical: set[str] = set()
    for control in controls:
        row = BY_OID.get(control.oid)
        if row is None or not row.operations & operation:
            if control.critical:
                raise ControlError(ResultCode.UNAVAILABLE_CRITICAL_EXTENSION, "critical control not supported")
            continue
        if control.oid in seen:
            raise ControlError(ResultCode.PROTOCOL_ERROR, "the same control twice")
        seen.add(control.oid)
        if row.field == "proxied":
            raise _proxied(control)
        try:
            fields[row.field] = row.decode(control.value)
        except ProtocolError as error:
            raise ControlError(ResultCode.PROTOCOL_ERROR, error.diagnostic) from None
        if control.critical:
            critical.add(row.field)
    return Controls(**fields, critical=frozenset(critical))


def _proxied(control: Control) -> ControlError:
    """RFC 4370 §3: the control has to be critical and have a value; who may not use it is told so (123)."""
    if not control.critical or control.value is None:
        return ControlError(ResultCode.PROTOCOL_ERROR, "proxied authorization has to be critical and name somebody")
    return ControlError(ResultCode.AUTHORIZATION_DENIED, "nobody may act for somebody else")
