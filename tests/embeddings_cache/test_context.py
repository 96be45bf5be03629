"""Nothing that a caller has switched on reaches an embedding, nor is it changed."""

import io
import os
import threading

import hostile_contexts
import numpy as np
import pytest
import torch
from hostile_contexts import CONTEXTS, state_of_process
from PIL import Image
from torch import nn

from embeddings_cache import EmbeddingExtractor, EmbeddingStore
from embeddings_cache._context import SharedSwitch, standard_context

pytest.importorskip("timm")


class Mixed(nn.Module):
    """Convolution, normalisation, dropout, attention, and numbers too small to hold."""

    cache_description = "mixed network of the tests, 1"

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))

    def forward(self, x):
        x = self.drop(self.norm(self.conv(x))).flatten(2)
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return torch.cat([x.flatten(1), x[:, 0] * 1e-40], 1)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def _encoded(pictures):
    files = []
    for array in pictures:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        files.append(file.getvalue())
    return files


def _own_network(folder):
    return EmbeddingExtractor(
        Mixed().train(), cache_dir=folder, storage_dtype="float32", progress=False,
        num_workers=0, preprocess={"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3},
    )  # fmt: skip


def _random_weights(folder):
    return EmbeddingExtractor(
        "timm:test_vit.r160_in1k", pretrained=False, cache_dir=folder, num_workers=0,
        storage_dtype="float32", progress=False, preprocess={"size": 32},
    )  # fmt: skip


def _inner_layer(folder):
    return EmbeddingExtractor(
        "timm:test_resnet.r160_in1k", pretrained=False, layer="layer2",
        cache_dir=folder, num_workers=0, storage_dtype="float32", progress=False,
        preprocess={"size": 32},
    )  # fmt: skip


def _texts(folder):
    pytest.importorskip("transformers")
    return EmbeddingExtractor(
        "sentence-transformers:all-MiniLM-L6-v2", pretrained=False, num_workers=0,
        model_kwargs={"num_hidden_layers": 1, "vocab_size": 500}, progress=False,
        cache_dir=folder, storage_dtype="float32",
    )  # fmt: skip


ENTRIES = {
    "own network": (_own_network, _encoded),
    "random weights": (_random_weights, _encoded),
    "arrays": (_random_weights, lambda pictures: pictures),
    "layer by name": (_inner_layer, lambda pictures: pictures),
    "texts": (_texts, lambda pictures: ["one", "two words", "Straße"]),
}


@pytest.fixture(scope="module")
def clean(pictures, tmp_path_factory):
    """Rows and keys of every entry, without any context."""
    found = {}
    for name, (make, items) in ENTRIES.items():
        extractor = make(tmp_path_factory.mktemp("clean"))
        rows = extractor.transform(items(pictures))
        found[name] = rows, extractor.extractor_key()
    return found


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_callers_context_changes_no_bit(
    entry, context, clean, pictures, tmp_path, monkeypatch
):
    make, items = ENTRIES[entry]
    rows, key = clean[entry]
    given, extractor = items(pictures), make(tmp_path)
    with CONTEXTS[context]():
        before = state_of_process()
        found = extractor.transform(given)
        again = extractor.extractor_key()
        if context == "Pillow's truncation":
            assert again != key or entry == "texts"  # kept apart, see test_readers
        else:
            assert again == key
        after = state_of_process()
    assert after == before
    np.testing.assert_array_equal(found, rows)
    # What was stored in the context is what a caller without it would have stored.
    later = make(tmp_path).transform(given)
    np.testing.assert_array_equal(later, rows)


def test_the_contexts_are_hostile():
    """Each of those that touch arithmetic changes something without protection."""
    network = Mixed().eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = network(x)
    for name in ("autocast bfloat16", "function mode", "dispatch mode"):
        with CONTEXTS[name]():
            spoilt = network(x)
            with standard_context():
                assert torch.equal(network(x), plain)
        assert not torch.equal(spoilt.float(), plain)
    with CONTEXTS["flush_denormal"]():
        spoilt = network(x)
    assert not torch.equal(spoilt, plain)


def test_a_weight_that_autocast_remembers_is_not_used():
    """Within an autocast of the caller, a cast weight would outlive its change."""
    layer = nn.Linear(4, 1, bias=False)
    x = torch.ones(1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
        with standard_context():
            layer.weight.data.zero_()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert layer(x).item() == 0


def test_random_weights_are_those_of_torchs_own_seed():
    import timm

    from embeddings_cache.backbones._randomness import SeededGenerator

    for name in ("test_vit", "test_resnet", "test_efficientnet"):
        torch.manual_seed(0)
        expected = timm.create_model(name).state_dict()
        torch.manual_seed(7)
        with SeededGenerator(0):
            found = timm.create_model(name).state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(5),
        lambda: torch.rand(5),
        lambda: torch.randint(9, (5,)),
        lambda: torch.randperm(9),
        lambda: torch.randn_like(torch.ones(5)),
        lambda: torch.rand_like(torch.ones(5)),
        lambda: torch.randint_like(torch.ones(5), 9),
        lambda: torch.bernoulli(torch.full((20,), 0.5)),
        lambda: torch.multinomial(torch.ones(9), 5),
        lambda: torch.normal(torch.zeros(5), 1.0),
        lambda: nn.functional.dropout(torch.ones(20)),
        lambda: nn.init.trunc_normal_(torch.empty(5)),
        lambda: nn.init.orthogonal_(torch.empty(5, 5)),
        lambda: nn.init.sparse_(torch.empty(5, 5), 0.5),
        lambda: torch.empty(5).exponential_(),
        lambda: torch.empty(5).log_normal_(),
    ],
)
def test_every_way_to_draw_has_the_own_generator(draw):
    from embeddings_cache.backbones._randomness import SeededGenerator

    torch.manual_seed(3)
    expected = draw()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with SeededGenerator(3):
        found = draw()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def _attention(training):
    heads = torch.linspace(-1, 1, 2 * 4 * 8 * 16).view(2, 4, 8, 16)
    drop = 0.3 if training else 0.0
    return nn.functional.scaled_dot_product_attention(heads, heads, heads, None, drop)


