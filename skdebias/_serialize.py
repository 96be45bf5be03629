"""Files without code in them: safetensors, with JSON and a digest in the header.

Heads, networks and checkpoints are written and read here. A file is a plain
safetensors file that other programs can read. Its metadata hold what is no tensor, as
JSON, and the SHA-256 of the whole file with the digest itself blanked: a changed bit
anywhere is noticed. Reading never runs code, builds only classes of a fixed list, and
asks for no more memory than a small multiple of the file's size.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skdebias._atomic import atomic_write

#: Format of files of whole networks, which heads' files are told from.
NETWORK_FORMAT = "skdebias-network-2"

_HEADER = "skdebias"
_BLANK = "0" * 64
# A quote within a JSON text is preceded by a backslash, so this matches one place.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_CHUNK = 1 << 20
# What safetensors itself allows.
_MAX_HEADER = 100_000_000

# Arrays that are stored as they are, and those stored as the bits of another type.
_NUMERIC = frozenset("?bhilqBHILQefd")
_LAST_CHARACTER = 0x10FFFF
_VIEWS = {"U": np.uint32, "S": np.uint8, "M": np.int64, "m": np.int64}
_VIEWED_DTYPE = re.compile(r"[<|]([US])[1-9]\d{0,8}|<[Mm]8(\[[0-9a-zA-Z]{1,12}\])?")


def write_file(path: Path, tensors: Mapping[str, Any], header: Any) -> None:
    """Write arrays and a header, atomically and with a digest over everything.

    Parameters
    ----------
    path : Path
        In a folder that exists. The file appears complete or not at all.
    tensors : mapping of str to ndarray, or of str to torch.Tensor
        Contiguous; tensors lie on the CPU and share no memory.
    header : object
        Anything JSON can say.

    Raises
    ------
    OSError
        If the file cannot be written; it names `path`.
    """
    metadata = {_HEADER: json.dumps(header), "sha256": _BLANK}
    save_file = _writer(tensors)
    try:
        with atomic_write(path) as temporary:
            _save(save_file, dict(tensors), temporary, metadata)
            _seal(temporary)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"path={str(path)!r} cannot be written ({error.strerror or error}): "
            "choose a file in a folder that exists, may be written to, and has room",
        ) from error


def read_file(
    path: Path, wanted: str, *, torch: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what :func:`write_file` wrote.

    Parameters
    ----------
    path : Path
        An existing file.
    wanted : str
        What ``header["format"]`` must be.
    torch : bool, default=False
        Return tensors of torch rather than arrays.

    Returns
    -------
    tensors : dict of str to ndarray or torch.Tensor
    header : dict

    Raises
    ------
    ValueError
        If a bit of the file is not as it was written, or another program or version
        wrote it. The message names the file.
    """
    from safetensors import safe_open

    with reading(path):
        header = _read_header(path, check=True)
    format_name = header.get("format")
    if format_name != wanted:
        raise ValueError(
            f"path={str(path)!r} has format {format_name!r}, and {wanted!r} "
            "is read here: read a head with skdebias.export.load, a network with "
            "FineTuneClassifier.load, and what another version of skdebias wrote with "
            "that version."
        )
    with (
        reading(path),
        safe_open(path, framework="pt" if torch else "numpy") as file,
    ):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, header


def read_format(path: Path) -> Any:
    """Return what the header of a file says of its format; the rest is not looked at.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it has no header of skdebias. The message names the file.
    """
    with reading(path):
        return _read_header(path, check=False).get("format")


def _read_header(path: Path, check: bool) -> dict[str, Any]:
    """Return the header of a file, once the digest of the file is found to be right."""
    with path.open("rb") as file:
        raw = _raw_header(file, path.stat().st_size)
        described = strict_json(raw)
        metadata = (
            described.get("__metadata__") if isinstance(described, dict) else None
        )
        if not isinstance(metadata, dict) or _HEADER not in metadata:
            raise ValueError("it is not a file of skdebias")
        if "sha256" not in metadata:
            raise ValueError("an older version of skdebias wrote it, without a digest")
        if check and _digest(file, raw) != metadata["sha256"]:
            raise ValueError("it is damaged, its content has changed")
    header = strict_json(metadata[_HEADER])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever the content of a file leads to into a ValueError that names it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        For any error but one of the disk.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f"path={str(path)!r} is not a file that skdebias wrote, or is damaged "
            f"({said.rstrip('.')}): save it again with this version of skdebias."
        ) from error


