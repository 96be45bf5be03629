"""Which part of the items a process computes, when several share one cache.

The processes need no communication. What a part is follows from the items alone, from
what is known of them before any is read: a text, or the path of an image. So a process
reads nothing that another one computes, and processes that start at different times,
or in another number after a crash, still agree; what is in the cache by then is
found there, whoever computed it.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embeddings_cache._errors import ItemError
from embeddings_cache.items._item import Item


@dataclass(frozen=True)
class Partition:
    """One of several parts of the items.

    Attributes
    ----------
    index : int
        Which part, from 0.
    count : int
        How many parts there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard={self.index}/{self.count}: the first number counts from 0 and "
                "must be below the second, as in 0/4, 1/4, 2/4 and 3/4"
            )

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read ``"<index>/<count>"``."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard={text!r} must be two numbers, such as 0/4")
        return cls(int(index), int(count))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Partition":
        """Return the part of this process under torchrun; all items without it."""
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
        return cls(0, 1)

    def within(self, outer: "Partition") -> "Partition":
        """Return the part that is this part of an outer part."""
        return Partition(
            outer.index * self.count + self.index, outer.count * self.count
        )

    def of(self, items: Sequence[Item], modality: str) -> list[Item]:
        """Return the items of this part, in their order.

        Equal texts, and equal paths, are in the same part.

        Parameters
        ----------
        items : sequence of Item
            The same for every part.
        modality : {"image", "text"}
            What they are.
        """
        if self.count == 1:
            return list(items)
        return [item for item in items if self._owns(item, modality == "text")]

    def _owns(self, item: Item, in_memory: bool) -> bool:
        # The number of parts goes into the digest: after a relaunch with twice the
        # processes, what one killed process left would else fall to two of them.
        salt = self.count.to_bytes(8, "little")
        known = _content(item) if in_memory else os.fsencode(item.name)
        digest = hashlib.blake2b(known, digest_size=8, salt=salt).digest()
        return int.from_bytes(digest, "little") % self.count == self.index


def _content(item: Item) -> bytes:
    try:
        return item.identity()
    except ItemError:
        # Text that is not Unicode: one part has to report it.
        return item.name.encode()
