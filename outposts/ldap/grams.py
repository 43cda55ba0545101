"""Where in an index a few bytes can stand: for each three bytes, the blocks of values that hold them.

A substring search looks through all values of an attribute, until it knows better: each such search also takes some
more blocks in, and when all are, a search looks only at blocks that hold all its three-byte parts. Attributes that
nobody searches by substrings cost nothing, and nothing has to be set up. What is known belongs to one index and goes
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakSet

from pyroaring import BitMap

BLOCK: Final = 16  # values: fewer make a search more exact, and the sets larger
GROWTH: Final = 8  # blocks that are taken in at a time: about half a millisecond
MAX_VALUES: Final = 500_000  # of an index; the sets take some 60 bytes for each value
MAX_TOGETHER: Final = 600_000  # of all indexes of a process: six attributes of 100,000 users, 36 MB
SIZE: Final = 3  # bytes that are looked up together

Gram = tuple[int, ...]

_growing: WeakSet[Grams] = WeakSet()


class Grams:
    """The blocks of one index by what they hold. ``total`` blocks, of which ``done`` are taken in."""

    __slots__ = ("__weakref__", "_blocks", "_values", "done", "total")

    def __init__(self, values: int) -> None:
        self._blocks: dict[Gram, BitMap] = {}
        self._values = values
        self.done = 0
        self.total = -(-values // BLOCK) if values <= MAX_VALUES else 0

    @property
    def complete(self) -> bool:
        """Whether every block is taken in."""
        return 0 < self.total == self.done

    def grow(self, text_of: Callable[[int], bytes]) -> None:
        """Take in the next few blocks; ``text_of`` gives a block's values with what stands before and behind them.

        Nothing happens while other indexes take all the memory there is for this.
        """
        if self not in _growing:
            if sum(other._values for other in _growing) + self._values > MAX_TOGETHER:
                return
            _growing.add(self)
        first = self.done
        last = min(first + GROWTH, self.total)
        blocks = self._blocks
        for block in range(first, last):
            text = text_of(block)
            for gram in set(zip(text, text[1:], text[2:], strict=False)):
                found = blocks.get(gram)
                if found is None:
                    blocks[gram] = BitMap((block,))
                else:
                    found.add(block)
        self.done = max(self.done, last)

    def holding(self, parts: Iterable[bytes]) -> BitMap | None:
        """Blocks in which a value may hold all ``parts``; None where that is not known: parts too short, or not yet."""
        if not self.complete:
            return None
        sets: list[BitMap] = []
        for part in parts:
            for gram in zip(part, part[1:], part[2:], strict=False):
                found = self._blocks.get(gram)
                if found is None:
                    return BitMap()
                sets.append(found)
        return BitMap.intersection(*sets) if sets else None
