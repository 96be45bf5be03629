"""The command ``embeddings-cache``: extract, info, verify, prune, export.

Results go to the output stream, progress and errors to the error stream. Exit codes:
0 done, 1 unreadable items or damage, 2 a request that makes no sense.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Nothing heavy is imported up here: --help must answer at once.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_DAY = 86400.0


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
    from embeddings_cache._errors import StoreError, UnreadableItemError

    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (UnreadableItemError, StoreError) as error:
        return _fail(error, 1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is in the cache\n")
        return 130


def _fail(error: BaseException, code: int) -> int:
    sys.stderr.write(f"embeddings-cache: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embeddings-cache",
        description="Embed images or texts with a frozen network, each item once.",
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
        "extract", parents=[common], help="compute the embeddings that are missing"
    )
    extract.set_defaults(run=_extract)
    add = extract.add_argument
    add(
        "items", nargs="+", help="folder, metadata.csv, images, or .txt (one text each)"
    )
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
    add("--model-kwargs", type=_json_object, metavar="JSON", help="for the library")
    add("--preprocess", type=_json_object, metavar="JSON", help="mean, std, size, ...")
    add("--output", metavar="FILE", help="also write .npy, .safetensors or .parquet")
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
    export.add_argument("path", help=".npy, .safetensors or .parquet")
    export.add_argument("--extractor", metavar="KEY", help="first digits of its key")


def _number(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _size(text: str) -> int:
    unit = text[-1:].lower() if text[-1:].isalpha() else ""
    return int(float(text[: len(text) - len(unit)]) * _UNITS[unit])


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _show(options: argparse.Namespace, value: Any, lines: Sequence[str]) -> None:
    """Print a result: the JSON of a value, or lines for people."""
    text = json.dumps(value, indent=2) if options.json else "\n".join(lines)
    if text:
        sys.stdout.write(text + "\n")


def _layer(text: str | None) -> int | str | None:
    if text is not None and text.lstrip("-").isdigit():
        return int(text)
    return text


def _items(options: argparse.Namespace) -> tuple[Any, str]:
    """Return what to embed (paths, or the lines of text files) and its modality."""
    from embeddings_cache.backbones import resolve_modality

    modality = resolve_modality(options.backbone, options.modality)
    if modality == "image":
        single = len(options.items) == 1
        return (options.items[0] if single else options.items), modality
    texts: list[str] = []
    for name in options.items:
        texts += Path(name).read_text(encoding="utf-8").splitlines()
    return texts, modality


def _extract(options: argparse.Namespace) -> int:
    from embeddings_cache._export import check_suffix, write_rows
    from embeddings_cache._extractor import EmbeddingExtractor
    from embeddings_cache._readers import read_items

    if options.output:
        check_suffix(Path(options.output))
    extractor = EmbeddingExtractor(
        options.backbone,
        cache_dir=options.cache_dir,
        pretrained=not options.random,
        weights=options.weights,
        layer=_layer(options.layer),
        pooling=options.pooling,
        device=options.device,
        precision=options.precision,
        storage_dtype=options.storage_dtype,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        progress=not options.quiet,
        model_kwargs=options.model_kwargs,
        preprocess=options.preprocess,
        modality=options.modality,
    )
    items, modality = _items(options)
    rows = extractor.transform(items, out="array" if options.output else "memmap")
    if options.output:
        names = [item.name for item in read_items(items, modality)]
        write_rows(Path(options.output), rows, "item", names)
    report = {
        "extractor": extractor.extractor_key(),
        "n_features": rows.shape[1],
        **asdict(extractor.last_run_),
    }
    line = f"{extractor.last_run_}, {rows.shape[1]} features"
    _show(options, report, [f"{report['extractor'][:12]}  {line}"])
    return 0


def _info(options: argparse.Namespace) -> int:
    from embeddings_cache._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    found = store.extractors()
    lines = [f"{store.root}: {len(found)} extractors"]
    for entry in found:
        about = entry.description
        name = f"{about.get('family', '?')}:{about.get('model', '?')}"
        random = "random_seed" in about.get("weights", {})
        lines.append(
            f"{entry.key[:12]}  {name}{' (random weights)' if random else ''}  "
            f"{entry.n_rows} rows  {entry.n_shards} shards  {entry.n_bytes} bytes"
        )
    value = {"root": str(store.root), "extractors": [asdict(each) for each in found]}
    _show(options, value, lines)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from embeddings_cache._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    damage = store.verify(options.level, quarantine=options.quarantine)
    lines = [f"{d.extractor[:12]}  {d.shard[:12]}  {d.reason}" for d in damage]
    lines.append(f"{len(damage)} damaged entries (level {options.level})")
    _show(options, [asdict(each) for each in damage], lines)
    return 1 if damage else 0


def _prune(options: argparse.Namespace) -> int:
    from embeddings_cache._store import EmbeddingStore

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
    _show(options, asdict(report), [line])
    return 0


def _export(options: argparse.Namespace) -> int:
    from embeddings_cache._store import EmbeddingStore

    store = EmbeddingStore(options.cache_dir)
    rows, columns = store.export(options.path, options.extractor)
    value = {"path": options.path, "n_rows": rows, "n_features": columns}
    _show(options, value, [f"{options.path}: {rows} x {columns}"])
    return 0
