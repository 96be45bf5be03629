"""The faults themselves: each function does one kind of harm many times.

Every function takes a workload and an empty folder, checks after each fault that
nothing wrong is returned and that no more than the shards in flight is lost, resumes,
and returns counts of what it did; or it raises `BrokenInvariantError`.
"""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from fault_models import FailingCall, Instants, PowerCut, PowerLoss
from fault_runs import SHARD_ROWS, Run, ignore_damage, require

from embeddings_cache import EmbeddingStore, StoreError
from embeddings_cache.store._shards import HEADER_BYTES

ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EMFILE)


def fork(function: Callable[[], object]) -> int:
    """Run a function in a process of its own; return the process's number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return the exit code of a forked process, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(work: Run, folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Kill -9 at random instants; half of the resumed runs are killed again.

    A run kills itself, or asks to be killed and goes on meanwhile, so that a kill may
    hit it in the middle of a call.
    """
    counts: Counter[str] = Counter()
    n_instants = _n_instants(work, folder / "undisturbed")
    while counts["kills"] < n:
        root = folder / "root"
        before, n_kills, again = work.computed, 0, True
        while again:
            instant, itself = rng.randrange(n_instants), rng.random() < 0.5
            code = _run_and_kill(work, root, instant, itself)
            require(code in (0, -signal.SIGKILL), f"a run ended with code {code}")
            n_kills += code != 0
            again = code != 0 and rng.random() < 0.5
            counts["kills with some rows done"] += code != 0 and work.check(root) > 0
        work.finish(root)
        _count_redone(work, before, n_kills, counts)
        counts["kills"] += n_kills
        shutil.rmtree(root)
    return counts


def _n_instants(work: Run, root: Path) -> int:
    instants = Instants(-1, lambda: None)

    def run() -> None:
        with instants:
            work.run(root)

    require(wait(fork(run)) == 0, "an undisturbed run failed")
    shutil.rmtree(root)
    return instants.n_seen


def _run_and_kill(work: Run, root: Path, instant: int, itself: bool) -> int:
    """Run in a process that is killed at or after an instant; return its exit code."""
    reading, writing = os.pipe()

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def ask() -> None:
        os.write(writing, b"!")

    def run() -> None:
        os.close(reading)
        with Instants(instant, kill if itself else ask):
            work.run(root)

    pid = fork(run)
    os.close(writing)
    if os.read(reading, 1):  # nothing, if the run ends before
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    return wait(pid)


def exits(work: Run, folder: Path) -> Counter[str]:
    """End the process at each call to the file system in turn."""
    counts: Counter[str] = Counter()
    for number in count():
        root, before = folder / str(number), work.computed

        def run(root: Path = root, number: int = number) -> None:
            with FailingCall(number, "exit"):
                work.run(root)

        code = wait(fork(run))
        require(code in (0, 99), f"a run ended with code {code}")
        if code == 0:
            return counts
        counts["exits at a call"] += 1
        work.check(root)
        work.finish(root)
        _count_redone(work, before, 1, counts)
        shutil.rmtree(root)
    return counts


def _count_redone(work: Run, before: int, n_kills: int, counts: Counter[str]) -> None:
    redone = work.computed - before - work.n_items
    require(redone <= n_kills * SHARD_ROWS, f"{n_kills} kills cost {redone} items")
    counts["items computed again"] += redone


def failures(
    work: Run, folder: Path, how: str, code: int, *, n_before: int
) -> Counter[str]:
    """Let each call in turn fail with an error number, or be cut short.

    Parameters
    ----------
    work, folder
        Workload and an empty folder.
    how : {"before", "after", "short"}
        See `FailingCall`.
    code : int
        The error number.
    n_before : int
        Items that the cache holds before; 0 for an empty cache.
    """
    name = "short writes and reads" if how == "short" else errno.errorcode[code]
    counts: Counter[str] = Counter()
    for number in count():
        root = folder / str(number)
        if n_before:
            work.run(root, n_before)
        with FailingCall(number, how, code) as fault, ignore_damage():
            try:
                work.run(root)
            except StoreError as error:
                require(how != "short", "a short write or read is no error")
                require("cache_dir" in str(error), "the error names no parameter")
        if not fault.reached:
            return counts
        counts[name] += 1
        held = work.check(root)
        # What cannot be read is computed again; any other error leaves it alone.
        require(held >= n_before or code == errno.EIO, "earlier shards were lost")
        work.finish(root)
        shutil.rmtree(root)
    return counts


