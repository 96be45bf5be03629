"""How fast are stacks of heads? Every ratio is measured side by side in one run

    python examples/benchmarks/heads.py
    python examples/benchmarks/heads.py --set b --tables 1 2

Sets: (a) 20,000 x 512 float32, (b) 100,000 x 2,048 float16, generated, two classes, two
attributes, 5 % minority; "celeba" is the training part of 30,000 real faces x 1,024
where `$SKDEBIAS_DATA` has them. The five tables:

1. A grid of 5 beta x 5 c x 4 learning rates x 3 weight decays on 5 folds, batched and
   one fit at a time. What would take hours is measured on a random subset of candidates
   and scaled by their number.
2. The rate of a stack's useful work, and that of the bare matrix products.
3. The cost of a head in stacks of 1 to 3,000, its growth with rows and features, and
   the memory of a search.
4. One fit, against a plain PyTorch loop and scikit-learn's solver.
5. The grid of table 1 with several seeds on a GPU, where there is one, on generated
   embeddings that lie on it. `--gpu-device cpu --gpu-rows 2000 --gpu-features 64
   --gpu-seeds 1` runs the same code without a GPU, to test it.

What is compared is timed in turn, ABAB, `--repeats` times: seconds are medians, a ratio
is the median over the rounds with the lowest and highest. Every table has the project's
targets, and whether this run reached them.
"""

import argparse
import os
import platform
import sys
import warnings
from pathlib import Path

import _common as common
import _gpu
import _search
import _single
import _stack
import numpy as np
import torch

from skdebias.datasets import make_spurious_classification

SIZES = {"a": (20_000, 512, np.float32), "b": (100_000, 2048, np.float16)}
# Fewer for (b), or its tables take hours; both sides of a ratio have the same number.
EPOCHS = {"a": 10, "b": 2, "celeba": 10}
TABLES = {
    1: _search.table,
    2: _stack.useful_work,
    3: _stack.cost,
    4: _single.table,
    5: _gpu.table,
}


def load(name, n_rows=None, n_features=None):
    """Return X, y and attributes of a set."""
    if name == "celeba":
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from celeba_gerne import load as load_faces
        from celeba_gerne import split

        train = split(*load_faces(os.environ.get("SKDEBIAS_DATA", ".")), 0)[0]
        rows = slice(n_rows)
        X, y, attributes = train.X[rows], train.y[rows], train.attributes[rows]
        return X, y.astype(np.int64), attributes.astype(np.int64)
    rows, columns, dtype = SIZES[name]
    X, y, attributes = make_spurious_classification(
        n_rows or rows, n_features=n_features or columns, random_state=0
    )
    return X.astype(dtype), y, attributes


def read_arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--set", default="a", choices=[*SIZES, "celeba"])
    parser.add_argument(
        "--tables", nargs="+", type=int, default=list(TABLES), choices=TABLES
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument(
        "--candidates",
        type=int,
        default=12,
        help="candidates that single fits are measured on (default: 12)",
    )
    parser.add_argument(
        "--epochs", type=int, help="of SGD in tables 1 and 4 (default: 10; set b: 2)"
    )
    parser.add_argument("--folds", type=int, default=5, help="of searches (default: 5)")
    parser.add_argument(
        "--memory-heads",
        type=int,
        default=5000,
        help="heads of the search whose memory is measured (default: 5000)",
    )
    gpu = parser.add_argument_group("table 5")
    gpu.add_argument("--gpu-device", default="cuda")
    gpu.add_argument("--gpu-rows", type=int, default=200_000)
    gpu.add_argument("--gpu-features", type=int, default=2048)
    gpu.add_argument(
        "--gpu-seeds",
        type=int,
        default=15,
        help="seeds of 300 candidates on 5 folds (default: 15, 22,500 fits)",
    )
    gpu.add_argument("--gpu-epochs", type=int, default=10)
    # For tests of this script: a set of another size, and the process of table 3.
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--features", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epochs is None:
        arguments.epochs = EPOCHS[arguments.set]
    return arguments


def main():
    """Run the command line."""
    arguments = read_arguments()
    warnings.simplefilter("ignore")
    # Of the processes started here.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    load_average = os.getloadavg()[0]
    data = load(arguments.set, arguments.rows, arguments.features)
    if arguments.child:
        _stack.memory_child(data, arguments)
        return
    X = data[0]
    print(
        f"Set {arguments.set}: {X.shape[0]} x {X.shape[1]} {X.dtype}. torch "
        f"{torch.__version__} on {platform.machine()}, {os.cpu_count()} cores, load "
        f"before the run {load_average:.1f}. One thread, but for the batched searches, "
        f"which have {common.N_JOBS}. Medians of {arguments.repeats} rounds.",
        flush=True,
    )
    with common.threads(1):
        for number in sorted(set(arguments.tables)):
            TABLES[number](data, arguments)


if __name__ == "__main__":
    main()
