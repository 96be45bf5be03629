"""What does it take to break the cache of embeddings? Faults by the thousand

    python examples/benchmarks/soak_cache.py
    python examples/benchmarks/soak_cache.py --only kills --seed 7
    python examples/benchmarks/soak_cache.py --quick --json

Each scenario harms a cache many times: kill -9 at random instants, the end of the
process, an error or a short write at each call to the file system in turn, a power
cut that takes what was not synced, truncated files, flipped bits, a full disk, many
writers at once, readers beside a pruner. After each fault a resumed run must return
the bytes of an undisturbed one, compute no more than the shards in flight again, and
a prune must leave exactly the files of the committed shards. "transform" scenarios go
through `EmbeddingExtractor` with a small network, "store" ones straight through the
store. Others harm the caller: threads that share a network, contexts that change
arithmetic, networks that differ in one thing must get the rows of a fresh cache, or be
refused. Exit code 1 if anything was broken. POSIX only, since processes are forked.

The faults are those of `tests/embeddings_cache`, where `--quick` runs in every test.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "embeddings_cache"))

import fault_scenarios as faults  # noqa: E402
from fault_runs import BrokenInvariantError, Run, StoreRun, TransformRun  # noqa: E402


class Soak:
    """The scenarios, as methods of a folder, a generator and a size.

    Parameters
    ----------
    folder : Path
        An empty folder.
    rng : random.Random
        Chooses instants, bits and orders.
    quick : bool
        The sizes of the test suite.
    n_kills : int
        Kills of the two scenarios that kill, if not quick.
    """

    def __init__(
        self, folder: Path, rng: random.Random, *, quick: bool, n_kills: int
    ) -> None:
        self.folder = folder
        self.rng = rng
        self.quick = quick
        self.n_kills = n_kills

    def _store(self, n_items: int) -> Run:
        return StoreRun(self.folder / "scratch", n_items)

    def _transform(self, n_items: int, seed: int = 0) -> Run:
        return TransformRun(self.folder / "scratch", n_items, seed)

    def kills(self) -> Counter[str]:
        """Kill -9 at random instants, transform."""
        n = 20 if self.quick else self.n_kills
        return faults.kills(self._transform(24), self.folder, n, self.rng)

    def store_kills(self) -> Counter[str]:
        """Kill -9 at random instants, store."""
        n = 180 if self.quick else self.n_kills
        return faults.kills(self._store(24), self.folder, n, self.rng)

    def exits(self) -> Counter[str]:
        """End of the process at every call, store or transform."""
        work = self._store(8) if self.quick else self._transform(12)
        return faults.exits(work, self.folder)

    def failing_calls(self) -> Counter[str]:
        """Every call fails, before or after it did its work, or is cut short."""
        work = self._store(8) if self.quick else self._transform(8)
        cases = [("before", code, 4) for code in faults.ERRORS]
        cases += [("short", 0, 4), ("after", faults.ERRORS[1], 4)]
        if not self.quick:
            cases += [("after", code, 4) for code in faults.ERRORS if code != 5]
        cases.append(("before", faults.ERRORS[0], 0))
        counts: Counter[str] = Counter()
        for number, (how, code, n_before) in enumerate(cases):
            folder = self.folder / str(number)
            counts += faults.failures(work, folder, how, code, n_before=n_before)
        return counts

    def power_losses(self) -> Counter[str]:
        """Power cut before every call; unsynced data is lost, torn or kept."""
        work = self._store(8) if self.quick else self._transform(12)
        variants = 1 if self.quick else 3
        return faults.power_losses(work, self.folder, self.rng, n_variants=variants)

    def truncations(self) -> Counter[str]:
        """Files cut at every parsed byte and around every block."""
        work = self._store(8) if self.quick else self._transform(8)
        return faults.truncations(work, self.folder)

    def bit_flips(self) -> Counter[str]:
        """1,000 random bit flips over all files, store or transform."""
        work = self._store(12) if self.quick else self._transform(12)
        return faults.bit_flips(work, self.folder, 1000, self.rng)

    def transform_flips(self) -> Counter[str]:
        """Fewer bit flips, always through transform."""
        n = 50 if self.quick else 200
        return faults.bit_flips(self._transform(12), self.folder, n, self.rng)

    def writers(self) -> Counter[str]:
        """Two and eight writers at once, of one extractor and of three, no locks."""
        works = [self._transform(24, seed) for seed in range(3)]
        counts: Counter[str] = Counter()
        for number in range(1 if self.quick else 10):
            for n in (2, 8):
                for some in (works[:1], works):
                    folder = self.folder / f"{number}-{n}-{len(some)}"
                    n_writers = max(n, len(some))
                    counts += faults.writers(some, folder, n_writers, self.rng)
        return counts

    def pruned_readers(self) -> Counter[str]:
        """Two readers beside a pruner that deletes all it can."""
        n = 15 if self.quick else 200
        return faults.pruned_readers(self._transform(24), self.folder, n, self.rng)

    def file_limit(self) -> Counter[str]:
        """A limit of file sizes, as a quota."""
        return faults.file_limit(self._store(12), self.folder)

    def full_disk(self) -> Counter[str]:
        """A file system of 256 KiB that is full (Linux with user namespaces)."""
        return faults.full_disk(self._store(12), self.folder)

    def threads(self) -> Counter[str]:
        """Threads that share an extractor, or a network."""
        import fault_callers

        return fault_callers.threads(self.folder, 4 if self.quick else 200, self.rng)

    def contexts(self) -> Counter[str]:
        """Callers that have switched on whatever changes arithmetic."""
        import fault_callers

        return fault_callers.contexts(self.folder, 5 if self.quick else 200, self.rng)

    def keys(self) -> Counter[str]:
        """Networks and preprocessing that differ in one thing, in one cache."""
        import fault_callers

        return fault_callers.keys(self.folder, 1 if self.quick else 20, self.rng)


SCENARIOS = [name for name in vars(Soak) if not name.startswith("_")]


def can_mount() -> bool:
    """Whether this user may mount a small file system in a namespace of its own."""
    try:
        command = ["unshare", "--map-root-user", "--mount", "true"]
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def run_scenario(name: str, options: argparse.Namespace) -> dict:
    """Run one scenario in a process of its own; return its report."""
    command = [sys.executable, __file__, "--inside", name]
    command += ["--seed", str(options.seed), "--kills", str(options.kills)]
    command += ["--quick"] if options.quick else []
    command += ["--folder", options.folder] if options.folder else []
    if name == "full_disk":
        if not can_mount():
            return {"counts": {}, "broken": None, "note": "skipped: cannot mount"}
        command = ["unshare", "--map-root-user", "--mount", *command]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"counts": {}, "broken": f"exit code {done.returncode}"}
    report = json.loads(done.stdout)
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report


def inside(name: str, options: argparse.Namespace) -> None:
    """Run one scenario here and print its report."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        soak = Soak(
            Path(folder),
            random.Random(options.seed),
            quick=options.quick,
            n_kills=options.kills,
        )
        report = {"counts": {}, "broken": None}
        try:
            report["counts"] = dict(getattr(soak, name)())
        except BrokenInvariantError as error:
            report["broken"] = str(error)
    json.dump(report, sys.stdout)


def main() -> int:
    """Run the scenarios, print a table, and say whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--quick", action="store_true", help="as in the test suite")
    parser.add_argument("--kills", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to make caches (default: temporary)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--inside", choices=SCENARIOS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options)
        return 0
    reports = {}
    if not options.json:
        print("| scenario | faults | seconds | broken |\n| --- | --- | ---: | --- |")
    for name in options.only:
        report = reports[name] = run_scenario(name, options)
        if not options.json:
            counts = ", ".join(f"{n} {what}" for what, n in report["counts"].items())
            seconds, broken = report.get("seconds", ""), report["broken"] or "nothing"
            faults_ = counts or report.get("note", "")
            print(f"| {name} | {faults_} | {seconds} | {broken} |", flush=True)
    if options.json:
        json.dump(reports, sys.stdout, indent=2)
    return int(any(report["broken"] for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
