"""Values of the controls for following a directory: both ways, and octets that other implementations send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.ldap import sync_wire as w
from outposts.ldap.ber import ProtocolError

uuids = st.binary(min_size=16, max_size=16)
cookies = st.none() | st.binary(max_size=40)


@given(st.builds(w.SyncRequest, st.sampled_from(w.SyncMode), cookies, st.booleans()))
def test_sync_request(value: w.SyncRequest) -> None:
    """What is encoded is decoded."""
    assert w.decode_sync_request(w.encode_sync_request(value)) == value


@given(st.builds(w.SyncStateValue, st.sampled_from(w.SyncState), uuids, cookies))
def test_sync_state(value: w.SyncStateValue) -> None:
    """What is encoded is decoded."""
    assert w.decode_sync_state(w.encode_sync_state(value)) == value


@given(st.builds(w.SyncDone, cookies, st.booleans()))
def test_sync_done(value: w.SyncDone) -> None:
    """What is encoded is decoded."""
    assert w.decode_sync_done(w.encode_sync_done(value)) == value


@given(
    st.one_of(
        st.builds(w.SyncInfo, st.just(w.InfoKind.NEW_COOKIE), st.binary(max_size=40)),
        st.builds(
            w.SyncInfo, st.sampled_from([w.InfoKind.REFRESH_DELETE, w.InfoKind.REFRESH_PRESENT]), cookies, st.booleans()
        ),
        st.builds(
            w.SyncInfo, st.just(w.InfoKind.ID_SET), cookies, st.booleans(), st.lists(uuids, max_size=4).map(tuple)
        ),
    )
)
def test_sync_info(value: w.SyncInfo) -> None:
    """What is encoded is decoded."""
    assert w.decode_sync_info(w.encode_sync_info(value)) == value


@given(st.builds(w.PersistentSearch, st.integers(1, 15), st.booleans(), st.booleans()))
def test_persistent_search(value: w.PersistentSearch) -> None:
    """What is encoded is decoded."""
    assert w.decode_persistent_search(w.encode_persistent_search(value)) == value


@given(st.builds(w.EntryChange, st.sampled_from(w.ChangeType), cookies, st.none() | st.integers(0, 2**31 - 1)))
def test_entry_change(value: w.EntryChange) -> None:
    """What is encoded is decoded."""
    assert w.decode_entry_change(w.encode_entry_change(value)) == value


@given(st.integers(0, 2**31 - 1))
def test_cancel(message_id: int) -> None:
    """What is encoded is decoded."""
    assert w.decode_cancel(w.encode_cancel(message_id)) == message_id


@pytest.mark.parametrize(
    ("decode", "octets", "value"),
    [
        # ldapsearch -E sync=ro, and sync=rp/x
        (w.decode_sync_request, "3003 0a0101", w.SyncRequest(w.SyncMode.REFRESH_ONLY)),
        (w.decode_sync_request, "3006 0a0103 040178", w.SyncRequest(w.SyncMode.REFRESH_AND_PERSIST, b"x")),
        # defaults written out, as some encoders do
        (w.decode_sync_request, "3006 0a0101 010100", w.SyncRequest(w.SyncMode.REFRESH_ONLY)),
        (w.decode_sync_done, "3000", w.SyncDone()),
        (w.decode_sync_info, "a100", w.SyncInfo(w.InfoKind.REFRESH_DELETE, None, True)),
        (w.decode_sync_info, "a203010100", w.SyncInfo(w.InfoKind.REFRESH_PRESENT, None, False)),
        # the request of a persistent search for everything, as in the draft's ASN.1
        (w.decode_persistent_search, "3009 02010f 0101ff 0101ff", w.PersistentSearch(15, True, True)),
        (w.decode_entry_change, "3003 0a0101", w.EntryChange(w.ChangeType.ADD)),
        (w.decode_cancel, "3003 020107", 7),
    ],
)
def test_octets_of_others(decode: Callable[[bytes | None], Any], octets: str, value: object) -> None:
    """Known encodings."""
    assert decode(bytes.fromhex(octets)) == value


@pytest.mark.parametrize(
    ("decode", "octets"),
    [
        (w.decode_sync_request, ""),
        (w.decode_sync_request, "3000"),
        (w.decode_sync_request, "3003 0a0102"),
        (w.decode_sync_request, "3003 0a0101 00"),
        (w.decode_sync_request, "308204080a0101 04820401" + "61" * 1025),
        (w.decode_sync_state, "3006 0a0101 040161"),
        (w.decode_sync_state, "3015 0a0104 0410" + "00" * 16),
        (w.decode_sync_info, "a400"),
        (w.decode_sync_info, "a100 00"),
        (w.decode_sync_info, "a305 3103 040161"),
        (w.decode_persistent_search, "3009 020110 0101ff 0101ff"),
        (w.decode_persistent_search, "3009 020100 0101ff 0101ff"),
        (w.decode_entry_change, "3003 0a0103"),
        (w.decode_cancel, "3003 0201ff"),
        (w.decode_cancel, "020101"),
    ],
)
def test_broken_values(decode: Callable[[bytes | None], Any], octets: str) -> None:
    """The protocol error and nothing else; so is no value at all."""
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(octets))
    with pytest.raises(ProtocolError):
        decode(None)
