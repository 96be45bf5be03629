"""The command ``embeddings-cache``: extract, info, verify, prune, export.

Results go to the output stream, progress and errors to the error stream. Exit codes:

0
    Done.
1
    Something cannot be read or written: items, damaged entries, the cache, a disk.
2
    The request makes no sense; nothing was computed.
130
    Interrupted by Ctrl-C or a termination signal; what was computed is in the cache.
"""

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings_cache._extractor import EmbeddingExtractor

# Nothing heavy is imported up here: --help must answer at once.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_DAY = 86400.0
_EXIT_CODES = (
    "exit codes: 0 done; 1 something cannot be read or written (items, damaged "
    "entries, the cache, a disk); 2 the request makes no sense; 130 interrupted, what "
    "was computed is in the cache"
)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line; where in the code it was raised says nothing here."""
    before = warnings.formatwarning

    def one_line(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"embeddings-cache: warning: {message}\n"

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


@dataclass(frozen=True)
class _Result:
    """What a command prints: a value as JSON, or lines for people."""

    value: Any
    lines: Sequence[str]
    code: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit code.
    """
    options = _parser().parse_args(argv)
    from embeddings_cache._errors import (
        EmbeddingValueError,
        StoreError,
        UnreadableItemError,
    )

    run: Callable[[argparse.Namespace], _Result | None] = options.run
    try:
        # Whatever a library prints, results alone go to the output.
        with redirect_stdout(sys.stderr), _termination_interrupts(), _plain_warnings():
            result = run(options)
    except (UnreadableItemError, EmbeddingValueError, StoreError) as error:
        return _fail(error, 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return _fail(error, 2)
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error, 2)
    except OSError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is in the cache\n")
        return 130
    if result is None:
        return 0
    _show(result, options.json)
    return result.code


def _show(result: _Result, as_json: bool) -> None:
    text = json.dumps(result.value, indent=2) if as_json else "\n".join(result.lines)
    if text:
        sys.stdout.write(text + "\n")


def _fail(error: BaseException, code: int) -> int:
    sys.stderr.write(f"embeddings-cache: {error}\n")
    return code


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C, so that rows computed so far are kept.

    Job schedulers send it before the time is up, torchrun when another rank failed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embeddings-cache",
        description="Embed images or texts with a frozen network, each item once.",
        epilog=_EXIT_CODES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="cache folder (default: $EMBEDDINGS_CACHE, else the user's cache folder)",
    )
    common.add_argument("--json", action="store_true", help="print results as JSON")
    _add_extract(commands, common)
    _add_care(commands, common)
    return parser


def _add_extract(commands: Any, common: argparse.ArgumentParser) -> None:
    extract = commands.add_parser(
        "extract",
        parents=[common],
        help="compute the embeddings that are missing",
        description=(
            "Compute the embeddings that the cache does not have. Under torchrun every "
            "process takes its part of the items, on its own device."
        ),
        epilog=_EXIT_CODES,
    )
    extract.set_defaults(run=_extract)
    add = extract.add_argument
    add(
        "items",
        nargs="+",
        metavar="ITEMS",
        help="folder, image, quoted pattern such as 'photos/**/*.jpg', table (.csv, "
        ".jsonl, .parquet), .txt with one text or path a line, or the folder of a "
        "Hugging Face data set",
    )
    add("--column", metavar="NAME", help="column of tables and data sets to embed")
    add("--backbone", default="timm:resnet50", metavar="LIBRARY:NAME")
    add("--random", action="store_true", help="seeded random weights, no download")
    add("--weights", metavar="PATH", help="local safetensors file or folder")
    add("--layer", metavar="LAYER", help="block number or submodule name")
    add("--pooling", default="default", choices=("default", "cls", "mean"))
    add("--modality", default="auto", choices=("auto", "image", "text"))
    add("--device", default="auto")
    precisions = ("auto", "float32", "bfloat16", "float16")
    add("--precision", default="auto", choices=precisions)
    add("--storage-dtype", default="float16", choices=("float16", "float32"))
    add("--batch-size", default="auto", type=_number, metavar="N")
    add("--num-workers", default="auto", type=_number, metavar="N")
    add("--worker-type", default="auto", choices=("auto", "thread", "process"))
    add("--model-kwargs", type=_json_object, metavar="JSON", help="for the library")
    add("--preprocess", type=_json_object, metavar="JSON", help="mean, std, size, ...")
    add("--compile", action="store_true", help="compile the network first")
    add(
        "--rehash",
        action="store_true",
        help="read every file again, also those that look unchanged",
    )
    add(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="take part I, from 0, of N parts: one for every job of an array",
    )
    add(
        "--output",
        metavar="FILE",
        help="also write the rows, in the order of the items, to a .npy, .safetensors "
        "or .parquet file; an existing one is replaced",
    )
    add("--quiet", action="store_true", help="no bars")


def _add_care(commands: Any, common: argparse.ArgumentParser) -> None:
    info = commands.add_parser("info", parents=[common], help="list what is stored")
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", parents=[common], help="look for damage")
    verify.set_defaults(run=_verify)
    verify.add_argument("--level", default="full", choices=("size", "block", "full"))
    verify.add_argument(
        "--quarantine", action="store_true", help="set damaged shards aside"
    )

    prune = commands.add_parser(
        "prune", parents=[common], help="delete what was used least recently"
    )
    prune.set_defaults(run=_prune)
    prune.add_argument(
        "--max-bytes", type=_size, metavar="SIZE", help="such as 500M or 20G"
    )
    prune.add_argument("--older-than", type=float, metavar="DAYS")
    prune.add_argument(
        "--grace",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="never delete what was used this recently (default: 3600)",
    )

    export = commands.add_parser(
        "export", parents=[common], help="write one extractor's embeddings to a file"
    )
    export.set_defaults(run=_export)
    export.add_argument(
        "path", help=".npy, .safetensors or .parquet; an existing file is replaced"
    )
    export.add_argument("--extractor", metavar="KEY", help="first digits of its key")


