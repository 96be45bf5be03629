"""Reader processes: the results of threads, whatever becomes of a process."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import process_models as models
import pytest
import torch
from conftest import CountingNet, to_tensor
from PIL import Image

from embeddings_cache import UnreadableItemError
from embeddings_cache.compute._processes import WorkerProcesses


@pytest.fixture
def embed(make_extractor, net, tmp_path):
    """Return a function that embeds in processes and says what happened."""

    def embed(items, **settings):
        extractor = make_extractor(
            **{"worker_type": "process", "num_workers": 2, "batch_size": 4, **settings}
        )
        return extractor.transform(items), extractor.last_run_

    return embed


@pytest.fixture
def with_white(photo_folder):
    """Return the photo folder with a white image as its third of seven."""
    white = np.full((16, 16, 3), 255, dtype=np.uint8)
    Image.fromarray(white).save(photo_folder / "11.png")
    return photo_folder


def mapped(function, values, workers=2, ahead=4):
    with WorkerProcesses(function, workers) as processes:
        return list(processes.map(values, ahead, None))


def test_results_come_in_order_through_pipe_and_shared_memory():
    assert mapped(models.double, range(40)) == [2 * n for n in range(40)]
    for number, found in enumerate(mapped(models.grid, range(40))):
        np.testing.assert_array_equal(found, models.grid(number), strict=True)


def test_no_more_is_read_ahead_than_asked():
    taken = []
    values = (taken.append(n) or n for n in range(100))
    with WorkerProcesses(models.double, 1) as processes:
        results = processes.map(values, 5, None)
        next(results)
        assert len(taken) <= 5
        results.close()


def test_processes_import_what_the_function_needs_alone():
    assert mapped(models.modules, [0], workers=1) == [[]]


def test_embeddings_equal_those_of_threads_bit_for_bit(embed, photo_folder, tmp_path):
    settings = {"preprocess": {"size": 8}, "storage_dtype": "float32"}
    threads, _ = embed(
        photo_folder, worker_type="thread", cache_dir=tmp_path / "t", **settings
    )
    processes, run = embed(photo_folder, **settings)
    np.testing.assert_array_equal(processes, threads, strict=True)
    assert run.readers == "2 reader processes"
    assert "2 reader processes" in str(run)


def test_arrays_and_bytes_can_be_sent(embed, images, photo_folder):
    data = (photo_folder / "0.png").read_bytes()
    rows, run = embed([images[0], data], preprocess=models.Scale())
    assert (run.readers, len(rows)) == ("2 reader processes", 2)


def test_the_limit_of_pixels_holds_in_processes(embed, photo_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableItemError, match=r"0\.png: too many pixels"):
        embed(photo_folder, preprocess=models.Scale())


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL"])
def test_an_image_that_ends_its_process_is_named(embed, with_white, net, how):
    with pytest.raises(UnreadableItemError) as caught:
        embed(with_white, preprocess=models.Fatal(how))
    (bad,) = caught.value.bad
    assert bad.name.endswith("11.png")
    assert "ended the process that read it, twice" in bad.reason
    assert net.n_items == 6
    (with_white / "11.png").unlink()
    _, run = embed(with_white, preprocess=models.Fatal(how))
    assert (run.n_found, run.n_computed) == (6, 0)


def test_an_image_of_a_hanging_decoder_is_named(embed, with_white, monkeypatch):
    monkeypatch.setattr("embeddings_cache.compute._processes._VALUE_SECONDS", 9.0)
    with pytest.raises(UnreadableItemError, match=r"11\.png: takes more than 9 sec"):
        embed(with_white, preprocess=models.Fatal("hang"))


def test_what_a_process_held_when_it_died_is_tried_again(embed, with_white, tmp_path):
    preprocess = models.Fatal("SIGKILL", marks=tmp_path / "seen")
    rows, run = embed(with_white, preprocess=preprocess)
    assert run.n_computed == len(rows) == 7
    assert (tmp_path / "seen").exists()


def test_what_cannot_be_sent_is_refused_or_has_threads(
    embed, photo_folder, images, monkeypatch
):
    def locked(image, lock=threading.Lock()):  # noqa: B008
        return to_tensor(image)

    locked.cache_description = "locked"
    picture = Image.fromarray(images[0])
    refused = {
        "it cannot be pickled": (photo_folder, locked),
        "ImportError in a new process": (photo_folder, models.Unloadable()),
        "image 0 can be read by this process only": ([picture], {"size": 8}),
    }
    for reason, (items, preprocess) in refused.items():
        with pytest.raises(ValueError, match=f"worker_type='process': {reason}"):
            embed(items, preprocess=preprocess)
    monkeypatch.setattr("embeddings_cache.compute._runner.PROCESS_ITEMS", 1)
    monkeypatch.setattr("embeddings_cache.compute._runner.PROCESS_WORKERS", 2)
    _, run = embed([picture], preprocess={"size": 8}, worker_type="auto")
    assert run.readers.startswith("2 reader threads, not processes: image 0 can")
    _, run = embed(photo_folder, preprocess=locked, worker_type="auto")
    assert run.readers.endswith("not processes: preprocess is a function of your own")
    _, run = embed(photo_folder, preprocess={"size": 8}, worker_type="auto")
    assert run.readers == "2 reader processes"


def test_few_readers_or_images_have_threads(embed, photo_folder):
    _, run = embed(photo_folder, preprocess={"size": 8}, worker_type="auto")
    assert run.readers == "2 reader threads"


def test_processes_cannot_be_none(make_extractor, images):
    with pytest.raises(ValueError, match=r"num_workers=0, .* at least 1"):
        make_extractor(worker_type="process", num_workers=0).transform(images)


def test_an_error_of_the_preprocessing_is_raised_as_it_is(embed, photo_folder):
    class Wrong:
        cache_description = "wrong"

        def __call__(self, image):
            raise KeyError("size")

    with pytest.raises(KeyError, match="size"):
        embed(photo_folder, preprocess=Wrong())


SCRIPT = """
import signal, sys
sys.path.insert(0, sys.argv[1])
import process_models
from embeddings_cache.compute._processes import WorkerProcesses

# Shells let their background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No guard: processes that imported this script again would start their own.
processes = WorkerProcesses(process_models.slow, 2)
with processes:
    print(*processes._workers._pool._processes, flush=True)
    list(processes.map(range(1000), 8, None))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_survives_its_parent(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = os.path.dirname(models.__file__)
    with subprocess.Popen(
        [sys.executable, script, here],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        children = [int(number) for number in process.stdout.readline().split()]
        assert len(children) == 2
        process.send_signal(getattr(signal, name))
        process.wait()
    while any(_is_alive(number) for number in children):
        time.sleep(0.1)


def _is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # Nobody may have asked how it ended.
    with open(f"/proc/{number}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_a_network_is_not_sent(make_extractor, photo_folder):
    class Unsendable(CountingNet):
        def __reduce__(self):
            raise AssertionError("the network is no business of the readers")

    extractor = make_extractor(
        Unsendable(),
        preprocess=models.Scale(),
        worker_type="process",
        num_workers=1,
    )
    assert extractor.transform(photo_folder).shape == (6, 8)
    assert torch.is_tensor(extractor.backbone.weight)
