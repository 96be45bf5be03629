"""Switches of the process that let float32 products lose digits."""

import itertools
import threading
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import embeddings_cache._precision
import skdebias._precision
from embeddings_cache._precision import exact_float32

NEWER = (
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
)
KINDS = [name for name in NEWER if name.count(".") == 2]
HAS_NEWER = hasattr(torch.backends, "fp32_precision")
needs_newer = pytest.mark.skipif(not HAS_NEWER, reason="PyTorch before 2.9")


def assign(name, value):
    owner, _, last = name.rpartition(".")
    holder = attrgetter(owner)(torch.backends) if owner else torch.backends
    setattr(holder, last, value)


def older(read):
    try:
        return read()
    except RuntimeError:
        return "contradicted"


def state():
    return [attrgetter(name)(torch.backends) for name in NEWER if HAS_NEWER] + [
        older(torch.get_float32_matmul_precision),
        older(lambda: torch.backends.cudnn.allow_tf32),
        older(lambda: torch.backends.cuda.matmul.allow_tf32),
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        torch.backends.cuda.matmul.allow_fp16_accumulation,
    ]


@pytest.fixture(autouse=True)
def switches():
    """The switches as PyTorch has them at its start."""
    yield
    torch.backends.cuda.matmul.allow_fp16_accumulation = False
    for name in NEWER if HAS_NEWER else ():
        assign(name, "none")
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for name in NEWER if HAS_NEWER else ():
        if not name.startswith("cudnn."):
            assign(name, "none")


SETTINGS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "no convolutions": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "float16 sums": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_accumulation", True
    ),
}
NEWER_SETTINGS = [
    *itertools.product(NEWER, ["ieee", "tf32", "none"]),
    ("mkldnn.matmul.fp32_precision", "bf16"),
]


def check_exact_inside_and_unchanged_after():
    before, readable = state(), older(torch.get_float32_matmul_precision)
    with exact_float32(), exact_float32():
        if HAS_NEWER:
            inside = [attrgetter(name)(torch.backends) for name in KINDS]
            assert inside == ["ieee"] * len(KINDS)
        assert not torch.backends.cuda.matmul.allow_fp16_accumulation
        if readable != "contradicted":
            assert torch.get_float32_matmul_precision() == "highest"
    assert state() == before


@pytest.mark.parametrize("name", SETTINGS)
def test_older_switches(name):
    SETTINGS[name]()
    check_exact_inside_and_unchanged_after()


@needs_newer
@pytest.mark.parametrize(("name", "value"), NEWER_SETTINGS)
def test_newer_switches(name, value):
    assign(name, value)
    check_exact_inside_and_unchanged_after()


@needs_newer
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("newer", NEWER)
def test_both_generations(name, newer):
    SETTINGS[name]()
    assign(newer, "tf32")
    check_exact_inside_and_unchanged_after()


@needs_newer
@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_a_switch_that_followed_a_wider_one_still_does(before):
    assign("fp32_precision", before)
    assign("cuda.matmul.fp32_precision", "none")
    assign("cudnn.conv.fp32_precision", "none")
    assign("cudnn.rnn.fp32_precision", "tf32")  # this one does not
    with exact_float32():
        pass
    for value in ("ieee", "tf32"):
        assign("fp32_precision", value)
        assert torch.backends.cuda.matmul.fp32_precision == value
        assert torch.backends.cudnn.conv.fp32_precision == value
        assert torch.backends.cudnn.rnn.fp32_precision == "tf32"


def test_threads_that_overlap():
    """The one that ends first does not give the switches back under the other."""
    torch.set_float32_matmul_precision("high")
    entered, first_gone, found = threading.Event(), threading.Event(), []

    def other():
        with exact_float32():
            entered.set()
            first_gone.wait()
            found.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=other)
    with exact_float32():
        thread.start()
        entered.wait()
    first_gone.set()
    thread.join()
    assert found == ["highest"]
    assert torch.get_float32_matmul_precision() == "high"


def test_an_error_inside():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("name", ["_context", "_precision", "_thread_limits"])
def test_both_packages_have_the_same_file(name):
    """They do not import each other."""
    packages = Path(embeddings_cache.__file__), Path(skdebias.__file__)
    one, other = (p.with_name(f"{name}.py").read_bytes() for p in packages)
    packages = (b"embeddings_cache", b"skdebias")
    assert one.replace(packages[0], packages[1]) == other.replace(*packages)


def test_the_packages_share_their_holders():
    copies = embeddings_cache._precision, skdebias._precision
    torch.set_float32_matmul_precision("high")
    with copies[0].exact_float32():
        with copies[1].exact_float32():
            pass
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"
