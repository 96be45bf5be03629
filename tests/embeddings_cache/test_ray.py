"""The stage of a Ray Data pipeline, on plain batches and, where it is, in Ray."""

import io

import numpy as np
import pytest
from PIL import Image

from embeddings_cache import EmbeddingExtractor, UnreadableItemError
from embeddings_cache.ray import EmbedColumn


@pytest.fixture
def parameters(tmp_path):
    pytest.importorskip("timm")
    return {
        "backbone": "timm:resnet18",
        "pretrained": False,
        "preprocess": {"size": 32},
        "cache_dir": tmp_path / "cache",
        "num_workers": 0,
        "device": "cpu",
    }


@pytest.fixture
def encoded(images):
    """Return the twenty images as PNG files in memory."""
    files = []
    for array in images:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        files.append(file.getvalue())
    return files


def test_a_batch_gets_its_embeddings_and_keeps_its_columns(parameters, images):
    expected = EmbeddingExtractor(**parameters, progress=False).transform(images)
    embed = EmbedColumn("image", into="x", **parameters)
    batch = {"image": images[4:9], "y": np.arange(5)}
    out = embed(batch)
    assert list(out) == ["image", "y", "x"]
    assert list(batch) == ["image", "y"]
    np.testing.assert_array_equal(out["x"], expected[4:9])
    # It is the same cache: nothing was computed.
    assert embed.extractor.last_run_.n_found == 5


def test_only_filling_the_cache(parameters, encoded, capsys):
    embed = EmbedColumn("bytes", into=None, **parameters)
    batch = {"bytes": np.array(encoded[:6], dtype=object)}
    assert embed(batch) is batch
    assert embed.extractor.last_run_.n_computed == 6
    assert capsys.readouterr().err == ""


def test_a_missing_column_names_those_there_are(parameters):
    embed = EmbedColumn("image", **parameters)
    with pytest.raises(ValueError, match=r"column='image' .* it has 'bytes', 'y'"):
        embed({"bytes": np.zeros(2), "y": np.zeros(2)})


def test_an_unreadable_item_fails_its_batch_and_the_rest_is_kept(parameters, encoded):
    embed = EmbedColumn("bytes", **parameters)
    batch = {"bytes": np.array([encoded[0], b"junk", encoded[1]], dtype=object)}
    with pytest.raises(UnreadableItemError, match="1 of 3 items"):
        embed(batch)
    assert embed.extractor.last_run_.n_computed == 2


@pytest.mark.filterwarnings("ignore")  # Ray's own, of every release another one
def test_in_ray(parameters, encoded):
    ray = pytest.importorskip("ray", reason="Ray Data: pip install 'skdebias[ray]'")
    pa = pytest.importorskip("pyarrow")
    parameters["cache_dir"] = str(parameters["cache_dir"])
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        table = pa.table({"bytes": encoded, "row": list(range(20))})
        dataset = ray.data.from_arrow([table.slice(n, 5) for n in range(0, 20, 5)])
        stage = dataset.map_batches(
            EmbedColumn,
            fn_constructor_args=["bytes"],
            fn_constructor_kwargs=parameters,
            concurrency=2,
            batch_size=5,
        )
        rows = sorted(stage.take_all(), key=lambda row: row["row"])
    finally:
        ray.shutdown()
    extractor = EmbeddingExtractor(**parameters, progress=False)
    expected = extractor.transform(encoded)
    assert extractor.last_run_.n_found == 20
    np.testing.assert_array_equal([row["embedding"] for row in rows], expected)