def strict_json(text: str | bytes) -> Any:
    """Parse JSON, and refuse what hides something or exhausts the stack.

    Parameters
    ----------
    text : str or bytes

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the text is no JSON, nested too deeply, or names a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _without_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        names = [name for name, _ in pairs]
        # Keys keep the order of their first places, so that the first other one
        # stands where a name comes again.
        twice = next((a for a, b in zip(names, keys) if a != b), names[-1])
        raise ValueError(f"its JSON has the key {twice!r} twice")
    return keys


def _writer(tensors: Mapping[str, Any]) -> Any:
    """Return the writer of safetensors for arrays, or for tensors of torch."""
    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save_file
    else:
        from safetensors.torch import save_file
    return save_file


def _save(save_file: Any, tensors: Any, path: Path, metadata: Any) -> None:
    """Write a file, with an OSError for an error of the disk."""
    from safetensors import SafetensorError

    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        # It tells the disk's error in words only.
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _seal(path: Path) -> None:
    """Put the digest of a file in its place."""
    with path.open("rb+") as file:
        raw = _raw_header(file, path.stat().st_size)
        place = _place(raw)
        digest = _digest(file, raw)
        file.seek(8 + place.start)
        file.write(digest.encode())


def _raw_header(file: Any, n_bytes: int) -> bytes:
    """Return the header of a safetensors file, unparsed; the file is then behind it."""
    length = int.from_bytes(file.read(8), "little")
    if n_bytes < 8 or length > min(n_bytes - 8, _MAX_HEADER):
        raise ValueError("it is damaged, or no safetensors file")
    raw: bytes = file.read(length)
    return raw


def _place(raw: bytes) -> slice:
    """Return where the digest stands in a header."""
    matches = list(_DIGEST.finditer(raw))
    if len(matches) != 1:
        raise ValueError("it is damaged: its digest cannot be found")
    return slice(*matches[0].span(1))


def _digest(file: Any, raw: bytes) -> str:
    """Return the digest of all bytes, those of the digest blanked."""
    place = _place(raw)
    digest = hashlib.sha256(len(raw).to_bytes(8, "little"))
    digest.update(raw[: place.start] + _BLANK.encode() + raw[place.stop :])
    file.seek(8 + len(raw))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Turn a value into JSON, with arrays moved out of it.

    Parameters
    ----------
    value : object
        None, booleans, numbers, texts, bytes, dates of numpy, arrays of these, and
        containers of all.
    name : str
        What the names of its arrays begin with.
    arrays : dict
        Filled with the arrays by name.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If something has no safe representation.
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        # As Python's own, they would lose their unit, or become integers.
        return {"scalar": _encode_array(np.asarray(value), name, arrays)}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        pairs = [
            [encode(key, name, arrays), encode(item, f"{name}.{key}", arrays)]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [encode(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if isinstance(value, np.ndarray):
        return _encode_array(value, name, arrays)
    raise _no_representation(value, name)


def _encode_array(value: np.ndarray, name: str, arrays: dict[str, np.ndarray]) -> Any:
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    if native.dtype.char in _NUMERIC:
        arrays[name] = np.ascontiguousarray(native).reshape(native.shape)
        return {"tensor": name}
    if native.dtype.kind in _VIEWS and native.dtype.itemsize and native.size:
        # Texts as numbers: a JSON list could claim any size at no cost.
        bits = np.ascontiguousarray(native).reshape(-1).view(_VIEWS[native.dtype.kind])
        arrays[name] = bits
        kind = native.dtype.newbyteorder("<").str
        return {"bits": name, "dtype": kind, "shape": list(value.shape)}
    if native.dtype.kind in "OUS":
        items = encode(list(value.reshape(-1)), name, arrays)["list"]
        return {"objects": items, "shape": list(value.shape)}
    raise _no_representation(value, name)


def _no_representation(value: Any, name: str) -> TypeError:
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        kind = f"{kind} of {value.dtype}"
    return TypeError(
        f"{name.partition('.')[2]} is a {kind}, which has no safe representation in a "
        "file: use numbers, texts or booleans."
    )


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what :func:`encode` was given.

    Parameters
    ----------
    value : object
        What it returned.
    arrays : mapping of str to ndarray

    Returns
    -------
    object
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("its header has a list where a value should be")
        return value
    if "dict" in value:
        pairs = [(decode(k, arrays), decode(v, arrays)) for k, v in value["dict"]]
        return _without_duplicates(pairs)
    if "list" in value:
        return [decode(item, arrays) for item in value["list"]]
    if "tuple" in value:
        return tuple(decode(item, arrays) for item in value["tuple"])
    if "objects" in value:
        items = [decode(item, arrays) for item in value["objects"]]
        # Item by item: numpy would make rows of tuples.
        flat = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):
            flat[i] = item
        return flat.reshape(_shape(value))
    if "bytes" in value:
        return bytes.fromhex(value["bytes"])
    if "scalar" in value:
        return _decode_bits(value["scalar"], arrays)[()]
    if "bits" in value:
        return _decode_bits(value, arrays)
    return arrays[value["tensor"]]


def _shape(value: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape that a description of an array names."""
    shape = value["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its header has an array of shape {shape!r:.40}")
    return tuple(shape)


def _decode_bits(value: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if not _VIEWED_DTYPE.fullmatch(value["dtype"]):
        raise ValueError(f"its header has an array of type {value['dtype']!r}")
    bits = np.ascontiguousarray(arrays[value["bits"]])
    dtype = np.dtype(value["dtype"])
    if bits.ndim != 1 or bits.dtype != _VIEWS[dtype.kind]:
        raise ValueError("its header takes numbers for texts")
    array = bits.view(dtype).reshape(_shape(value))
    if dtype.kind == "U" and bits.max() > _LAST_CHARACTER:
        raise ValueError("its header takes numbers for texts")
    return array.astype(dtype.newbyteorder("="), copy=False)
