"""Errors and warnings that callers may want to catch by class."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class BadItem:
    """One item that could not be read: its position, its name, the reason."""

    index: int
    name: str
    reason: str


class UnreadableItemError(ValueError):
    """Some items could not be read; every other item is in the cache.

    Parameters
    ----------
    bad : sequence of BadItem
        The unreadable items, in the order of the call.
    n_items : int
        How many items the call had.
    cached : bool, default=True
        Whether the others were kept, by a call that computes embeddings.

    Attributes
    ----------
    bad : tuple of BadItem
        Position, name and reason of each unreadable item.

    Examples
    --------
    >>> from embeddings_cache import UnreadableItemError
    >>> error = UnreadableItemError([(1, "b.jpg", "truncated")], n_items=3)
    >>> print(error)
    1 of 3 items cannot be read (the other 2 are in the cache):
      item 1, b.jpg: truncated
    Repair or leave out these items and call transform again.
    """

    _SHOWN = 10

    def __init__(
        self,
        bad: Sequence[BadItem | tuple[int, str, str]],
        n_items: int,
        cached: bool = True,
    ) -> None:
        self.bad = tuple(
            entry if isinstance(entry, BadItem) else BadItem(*entry) for entry in bad
        )
        self.n_items = n_items
        self._cached = cached
        lines = [
            f"  item {entry.index}, {entry.name}: {entry.reason}"
            for entry in self.bad[: self._SHOWN]
        ]
        if len(self.bad) > self._SHOWN:
            lines.append(f"  ... and {len(self.bad) - self._SHOWN} more")
        good = n_items - len(self.bad)
        others = f" (the other {good} are in the cache)" if cached else ""
        remedy = "call transform again" if cached else "try again"
        super().__init__(
            f"{len(self.bad)} of {n_items} items cannot be read{others}:\n"
            + "\n".join(lines)
            + f"\nRepair or leave out these items and {remedy}."
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # The message is built from the arguments; the default would pass it alone.
        return type(self), (self.bad, self.n_items, self._cached)


class ItemError(ValueError):
    """One item cannot be read; the runner gathers these into one error."""


class PreprocessError(ItemError):
    """The preprocessing failed for one item.

    Parameters
    ----------
    message : str
    error : Exception
        What it raised.
    """

    def __init__(self, message: str, error: Exception) -> None:
        super().__init__(message)
        self.error = error

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # An exception of a library may not survive the way from another process.
        kind = type(self.error)
        plain = kind.__module__ == "builtins" and all(
            isinstance(value, str | int) for value in self.error.args
        )
        kept = self.error if plain else RuntimeError(repr(self.error))
        return type(self), (str(self), kept)


class UnknownBackboneError(ValueError):
    """The backbone's library or name is not known; near names are suggested."""


class MissingExtraError(ImportError):
    """An optional library is absent; the message names the pip command."""


class WeightsError(ValueError):
    """Weights that do not fit the architecture, or are not safetensors."""


class UndescribableError(ValueError):
    """Something that changes the numbers has no description to put in the key."""


class EmbeddingValueError(ValueError):
    """A network returned NaN, infinity, or values beyond the storage type."""


class CanaryError(EmbeddingValueError):
    """The fast way to compute returned other numbers than float32 arithmetic."""


class StoreError(RuntimeError):
    """The cache folder cannot be used as it is; the message names the remedy."""


@contextmanager
def store_errors(what: str, remedy: str) -> Iterator[None]:
    """Raise StoreError instead of OSError, saying what failed and what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cache_dir: {what} ({error}). {remedy}") from error


class ShallowImageWarning(UserWarning):
    """Images of 16 bits use the lowest ones only, and come out almost black."""


class BlankTextWarning(UserWarning):
    """Texts without a word are embedded; in tables they often are missing values."""


class DamagedShardWarning(UserWarning):
    """Stored embeddings failed a check, were set aside and are computed again."""
