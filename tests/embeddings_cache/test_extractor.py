"""The transformer: what comes out, and that nothing is computed twice."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embeddings_cache import EmbeddingExtractor, EmbeddingStore, UnreadableItemError


def expected(net, images):
    """Compute the embeddings without the cache."""
    rows = []
    for array in images:
        image = Image.fromarray(array).resize((8, 8))
        x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        rows.append(x.permute(2, 0, 1).flatten() @ net.weight.T)
    return torch.stack(rows).detach().numpy()


def test_values_order_and_type(make_extractor, net, images):
    rows = make_extractor(storage_dtype="float32").transform(images)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected(net, images), rtol=1e-5, atol=1e-5)


def test_float16_storage_rounds_and_float32_does_not(make_extractor, images):
    half = make_extractor().transform(images)
    exact = make_extractor(storage_dtype="float32").transform(images)
    np.testing.assert_array_equal(half, exact.astype(np.float16).astype(np.float32))
    assert (half != exact).any()


def test_found_again_in_any_order_and_call(make_extractor, net, images):
    first = make_extractor().transform(images[:12])
    assert net.n_items == 12
    extractor = make_extractor()
    order = np.random.default_rng(1).permutation(20)
    second = extractor.transform(images[order])
    assert net.n_items == 20
    report = extractor.last_run_
    assert (report.n_items, report.n_found, report.n_computed) == (20, 12, 8)
    np.testing.assert_array_equal(second[order < 12], first[order[order < 12]])
    assert report.seconds > 0


def test_duplicates_in_one_call_are_computed_once(make_extractor, net, images):
    extractor = make_extractor()
    rows = extractor.transform(images[[3, 1, 3, 3, 2]])
    assert net.n_items == 3
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(
        rows, make_extractor().transform(images)[[3, 1, 3, 3, 2]]
    )
    assert extractor.last_run_.n_duplicates == 2
    assert str(extractor.last_run_).startswith(
        "5 items: 0 found in the cache, 3 computed, 2 duplicates"
    )


def test_same_content_under_other_paths(make_extractor, net, photo_folder, tmp_path):
    rows = make_extractor().transform(photo_folder)
    assert net.n_items == 6
    moved = tmp_path / "moved"
    photo_folder.rename(moved)
    (moved / "0.png").rename(moved / "renamed.png")
    extractor = make_extractor()
    paths = [moved / "renamed.png", *(moved / f"{n}.png" for n in (1, 2, 3))]
    np.testing.assert_array_equal(extractor.transform(paths), rows[:4])
    assert net.n_items == 6
    assert extractor.last_run_.n_found == 4


def test_arrays_and_pil_images_share_keys(make_extractor, net, images):
    rows = make_extractor().transform(images)
    pil = [Image.fromarray(array) for array in images]
    np.testing.assert_array_equal(make_extractor().transform(pil), rows)
    assert net.n_items == 20


@pytest.mark.parametrize("storage_dtype", ["float16", "float32"])
def test_memmap_is_a_read_only_view(make_extractor, net, images, storage_dtype):
    extractor = make_extractor(storage_dtype=storage_dtype)
    rows = extractor.transform(images)
    order = np.r_[np.arange(19, -1, -1), 4, 4]
    view = make_extractor(storage_dtype=storage_dtype).transform(
        images[order], out="memmap"
    )
    assert view.dtype == storage_dtype
    np.testing.assert_array_equal(view, rows[order])
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    assert net.n_items == 20


def test_memmap_a_second_time_writes_nothing(make_extractor, images, tmp_path):
    def shards():
        return sorted((tmp_path / "cache").rglob("*.safetensors"))

    make_extractor().transform(images, out="memmap")
    assert len(shards()) == 1  # one run in order is mapped as it was written
    make_extractor().transform(images[::-1], out="memmap")
    before = shards()
    extractor = make_extractor()
    extractor.transform(images[::-1], out="memmap")
    assert shards() == before
    assert len(before) == 2
    assert extractor.last_run_.n_found == 20


def test_interruption_keeps_what_was_computed(make_extractor, net, images):
    net.fail_after = 12
    extractor = make_extractor(batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        extractor.transform(images)
    assert extractor.last_run_.n_computed == 12
    net.fail_after = None
    net.n_items = 0
    again = make_extractor(batch_size=4)
    rows = again.transform(images)
    assert net.n_items == 8
    assert (again.last_run_.n_found, again.last_run_.n_computed) == (12, 8)
    np.testing.assert_allclose(rows, expected(net, images), rtol=2e-3, atol=2e-3)


def test_shards_are_flushed_by_size(make_extractor, images, monkeypatch, tmp_path):
    monkeypatch.setattr("embeddings_cache.compute._runner.SHARD_BYTES", 4 * 8 * 2)
    make_extractor(batch_size=4).transform(images)
    (info,) = EmbeddingStore(tmp_path / "cache").extractors()
    assert (info.n_shards, info.n_rows) == (5, 20)


def test_reader_threads_keep_the_order(make_extractor, net, images):
    rows = make_extractor(num_workers=3, batch_size=2).transform(images)
    np.testing.assert_allclose(rows, expected(net, images), rtol=2e-3, atol=2e-3)


def test_batch_size_is_halved_when_memory_runs_out(make_extractor, net, images):
    sizes = []
    forward = net.forward

    def limited(x):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    net.forward = limited
    rows = make_extractor(batch_size=16).transform(images)
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(rows, expected(net, images), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out")])
@pytest.mark.parametrize("position", [0, 7, 19])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_item_too_large_for_the_network_is_that_items_alone(
    make_extractor, net, images, error, position, precision
):
    images[position] = 255
    forward, sizes = net.forward, []

    def limited(x):
        sizes.append(len(x))
        if x.flatten(1).amin(1).max() > 0.99:
            raise error
        return forward(x)

    net.forward = limited
    extractor = make_extractor(batch_size=8, precision=precision)
    with pytest.raises(UnreadableItemError, match=r"1 of 20 items") as caught:
        extractor.transform(images)
    assert [bad.index for bad in caught.value.bad] == [position]
    others = np.delete(images, position, axis=0)
    assert extractor.transform(others).shape == (19, 8)
    assert extractor.last_run_.n_computed == 0
    # The batches after it are as large as those before.
    assert position == 19 or 8 in sizes[sizes.index(1) :]


def test_a_network_too_large_for_every_item_says_so_at_once(
    make_extractor, net, images
):
    sizes = []

    def limited(x):
        sizes.append(len(x))
        raise MemoryError("none left")

    net.forward = limited
    with pytest.raises(MemoryError, match="none left"):
        make_extractor(batch_size=4).transform(images)
    assert len(sizes) <= 8


def test_set_output_names_the_columns(make_extractor, images):
    extractor = make_extractor().set_output(transform="pandas")
    frame = extractor.fit_transform(images)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns[:2]) == ["embeddingextractor0", "embeddingextractor1"]
    assert frame.shape == (20, 8)


def test_in_a_pipeline(make_extractor, images):
    rows = make_pipeline(make_extractor(), StandardScaler()).fit_transform(images)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)


def test_clone_and_pickle_carry_parameters_and_no_weights(images, tmp_path):
    pytest.importorskip("timm")
    extractor = EmbeddingExtractor(
        "timm:resnet18", pretrained=False, cache_dir=tmp_path, progress=False,
        preprocess={"size": 32}, device="cpu",
    )  # fmt: skip
    rows = extractor.transform(images[:2])
    data = pickle.dumps(extractor)
    assert len(data) < 3000
    for twin in (pickle.loads(data), clone(extractor), copy.deepcopy(extractor)):
        assert twin.get_params() == extractor.get_params()
        np.testing.assert_array_equal(twin.transform(images[:2]), rows)
        assert twin.last_run_.n_found == 2


def test_pickling_a_network_of_ones_own_is_refused(make_extractor):
    with pytest.raises(TypeError, match="would hold the weights"):
        pickle.dumps(make_extractor())


def test_constructor_does_no_work():
    extractor = EmbeddingExtractor("nonsense", batch_size=-1)
    assert extractor.get_params()["batch_size"] == -1


def test_modes_and_seeds_are_left_alone(make_extractor, net, images):
    net.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    make_extractor().transform(images)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_shows_counts_or_nothing(make_extractor, images, capfd):
    make_extractor(progress=True).transform(images)
    shown = capfd.readouterr()
    assert "20 items: 0 found in the cache, 20 computed" in shown.err
    assert "item/s" in shown.err
    assert shown.out == ""
    make_extractor().transform(images)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_unreadable_items_are_listed_and_the_rest_is_kept(
    make_extractor, net, photo_folder, tmp_path
):
    good = (photo_folder / "1.png").read_bytes()
    (photo_folder / "1.png").write_bytes(good[: len(good) // 2])
    (photo_folder / "2.png").write_bytes(b"not an image at all")
    paths = [*sorted(photo_folder.rglob("*.png")), photo_folder / "absent.png"]
    extractor = make_extractor()
    with pytest.raises(UnreadableItemError) as caught:
        extractor.transform(paths)
    message = str(caught.value)
    assert message.startswith("3 of 7 items cannot be read (the other 4 are in")
    assert f"item 1, {photo_folder / '1.png'}: damaged or truncated" in message
    assert "2.png: not an image of a format that is read here" in message
    assert "absent.png: No such file or directory" in message
    assert [entry.index for entry in caught.value.bad] == [1, 2, 6]
    assert extractor.last_run_.n_unreadable == 3
    assert net.n_items == 4
    again = make_extractor()
    again.transform([path for i, path in enumerate(paths) if i not in (1, 2, 6)])
    assert again.last_run_.n_found == 4
    # Nothing half-written is left, and what is there is whole.
    assert EmbeddingStore(tmp_path / "cache").verify(level="full") == []
    assert not [p for p in (tmp_path / "cache").rglob("tmp/*") if p.is_file()]
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.bad) == (message, caught.value.bad)


def test_duplicates_of_an_unreadable_item_are_listed_too(make_extractor, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"junk")
    with pytest.raises(UnreadableItemError, match="2 of 2 items") as caught:
        make_extractor().transform([tmp_path / "a.png", tmp_path / "b.png"])
    assert [entry.name[-5:] for entry in caught.value.bad] == ["a.png", "b.png"]


def test_a_file_that_changes_while_it_is_read(
    make_extractor, photo_folder, monkeypatch
):
    from embeddings_cache.items._item import Item

    key = Item.key

    def change_after(item):
        found = key(item)
        Image.new("RGB", (4, 4), "red").save(item.name)
        return found

    monkeypatch.setattr(Item, "key", change_after)
    with pytest.raises(UnreadableItemError, match="changed while it was being read"):
        make_extractor().transform([photo_folder / "0.png"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 0},
            r"batch_size=0 must be 'auto' or a whole number of at leas",
        ),
        ({"batch_size": 2.5}, r"batch_size=2.5 must be 'auto' or a whole number"),
        ({"num_workers": -1}, r"num_workers=-1 must be 'auto' or a whole number of at"),
        ({"precision": "int8"}, r"precision='int8' must be one of 'auto', 'float32'"),
        ({"storage_dtype": "float64"}, r"storage_dtype='float64' must be one of"),
        (
            {"pooling": "none"},
            r"pooling='none' must be one of 'default', 'cls', 'mean'",
        ),
        ({"pretrained": "yes"}, r"pretrained='yes' must be True or False"),
        ({"device": "gpu"}, r"device='gpu' is not a device of torch"),
        ({"weights": 3}, r"weights=3 must be the path of a safetensors"),
        ({"layer": 1.5}, r"layer=1.5 must be a block's number"),
        ({"layer": "nope"}, r"layer='nope' is not the name of a submodule"),
        ({"model_kwargs": [1]}, r"model_kwargs=\[1\] must be a dict or None"),
        ({"model_kwargs": {"a": 1}}, r"a torch.nn.Module is built already"),
        ({"modality": "sound"}, r"modality='sound' must be one of"),
    ],
)
def test_parameters_out_of_range(make_extractor, images, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_extractor(**changes).transform(images)


def test_fit_checks_parameters(make_extractor):
    with pytest.raises(ValueError, match="batch_size=0"):
        make_extractor(batch_size=0).fit([])


def test_wrong_output_form(make_extractor, images):
    with pytest.raises(ValueError, match="out='list' must be 'array' or 'memmap'"):
        make_extractor().transform(images, out="list")


def test_nan_and_overflow_are_errors_that_name_the_item(make_extractor, net, images):
    with torch.no_grad():
        net.weight[0] = 1e5
    with pytest.raises(
        ValueError, match=r"float16.*of array 0 .*storage_dtype='float3"
    ):
        make_extractor().transform(np.full((1, 16, 16, 3), 255, np.uint8))
    rows = make_extractor(storage_dtype="float32").transform(images)
    assert rows.max() > 65504
    with torch.no_grad():
        net.weight[0] = float("nan")
    with pytest.raises(ValueError, match="embedding of array 0 has NaN or infinite"):
        make_extractor().transform(images)
