"""Threads that share an extractor or a network get the rows of a thread alone."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion
from torch import nn

from embeddings_cache import EmbeddingExtractor
from embeddings_cache._turns import Turns, turns_of

N_THREADS = 4


def in_threads(functions):
    """Call functions at once, each in a thread; return their results, or raise."""
    ready = threading.Barrier(len(functions))

    def call(function):
        ready.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [f.result() for f in [pool.submit(call, f) for f in functions]]


SIZES = (3, 12, 24, 36)  # so that some end while others compute


class Normalised(nn.Module):
    """Batch normalisation, dropout, and state that the forward pass keeps."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.seen = None
        self.n_passes = 0
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator))

    cache_description = "normalised, 1"

    def forward(self, x):
        self.n_passes += 1
        self.seen = self.drop(self.norm(self.conv(x)))
        return self.tail()

    def tail(self):
        return self.seen.mean(dim=(2, 3))


def parts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in SIZES]


def make(folder, backbone=None, **changes):
    settings = {
        "cache_dir": folder,
        "progress": False,
        "num_workers": 0,
        "batch_size": 2,
        "storage_dtype": "float32",
        "preprocess": {"size": 16},
        **({"pretrained": False} if isinstance(backbone, str) else {}),
        **changes,
    }
    return EmbeddingExtractor(
        Normalised() if backbone is None else backbone, **settings
    )


def alone(tmp_path, *arguments, **changes):
    found = []
    for number, part in enumerate(parts()):
        extractor = make(tmp_path / f"alone{number}", *arguments, **changes)
        found.append(extractor.transform(part))
    return found