def _number(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        message = f"{text!r} is neither 'auto' nor a whole number"
        raise argparse.ArgumentTypeError(message) from error


def _size(text: str) -> int:
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    try:
        return int(float(text[: len(text) - len(unit)]) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError) as error:
        message = f"{text!r} is no size, such as 5000000, 500M or 20G"
        raise argparse.ArgumentTypeError(message) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        message = f"{text!r} is no JSON object, such as '{{\"size\": 224}}'"
        raise argparse.ArgumentTypeError(message)
    return value


def _layer(text: str | None) -> int | str | None:
    if text is not None and text.lstrip("-").isdigit():
        return int(text)
    return text


def local_device(device: str, environment: Mapping[str, str]) -> str:
    """Return the CUDA device of this process under torchrun.

    A device that is named with its number is left alone, and so is every device
    where there is no CUDA.

    Parameters
    ----------
    device : str
    environment : mapping of str to str

    Returns
    -------
    str
    """
    if "LOCAL_RANK" not in environment or device not in ("auto", "cuda"):
        return device
    import torch

    if not torch.cuda.is_available():
        return device
    # More processes than devices share them in turn.
    return f"cuda:{int(environment['LOCAL_RANK']) % torch.cuda.device_count()}"


def _extractor(options: argparse.Namespace, *, progress: bool) -> "EmbeddingExtractor":
    """Return the extractor that the options describe."""
    from embeddings_cache._extractor import EmbeddingExtractor

    return EmbeddingExtractor(
        options.backbone,
        cache_dir=options.cache_dir,
        pretrained=not options.random,
        weights=options.weights,
        layer=_layer(options.layer),
        pooling=options.pooling,
        device=local_device(options.device, os.environ),
        precision=options.precision,
        storage_dtype=options.storage_dtype,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        worker_type=options.worker_type,
        progress=progress,
        model_kwargs=options.model_kwargs,
        preprocess=options.preprocess,
        compile=options.compile,
        rehash=options.rehash,
        modality=options.modality,
    )


def _extract(options: argparse.Namespace) -> _Result | None:
    from embeddings_cache._errors import UnreadableItemError
    from embeddings_cache.backbones import resolve_modality
    from embeddings_cache.items._partition import Partition
    from embeddings_cache.items._sources import Sources

    rank = Partition.of_environment(os.environ)
    part = rank.within(Partition.parse(options.shard))
    # Several bars on one terminal would overwrite each other.
    extractor = _extractor(options, progress=not options.quiet and rank.index == 0)
    modality = resolve_modality(options.backbone, options.modality)
    items = Sources(modality, options.column).read(options.items)
    shard = (part.index, part.count)
    unreadable: list[dict[str, Any]] = []
    try:
        extractor.precompute(items, shard=shard, output=options.output)
    except UnreadableItemError as error:
        unreadable = [asdict(entry) for entry in error.bad]
        _fail(error, 1)
    report = extractor.last_run_
    key = extractor.extractor_key()
    if rank.index > 0:
        if not options.quiet:
            sys.stderr.write(f"rank {rank.index} of {rank.count}: {report}\n")
        return None
    value = {
        "extractor": key,
        "shard": list(shard),
        **asdict(report),
        "unreadable": unreadable,
    }
    line = f"{key[:12]}  {report}, {report.n_features} features"
    # Where one rank fails, torchrun ends the others before they are done.
    failed = bool(unreadable) and rank.count == 1
    return _Result(value, [] if unreadable else [line], int(failed))


def _info(options: argparse.Namespace) -> _Result:
    from embeddings_cache.store._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    extractors = store.extractors()
    lines = [f"{store.root}: {len(extractors)} extractors"]
    for entry in extractors:
        about = entry.description
        name = f"{about.get('family', '?')}:{about.get('model', '?')}"
        random = "random_seed" in about.get("weights", {})
        lines.append(
            f"{entry.key[:12]}  {name}{' (random weights)' if random else ''}  "
            f"{entry.n_rows} rows  {entry.n_shards} shards  {entry.n_bytes} bytes"
        )
    value = {
        "root": str(store.root),
        "extractors": [asdict(each) for each in extractors],
    }
    return _Result(value, lines)


def _verify(options: argparse.Namespace) -> _Result:
    from embeddings_cache.store._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    damage = store.verify(options.level, quarantine=options.quarantine)
    lines = [f"{d.extractor[:12]}  {d.shard[:12]}  {d.reason}" for d in damage]
    lines.append(f"{len(damage)} damaged entries (level {options.level})")
    return _Result([asdict(each) for each in damage], lines, 1 if damage else 0)


def _prune(options: argparse.Namespace) -> _Result:
    from embeddings_cache.store._store import EmbeddingStore

    days = options.older_than
    report = EmbeddingStore(options.cache_dir).prune(
        options.max_bytes,
        older_than=None if days is None else days * _DAY,
        grace=options.grace,
    )
    line = (
        f"{report.n_deleted} shards deleted ({report.bytes_deleted} bytes), "
        f"{report.n_leftovers} leftovers removed, {report.bytes_left} bytes left"
    )
    return _Result(asdict(report), [line])


def _export(options: argparse.Namespace) -> _Result:
    from embeddings_cache.store._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    rows, columns = store.export(options.path, options.extractor)
    value = {"path": options.path, "n_rows": rows, "n_features": columns}
    return _Result(value, [f"{options.path}: {rows} x {columns}"])