def _lstm(training):
    layer = nn.LSTM(4, 3, num_layers=2, dropout=0.5).train(training)
    return layer(torch.ones(5, 4))[0]


@pytest.mark.parametrize(
    "draw",
    [
        lambda training: nn.functional.dropout(torch.ones(20), 0.5, training),
        lambda training: nn.functional.dropout2d(torch.ones(2, 9, 2, 2), 0.5, training),
        lambda training: nn.functional.alpha_dropout(torch.ones(20), 0.5, training),
        lambda training: nn.functional.rrelu(-torch.ones(20), training=training),
        _attention,
        _lstm,
    ],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_layers_that_draw_have_the_own_generator_in_any_mode(draw, training, mode):
    """In inference mode operations arrive whole, which have no generator."""
    from embeddings_cache.backbones._randomness import SeededGenerator

    torch.manual_seed(3)
    with mode():
        expected = draw(training)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with mode(), SeededGenerator(3):
        found = draw(training)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_share_a_switch():
    """The thread that ends first does not turn it back under the other."""
    state = {"value": "the caller's"}
    switch = SharedSwitch(
        lambda: state["value"], lambda value: state.update(value=value)
    )
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with switch.held("ours"):
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    with switch.held("ours"):
        leave.set()
        thread.join()
        assert state["value"] == "ours"
        with switch.held("stricter", rank=1), switch.held("ours"):
            assert state["value"] == "stricter"
        assert state["value"] == "ours"
    assert state["value"] == "the caller's"
    with switch.held("ours"):
        state["value"] = "turned by the caller meanwhile"
    assert state["value"] == "turned by the caller meanwhile"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_forgets_the_switches_of_other_threads():
    state = {"value": "the caller's"}
    switch = SharedSwitch(
        lambda: state["value"], lambda value: state.update(value=value)
    )
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with switch.held("ours"):
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        ok = False
        try:
            ok = state["value"] == "the caller's"
            with switch.held("ours"):
                ok = ok and state["value"] == "ours"
            ok = ok and state["value"] == "the caller's"
        finally:
            os._exit(0 if ok else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state["value"] == "the caller's"


def test_truncated_images_that_pillow_fills_have_a_key_of_their_own(
    pictures, tmp_path, monkeypatch
):
    from PIL import ImageFile

    from embeddings_cache import UnreadableItemError

    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (cut,) = _encoded([noise])
    cut = cut[: len(cut) // 2]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert _random_weights(tmp_path).transform([cut]).shape[0] == 1
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with pytest.raises(UnreadableItemError):
        _random_weights(tmp_path).transform([cut])
    assert len(EmbeddingStore(tmp_path).extractors()) == 2


def test_a_picture_that_pillow_warns_of_is_read_where_warnings_are_errors():
    from embeddings_cache.items import _images

    # The warning is Pillow's of transparency in a palette.
    picture = Image.new("P", (4, 4))
    picture.info["transparency"] = bytes(range(256))
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes(range(256)))
    plain = _images.decode(file.getvalue()).tobytes()
    with hostile_contexts.CONTEXTS["warnings are errors"]():
        assert _images.decode(file.getvalue()).tobytes() == plain
