"""The cache as a whole: where it is, what it holds, checks, pruning, export."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings_cache._errors import StoreError, store_errors
from embeddings_cache._fingerprint import canonical_json
from embeddings_cache._paths import expanded, refuse_url
from embeddings_cache.store import _io
from embeddings_cache.store._export import export_rows
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._maintenance import Damage, PruneReport, prune, verify

ENVIRONMENT = "EMBEDDINGS_CACHE"
_ALLOW = "EMBEDDINGS_CACHE_ALLOW_SHARED"
_LAYOUT = "v1"
_DESCRIPTION_LIMIT = 64 << 20
_READ_REMEDY = "See that it is a folder that this user may read and write"


def cache_root(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the cache folder: the argument, the environment, or the platform's.

    Parameters
    ----------
    cache_dir : path-like or None
        ``None`` takes the variable ``EMBEDDINGS_CACHE``, else the user's cache
        folder of the platform.
    """
    if cache_dir is not None:
        root = expanded(_checked_path(cache_dir))
        refuse_url(root, "cache_dir")
        return root
    if os.environ.get(ENVIRONMENT):
        root = expanded(os.environ[ENVIRONMENT])
        refuse_url(root, ENVIRONMENT)
        return root
    import platformdirs

    return Path(platformdirs.user_cache_dir("embeddings_cache"))


def _checked_path(cache_dir: Any) -> Path:
    """Return a path that a folder can have, or say what is wrong with it."""
    remedy = "give the path of a folder, or None"
    try:
        name = os.fspath(cache_dir)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"cache_dir={cache_dir!r} is not text: {remedy}")
    if not name or "\0" in name:
        raise ValueError(f"cache_dir={name!r} cannot be the name of a folder: {remedy}")
    return Path(name)


