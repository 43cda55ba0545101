"""Compare (RFC 4511 §4.10) on a snapshot: one entry, one assertion."""

from __future__ import annotations

from outposts.ldap import assertion
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN, DNError
from outposts.ldap.evaluation import matches
from outposts.ldap.filters import Equality, Filter, attribute_description
from outposts.ldap.messages import CompareRequest
from outposts.ldap.rfc import ResultCode
from outposts.ldap.search import Viewer


def compare(snapshot: Snapshot, request: CompareRequest, viewer: Viewer, asserted: Filter | None = None) -> ResultCode:
    """compareTrue or compareFalse; 32 without such an entry, 16 without such an attribute, 17 for an unknown one.

    ``asserted``: the assertion control's filter; 122 if it is not true for the entry (RFC 4528).
    """
    try:
        name = DN.parse(request.name)
    except DNError:
        return ResultCode.INVALID_DN_SYNTAX
    seen = snapshot if viewer.full else snapshot.view(viewer.user_pk)
    number = seen.number_of(name)
    if number < 0:
        return ResultCode.NO_SUCH_OBJECT
    if asserted is not None and not assertion.holds(seen, name, asserted):
        return ResultCode.ASSERTION_FAILED
    attribute = attribute_description(request.attribute)
    canonical = seen.schema.canonical(attribute) if attribute is not None else None
    if attribute is None or canonical is None:
        return ResultCode.UNDEFINED_ATTRIBUTE_TYPE
    if not seen.values(number, canonical):
        return ResultCode.NO_SUCH_ATTRIBUTE
    if number in matches(seen, Equality(attribute, request.value)):
        return ResultCode.COMPARE_TRUE
    return ResultCode.COMPARE_FALSE
