"""How fast is the embedding cache? Every ratio is measured side by side in one run

    python examples/benchmarks/cache.py
    python examples/benchmarks/cache.py --tables 3 4 --rows 1000000

1. Images: cold `transform` against the bare forward pass of the same network, a plain
   DataLoader loop and timm's own loader.
2. Texts: cold `transform` against the bare forward pass and SentenceTransformer.encode.
3. Rows that are in the cache: warm `transform` against reading one flat file, and the
   time to open them as a memory map.
4. What the store costs per item, against writing one flat file.

What is compared is timed in turn, ABAB, `--repeats` times: seconds are medians, a ratio
is the median over the rounds with the lowest and highest. Every table has the project's
targets, and whether this run reached them.
"""

import argparse
import os
import platform
import tempfile
import warnings
from pathlib import Path

import _common as common
import _extraction
import _rows
import torch

TABLES = {
    1: _extraction.images,
    2: _extraction.texts,
    3: _rows.warm,
    4: _rows.store,
}


def read_arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--tables", nargs="+", type=int, default=list(TABLES), choices=TABLES
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="resnet50", help="of timm, in table 1")
    parser.add_argument("--images", type=int, default=64, help="default: 64")
    parser.add_argument(
        "--ours", action="store_true", help="table 1 without DataLoader and timm"
    )
    parser.add_argument("--texts", type=int, default=1024, help="default: 1024")
    parser.add_argument(
        "--rows", type=int, default=100_000, help="of tables 3 and 4 (default: 100000)"
    )
    parser.add_argument("--features", type=int, default=1024, help="default: 1024")
    return parser.parse_args()


def main():
    """Run the command line."""
    arguments = read_arguments()
    warnings.simplefilter("ignore")
    print(
        f"torch {torch.__version__} on {platform.machine()}, {os.cpu_count()} cores, "
        f"load before the run {os.getloadavg()[0]:.1f}. {arguments.threads} threads of "
        f"torch, device {arguments.device}. Medians of {arguments.repeats} rounds.",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder, common.threads(arguments.threads):
        for number in sorted(set(arguments.tables)):
            place = Path(folder) / str(number)
            place.mkdir()
            TABLES[number](place, arguments)


if __name__ == "__main__":
    main()