def power_losses(
    work: Run, folder: Path, rng: random.Random, *, n_variants: int
) -> Counter[str]:
    """Cut the power before each call in turn; what was not synced may be gone.

    The run writes, prunes half of it, and writes again. Rows whose writing was
    reported must be there after the cut.
    """
    counts: Counter[str] = Counter()
    for number in count():
        base = folder / str(number)
        base.mkdir(parents=True)
        disk = PowerLoss(base, number)
        with disk, suppress(PowerCut):
            root = base / "root"
            reported = 0
            work.run(root, work.n_items // 2)
            reported = work.n_items // 2
            half = sum(entry.n_bytes for entry in EmbeddingStore(root).extractors())
            work.run(root)
            reported = 0
            EmbeddingStore(root).prune(max_bytes=half, grace=0)
            work.run(root)
            reported = work.n_items
            return counts
        for _ in range(n_variants):
            kept = rng.choice((0.0, 0.5, 0.9, 1.0))
            left = folder / "left"
            disk.leave(left, rng, kept)
            counts["power cuts"] += 1
            held = work.check(left / "root")
            require(held >= reported, f"{reported} items were reported, {held} left")
            work.finish(left / "root")
            shutil.rmtree(left)
        shutil.rmtree(base)
    return counts


def _damageable(root: Path) -> list[Path]:
    """Return the files whose content matters."""
    found = [path for path in root.rglob("*") if path.is_file()]
    inner = ("shards", "commits")
    return sorted(p for p in found if p.parent.name in inner or p.suffix == ".json")


def bit_flips(work: Run, folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Flip random bits of all files: found at level block, never returned."""
    counts: Counter[str] = Counter()
    root = folder / "root"
    work.run(root)
    for number in range(n):
        path = rng.choice(_damageable(root))
        data = bytearray(path.read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        counts[f"bit flips in {_kind(path)}"] += 1
        _require_found(root, "block", f"bit {bit} of {path.name}")
        _heal(work, root, number)
    work.finish(root)
    return counts


def truncations(work: Run, folder: Path) -> Counter[str]:
    """Cut every kind of file everywhere it may matter: found at level size."""
    counts: Counter[str] = Counter()
    root = folder / "root"
    work.run(root)
    for kind in ("shards", "keys", "records", "descriptions"):
        (path, *_) = [p for p in _damageable(root) if _kind(p) == kind]
        for size in list(_cuts(path, kind)):
            (path, *_) = [p for p in _damageable(root) if _kind(p) == kind]
            if size >= path.stat().st_size:
                continue  # the healed record's time has a digit less
            os.truncate(path, size)
            counts[f"truncated {kind}"] += 1
            _require_found(root, "size", f"{path.name} cut to {size} bytes")
            _heal(work, root, size)
    work.finish(root)
    return counts


def _heal(work: Run, root: Path, number: int) -> None:
    """Ask for all rows, which sets damage aside; at times check all the rest."""
    with ignore_damage():
        work.run(root)
    EmbeddingStore(root).prune(grace=0)
    if number % 10 == 0:
        work.finish(root)


def _kind(path: Path) -> str:
    if path.parent.name == "commits":
        return "records"
    kinds = {".safetensors": "shards", ".keys": "keys", ".json": "descriptions"}
    return kinds[path.suffix]


def _cuts(path: Path, kind: str) -> Iterator[int]:
    """Yield every byte of what is parsed, and around every block of the rest."""
    size = path.stat().st_size
    if kind in ("records", "descriptions"):
        yield from range(size)
        return
    parsed = path.read_bytes()[:HEADER_BYTES].rstrip(b" ") if kind == "shards" else b""
    yield from range(len(parsed))
    edges = range(0, size, 512) if kind == "shards" else range(0, size, 32)
    near = {edge + shift for edge in edges for shift in (-1, 0, 1)} | {size - 1}
    yield from sorted(cut for cut in near if len(parsed) <= cut < size)


def _require_found(root: Path, level: str, what: str) -> None:
    store = EmbeddingStore(root)
    require(store.verify(level), f"{what}: not found at level {level}")
    require(store.verify("full"), f"{what}: not found at level full")


def writers(works: list[Run], folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Write overlapping items from several processes at once, without locks."""
    root = folder / "root"

    def write(work: Run, seed: int) -> None:
        own = random.Random(seed)
        for _ in range(5):
            work.run_shuffled(root, own)
        work.run(root)

    seeds = [rng.getrandbits(32) for _ in range(n)]
    pids = [
        fork(lambda i=i, seed=seed: write(works[i % len(works)], seed))
        for i, seed in enumerate(seeds)
    ]
    for pid in pids:
        require(wait(pid) == 0, "a writer failed or saw a wrong row")
    for work in works:
        work.run(root)
    require(not EmbeddingStore(root).verify(), "the writers left damage")
    require(len(EmbeddingStore(root).extractors()) == len(works), "extractors mixed up")
    return Counter({f"runs of {n} writers at once": 1})


def pruned_readers(work: Run, folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Ask for rows in two processes while a third deletes all it can."""
    root = folder / "root"
    seen: Counter[str] = Counter()

    def prune() -> None:
        # In step with the readers: on no machine does it leave them nothing.
        at = 0
        while True:
            while work.computed < at:
                time.sleep(0.001)
            EmbeddingStore(root).prune(max_bytes=0, grace=0)
            at = work.computed + rng.randint(1, SHARD_ROWS)

    def read(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(n):
            # Without a grace time a pruner may also take what is being written.
            with suppress(StoreError):
                work.run_shuffled(root, own)
                seen["right"] += 1
        require(seen["right"], "no run succeeded beside the pruner")

    work.run(root)
    pruner = fork(prune)
    seeds = [rng.getrandbits(32) for _ in range(2)]
    readers = [fork(lambda seed=seed: read(seed)) for seed in seeds]
    codes = [wait(pid) for pid in readers]
    os.kill(pruner, signal.SIGKILL)
    require(wait(pruner) == -signal.SIGKILL, "the pruner failed")
    require(codes == [0, 0], "a reader failed or saw a wrong row")
    work.finish(root)
    return Counter({"runs beside a pruner": 2 * n})


def full_disk(work: Run, folder: Path) -> Counter[str]:
    """Run until a small disk is full, then make room; needs a mount namespace.

    The process must be able to mount: as root, or below ``unshare --map-root-user
    --mount``.
    """
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    subprocess.run(mount, check=True)
    try:
        root, filler = disk / "root", disk / "filler"
        work.run(root, SHARD_ROWS)
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        _require_store_error(lambda: work.run(root), "No space left on device")
        require(work.check(root) == SHARD_ROWS, "earlier shards were lost")
        filler.unlink()
        work.finish(root)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return Counter({"full disks": 1})


def file_limit(work: Run, folder: Path) -> Counter[str]:
    """Let the system refuse files above a size, as a quota does."""
    root = folder / "root"
    work.run(root, SHARD_ROWS)

    def limited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES, hard))
        _require_store_error(lambda: work.run(root), "File too large")

    require(wait(fork(limited)) == 0, "a run below the limit failed otherwise")
    require(work.check(root) == SHARD_ROWS, "earlier shards were lost")
    work.finish(root)
    return Counter({"file size limits": 1})


def _require_store_error(function: Callable[[], object], what: str) -> None:
    try:
        function()
    except StoreError as error:
        require(what in str(error), f"the error does not say {what!r}: {error}")
        require("prune" in str(error), f"the error names no remedy: {error}")
    else:
        require(False, "a run succeeded without room")