BACKBONES = {
    "named": ("timm:test_resnet.r160_in1k", {}),
    "layer by name": ("timm:test_resnet.r160_in1k", {"layer": "layer2"}),
    "numbered block": ("timm:test_vit.r160_in1k", {"layer": -2, "pooling": "cls"}),
    "own": (None, {}),
    "own, layer by name": (None, {"layer": "norm"}),
    "channels last, with a canary": (
        "timm:test_resnet.r160_in1k",
        {"precision": "bfloat16"},
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("sharing", ["extractor", "clones"])
def test_threads_get_the_rows_of_a_thread_alone(name, sharing, tmp_path):
    backbone, changes = BACKBONES[name]
    if isinstance(backbone, str):
        pytest.importorskip("timm")
    # In bfloat16 the canary of each run passes in float32 while others compute.
    expected = alone(tmp_path, backbone, **changes)
    shared = make(tmp_path / "shared", backbone, **changes)
    extractors = [shared] * N_THREADS
    if sharing == "clones":
        extractors = [clone(shared) for _ in range(N_THREADS)]
    found = in_threads(
        [lambda e=e, p=p: e.transform(p) for e, p in zip(extractors, parts())]
    )
    for rows, right, part in zip(found, expected, parts()):
        np.testing.assert_array_equal(rows, right)
        # And what was stored, with a new extractor.
        later = make(tmp_path / "shared", backbone, **changes)
        np.testing.assert_array_equal(later.transform(part), right)
        if isinstance(backbone, str):
            assert later.last_run_.n_computed == 0


def test_a_network_is_never_touched(tmp_path):
    """Neither its flags nor its buffers, weights, gradients or place."""
    network = Normalised().train()
    network.norm.eval()
    network.conv.weight.requires_grad_(False)
    flags = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    layouts = [value.stride() for value in network.state_dict().values()]
    made = [make(tmp_path / str(n), network) for n in range(N_THREADS)]
    in_threads([lambda e=e, p=p: e.transform(p) for e, p in zip(made, parts())])
    assert [module.training for module in network.modules()] == flags
    assert [v.stride() for v in network.state_dict().values()] == layouts
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not network.conv.weight.requires_grad
    assert network.seen is None  # activations are the copy's
    assert network.n_passes > 0  # its own counters are reported


def test_a_network_in_training_gives_rows_of_what_it_was(tmp_path):
    """The user trains in another thread: rows are of one set of weights, as the key."""
    network = Normalised().train()
    stop = threading.Event()
    moved = []

    def train():
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        while not stop.is_set():
            optimizer.zero_grad()
            network(x).sum().backward()
            optimizer.step()
            moved.append(all(module.training for module in network.modules()))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for number in range(6):
            extractor = make(tmp_path, network)
            part = parts()[3] // (number + 1)
            rows = extractor.transform(part)
            (key,) = {extractor.last_run_.n_items}
            assert key == len(part)
            assert np.isfinite(rows).all()
    finally:
        stop.set()
        thread.join()
    assert all(moved)
    assert len(moved) > 1
    # With weights that stand still, the cache gives what a fresh one gives.
    network.eval()
    for part in parts():
        stored = make(tmp_path, network).transform(part)
        fresh = make(tmp_path / "fresh", network).transform(part)
        np.testing.assert_array_equal(stored, fresh)


def test_random_weights_built_at_once_are_those_of_the_seed(tmp_path):
    pytest.importorskip("timm")
    names = ["timm:test_vit.r160_in1k", "timm:test_resnet.r160_in1k"] * 2
    part = parts()[0]
    expected = {n: make(tmp_path / f"{i}", n).transform(part)
                for i, n in enumerate(names[:2])}  # fmt: skip
    stop = threading.Event()

    def draw():
        while not stop.is_set():
            torch.rand(100)

    noise = threading.Thread(target=draw)
    noise.start()
    try:
        found = in_threads(
            [
                lambda i=i, n=n: make(tmp_path / f"at once {i}", n).transform(part)
                for i, n in enumerate(names)
            ]
        )
    finally:
        stop.set()
        noise.join()
    for name, rows in zip(names, found):
        np.testing.assert_array_equal(rows, expected[name])


def test_building_leaves_the_callers_generator_alone(tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make(tmp_path, "timm:test_vit.r160_in1k").transform(parts()[0])
    assert torch.equal(torch.rand(3), expected)


def test_a_feature_union_in_threads(tmp_path):
    import joblib

    first, second = Normalised(), Normalised()
    union = FeatureUnion(
        [("a", make(tmp_path / "a", first)), ("b", make(tmp_path / "b", second)),
         ("again", make(tmp_path / "c", first))],
        n_jobs=3,
    )  # fmt: skip
    part = parts()[2]
    with joblib.parallel_backend("threading"):
        rows = union.fit_transform(part)
    expected = make(tmp_path / "alone", first).transform(part)
    np.testing.assert_array_equal(rows, np.hstack([expected] * 3))


def test_texts_in_threads(tmp_path):
    pytest.importorskip("transformers")
    texts = [[f"{'word ' * (n + 1)}{i}" for i in range(9)] for n in range(N_THREADS)]
    settings = {
        "model_kwargs": {"num_hidden_layers": 1, "vocab_size": 500},
        "preprocess": None,
    }
    name = "sentence-transformers:all-MiniLM-L6-v2"
    expected = [
        make(tmp_path / f"{n}", name, **settings).transform(part)
        for n, part in enumerate(texts)
    ]
    shared = make(tmp_path / "shared", name, **settings)
    found = in_threads([lambda p=p: shared.transform(p) for p in texts])
    for rows, right in zip(found, expected):
        np.testing.assert_array_equal(rows, right)


def test_hooks_and_patched_passes_use_the_copy(tmp_path):
    """A function on the network that holds the network holds the copy in its place."""
    network = Normalised().train()
    real = network.forward
    network.forward = lambda x: real(x) + network.norm.running_mean
    network.norm.register_forward_hook(
        lambda module, x, out: out + network.conv.bias[0]
    )
    before = network.norm.running_mean.clone()
    (part, *_) = parts()
    rows = make(tmp_path / "a", network).transform(part)
    assert torch.equal(network.norm.running_mean, before)
    network.eval()
    np.testing.assert_array_equal(make(tmp_path / "b", network).transform(part), rows)


def test_parts_in_lists_are_in_evaluation_mode_too(tmp_path):
    class Hidden(Normalised):
        cache_description = "hidden, 1"

        def __init__(self):
            super().__init__()
            self.more = [nn.Dropout(0.5), nn.BatchNorm1d(4)]

        def forward(self, x):
            return self.more[1](self.more[0](super().forward(x)))

    network = Hidden()
    network(torch.rand(4, 3, 16, 16))  # leaves activations within a graph
    part = parts()[1]
    one_by_one = make(tmp_path / "a", network, batch_size=1).transform(part)
    together = make(tmp_path / "b", network, batch_size=12).transform(part)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-5)
    assert network.more[0].training


def test_what_cannot_be_copied_is_refused_by_name(tmp_path):
    network = Normalised()
    network.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"backbone=Normalised.*cannot be copied"):
        make(tmp_path, network).transform(parts()[0])


def test_turns_exclude_each_other():
    turns, order = Turns(), []
    inside, leave = threading.Event(), threading.Event()

    def together():
        with turns.together():
            inside.set()
            leave.wait()
            order.append("together")

    def by_itself():
        with turns.alone():
            order.append("alone")

    first = threading.Thread(target=together)
    first.start()
    inside.wait()
    second = threading.Thread(target=by_itself)
    second.start()
    with turns.together():  # beside the first
        assert order == []
    leave.set()
    first.join()
    second.join()
    assert order == ["together", "alone"]
    owner = nn.Identity()
    assert turns_of(owner) is turns_of(owner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_forked_while_a_thread_computes_is_not_stuck(tmp_path):
    turns = Turns()
    with turns.alone():
        child = os.fork()
        if not child:
            ok = False
            try:
                with turns.alone():
                    ok = turns.interrupted
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not turns.interrupted
