"""The index answers as a plain scan over all values would."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from outposts.ldap import grams as grams_module
from outposts.ldap.grams import MAX_TOGETHER, MAX_VALUES, Grams
from outposts.ldap.index import LARGE_POSTING, Column, Index, value_matches

VALUES = st.text(alphabet="ab c", max_size=6).map(lambda text: text.encode())
PAIRS = st.lists(st.tuples(VALUES, st.integers(0, 40)), max_size=200)


def build(pairs: list[tuple[bytes, int]]) -> Index:
    return Index.build([value for value, _ in pairs], [number for _, number in pairs], BitMap([n for _, n in pairs]))


@settings(max_examples=200, deadline=None)
@given(PAIRS, VALUES, VALUES)
def test_equality_and_ranges(pairs: list[tuple[bytes, int]], low: bytes, high: bytes) -> None:
    """Equality, open and closed ranges, before and after a round trip through bytes."""
    index = build(pairs)
    for tested in (index, Index.from_parts(index.parts())):
        assert set(tested.equal(low)) == {number for value, number in pairs if value == low}
        assert set(tested.between(low, None)) == {number for value, number in pairs if value >= low}
        assert set(tested.between(None, low)) == {number for value, number in pairs if value <= low}
        assert set(tested.between(low, high)) == {number for value, number in pairs if low <= value <= high}
        assert set(zip(*tested.pairs(), strict=True)) == set(pairs)


@settings(max_examples=300, deadline=None)
@given(PAIRS, st.none() | VALUES, st.lists(VALUES, max_size=3), st.none() | VALUES)
def test_substrings(
    pairs: list[tuple[bytes, int]], initial: bytes | None, middle: list[bytes], final: bytes | None
) -> None:
    """Every combination of parts finds what a scan finds."""
    expected = {number for value, number in pairs if value_matches(value, initial or b"", middle, final)}
    assert set(build(pairs).substring(initial, middle, final)) == expected


def test_parts_do_not_share_bytes() -> None:
    """``a*a`` needs two of them; parts keep their order."""
    assert not value_matches(b"a", b"a", [], b"a")
    assert value_matches(b"aa", b"a", [], b"a")
    assert not value_matches(b"cb", b"", [b"b", b"c"], None)
    assert not value_matches(b"abc", b"ab", [b"b"], b"c")


def test_many_hits_and_large_postings() -> None:
    """The value-by-value path and bitmaps give the same as everything else."""
    pairs = [(b"user%05d@x" % number, number) for number in range(5000)]
    index = build(pairs)
    assert len(index.substring(None, [b"@x"], None)) == 5000
    assert len(index.substring(None, [], b"9@x")) == 500
    assert set(index.substring(None, [b"r0123"], None)) == set(range(1230, 1240))
    large = build([(b"same", number) for number in range(LARGE_POSTING * 3)] + [(b"other", 1)])
    assert len(large.equal(b"same")) == LARGE_POSTING * 3
    assert set(large.between(b"p", None)) == set(range(LARGE_POSTING * 3))
    assert len(large.substring(b"sa", [], None)) == LARGE_POSTING * 3
    assert list(Index.from_parts(large.parts()).numbers(1)) == list(range(LARGE_POSTING * 3))


def test_empty_index() -> None:
    """No values: nothing is found, nothing breaks."""
    index = Index.build([], [], BitMap())
    assert not index.equal(b"a")
    assert not index.between(None, None)
    assert not index.substring(None, [b"a"], None)
    assert index.values() == []


def test_value_at_the_edges_of_another() -> None:
    """A value is never found as part of a longer one."""
    index = build([(b"alice", 1), (b"lice", 2), (b"alic", 3), (b"", 4)])
    assert set(index.equal(b"lice")) == {2}
    assert set(index.equal(b"alic")) == {3}
    assert set(index.equal(b"")) == {4}
    assert not index.equal(b"ali")


def test_column_keeps_pairs() -> None:
    """Values come back in order, empty ones too."""
    column = Column()
    for value in (b"b", b"", b"a"):
        column.add(value, len(value))
    assert column.split() == [b"b", b"", b"a"]
    assert Column().split() == []


TEXTS = st.lists(st.text("abcdé ", max_size=12).map(str.encode), min_size=1, max_size=80)
PARTS = st.text("abcdé ", min_size=1, max_size=5).map(str.encode)


@given(TEXTS, st.none() | PARTS, st.lists(PARTS, max_size=3), st.none() | PARTS, st.sampled_from([1, 4, 100]))
def test_blocks_are_the_same_as_all_values(
    values: list[bytes], initial: bytes | None, middle: list[bytes], final: bytes | None, few: int
) -> None:
    """Whatever is known of where bytes stand, the same entries are found."""
    index = Index.build(values, list(range(len(values))), BitMap(range(len(values))))
    before = set(index.substring(initial, middle, final))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("outposts.ldap.index.FEW_BLOCKS", few)
        patch.setattr("outposts.ldap.index.MANY_BLOCKS_SHARE", 1)
        for _ in range(20):
            index.substring(None, [b"abc"], None)
        assert index._grams.complete
        assert set(index.substring(initial, middle, final)) == before


def test_few_values_are_looked_at_once_all_are_known() -> None:
    """So the search is quick; a part of two bytes tells nothing."""
    values = [b"user%05d@x" % number for number in range(20_000)]
    index = Index.build(values, list(range(len(values))), BitMap(range(len(values))))
    assert not index.is_quick(None, [b"r0123"], None)
    while not index._grams.complete:
        index.substring(None, [b"r0123"], None)
    assert index.is_quick(None, [b"r0123"], None)
    assert index.is_quick(None, [], b"777@x")
    assert not index.is_quick(None, [b"r0"], None)
    assert index.is_quick(b"user0123", [b"4"], None)
    assert not index.is_quick(b"user", [b"4"], None)
    assert set(index.substring(None, [b"r0123"], None)) == set(range(1230, 1240))
    assert set(index.substring(None, [b"nowhere"], None)) == set()


def test_memory_for_all_indexes_together_is_bounded() -> None:
    """Others have to wait until one is gone."""
    gc.collect()
    values = (MAX_TOGETHER - sum(other._values for other in grams_module._growing)) // 2
    one, other, late = Grams(values), Grams(values), Grams(values)
    for grams in (one, other, late):
        grams.grow(lambda block: b"abc")
    assert (one.done > 0, other.done > 0, late.done) == (True, True, 0)
    del one, grams
    gc.collect()
    late.grow(lambda block: b"abc")
    assert late.done > 0


def test_indexes_that_are_too_large_are_searched_as_a_whole() -> None:
    """What is known would take more memory than it saves time."""
    grams = Grams(MAX_VALUES + 1)
    grams.grow(lambda block: b"abc")
    assert not grams.complete
    assert grams.holding([b"abc"]) is None