def _is_private_group(gid: int) -> bool:
    """Tell a user's own group, which many systems let write, from a shared one."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


@dataclass(frozen=True)
class ExtractorInfo:
    """What the cache holds of one extractor.

    Attributes
    ----------
    key : str
        Extractor key, 64 hexadecimal digits.
    description : dict
        The description the key is the digest of.
    n_shards, n_rows, n_bytes : int
        Committed shards, their rows (an item can be in several) and bytes.
    """

    key: str
    description: dict[str, Any]
    n_shards: int
    n_rows: int
    n_bytes: int


class EmbeddingStore:
    """A cache folder of embeddings, for looking after it.

    Parameters
    ----------
    cache_dir : path-like, default=None
        The folder. ``None`` takes the environment variable ``EMBEDDINGS_CACHE``,
        else the user's cache folder of the platform. Nothing is created here.

    See Also
    --------
    EmbeddingExtractor : fills a cache and reads from it.

    Examples
    --------
    >>> import tempfile
    >>> from embeddings_cache import EmbeddingStore
    >>> store = EmbeddingStore(tempfile.mkdtemp())
    >>> store.extractors()
    []
    >>> store.verify(level="full")
    []
    """

    def __init__(self, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self.root = cache_root(cache_dir)

    def folder(self, key: str) -> ShardFolder:
        """Return the folder of one extractor, whether it exists or not.

        Parameters
        ----------
        key : str
            The full extractor key.

        Returns
        -------
        ShardFolder
            Access to the shards; nothing is created.
        """
        self._refuse_open_root()
        return ShardFolder(self.root / _LAYOUT / key)

    def open(self, description: dict[str, Any]) -> ShardFolder:
        """Return the folder for a description, made if need be.

        Parameters
        ----------
        description : dict
            Canonical description of an extractor; its digest is the key.

        Returns
        -------
        ShardFolder
            The folder, on disk.

        Raises
        ------
        StoreError
            If the cache folder cannot be used, or can be written by others.
        """
        key = hashlib.sha256(canonical_json(description)).hexdigest()
        folder = self.folder(key)
        remedy = f"Give another cache_dir or set {ENVIRONMENT}"
        with store_errors(f"{str(self.root)!r} cannot be used", remedy):
            folder.create(description)
        return folder

    def _refuse_open_root(self) -> None:
        """Refuse a root that others may write to: its numbers prove nothing."""
        if os.name != "posix" or os.environ.get(_ALLOW) == "1":
            return
        try:
            status = _io.stat(self.root)
        except OSError:
            return  # absent, or about to fail by name in what comes next
        remedy = None
        if status.st_uid not in (os.geteuid(), 0):
            remedy = "Give a folder of your own"
        elif status.st_mode & 0o002 or (
            status.st_mode & 0o020 and not _is_private_group(status.st_gid)
        ):
            remedy = "Run `chmod go-w` on it"
        if remedy:
            raise StoreError(
                f"cache_dir={str(self.root)!r} can be written by other users, who "
                f"could change any embedding. {remedy}, or set {_ALLOW}=1 to trust them"
            )

    def _keys(self) -> list[str]:
        with store_errors(f"{str(self.root)!r} cannot be read", _READ_REMEDY):
            return [
                name
                for name in _io.list_folder(self.root / _LAYOUT)
                if len(name) == 64
                and set(name) <= set("0123456789abcdef")
                and (self.root / _LAYOUT / name).is_dir()
            ]

    def extractors(self) -> list[ExtractorInfo]:
        """Return what is stored of each extractor.

        Returns
        -------
        list of ExtractorInfo
            Sorted by key; empty for a folder that does not exist.
        """
        infos = []
        for key in self._keys():
            records = self.folder(key).records()
            infos.append(
                ExtractorInfo(
                    key=key,
                    description=self._description(key) or {},
                    n_shards=len(records),
                    n_rows=sum(record.rows for record in records),
                    n_bytes=sum(record.n_bytes for record in records),
                )
            )
        return infos

    def _description(self, key: str) -> dict[str, Any] | None:
        """Return an extractor's description, None if it is not what the key says."""
        try:
            text = _io.read_file(
                self.root / _LAYOUT / key / "extractor.json", _DESCRIPTION_LIMIT
            )
        except (OSError, ValueError):
            return None
        if hashlib.sha256(text).hexdigest() != key:
            return None
        description: dict[str, Any] = json.loads(text)
        return description

    def select(self, extractor: str | None) -> str:
        """Return the one extractor key that starts with the given digits.

        Parameters
        ----------
        extractor : str or None
            First digits of the key; None if there is one extractor only.

        Returns
        -------
        str
            The full key.

        Raises
        ------
        ValueError
            If none or several match; the message lists what there is.
        """
        keys = self._keys()
        matching = [key for key in keys if key.startswith(extractor or "")]
        if len(matching) != 1:
            known = ", ".join(key[:12] for key in keys) or "none"
            raise ValueError(
                f"extractor={extractor!r} matches {len(matching)} extractors of "
                f"{self.root}; give the first digits of one of: {known}"
            )
        return matching[0]

    def verify(self, level: str = "full", *, quarantine: bool = False) -> list[Damage]:
        """Check every committed shard.

        Parameters
        ----------
        level : {"size", "block", "full"}, default="full"
            How much is read. All levels check the commit records and the
            descriptions byte for byte.

            * "size" compares file sizes: it finds every truncated file.
            * "block" also compares headers, item keys (SHA-256) and the CRC-32 of
              each block of rows: it finds every flipped bit.
            * "full" also compares the SHA-256 of each shard with its name: it finds
              any other change, even one made to keep the checksums.

            A transform checks what it reads at level "block"; ``out="memmap"`` checks
            size and header, since it reads no rows.
        quarantine : bool, default=False
            Also set damaged shards aside, so that the next transform computes their
            items again; a transform does this by itself for what it reads.

        Returns
        -------
        list of Damage
            Empty when everything is as it was committed.
        """
        damage: list[Damage] = []
        for key in self._keys():
            # A description is written before the first commit, so a folder that is
            # being made has neither.
            with store_errors(f"{str(self.root)!r} cannot be read", _READ_REMEDY):
                commits = _io.list_folder(self.root / _LAYOUT / key / "commits")
                if commits and self._description(key) is None:
                    reason = "extractor.json is absent or not that of the folder's name"
                    damage.append(Damage(key, "", reason))
                damage += verify(self.folder(key), level, quarantine=quarantine)
        return damage

    def prune(
        self,
        max_bytes: int | None = None,
        *,
        older_than: float | None = None,
        grace: float = 3600.0,
    ) -> PruneReport:
        """Delete least recently used shards, and what interrupted runs left.

        Parameters
        ----------
        max_bytes : int, default=None
            Keep at most this many bytes of shards over all extractors.
        older_than : float, default=None
            Also delete shards unused for this many seconds.
        grace : float, default=3600.0
            Seconds for which a shard that was just used or written is never deleted,
            whatever the budget: another process may be at work.

        Returns
        -------
        PruneReport
            What was deleted and what is left.
        """
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes={max_bytes} must be at least 0 bytes")
        folders = [self.folder(key) for key in self._keys()]
        with store_errors(f"{str(self.root)!r} cannot be pruned", _READ_REMEDY):
            return prune(folders, max_bytes, older_than=older_than, grace=grace)

    def export(
        self, path: str | os.PathLike[str], extractor: str | None = None
    ) -> tuple[int, int]:
        """Write all embeddings of one extractor, with their item keys, to a file.

        Parameters
        ----------
        path : path-like
            ``.npy`` or ``.safetensors`` (tensor ``x``), with the item keys, one per
            line, in a ``.keys.txt`` beside it; or ``.parquet`` (columns ``key`` and
            ``embedding``; needs pyarrow).
        extractor : str, default=None
            First digits of the extractor key; not needed if there is one only.

        Returns
        -------
        (n_rows, n_features) : tuple of int
            Shape of what was written; each item once, sorted by key.
        """
        return export_rows(self.folder(self.select(extractor)), expanded(path))
