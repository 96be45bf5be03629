"""Files of heads: every damaged or forged one is a ValueError that names it."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as read_tensors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, _serialize
from skdebias._fitted import describe_estimator, rebuild_estimator
from skdebias._serialize import decode, encode, read_file, strict_json, write_file
from skdebias.export import load, save
from tests._instances import HEADS, ONE_OF_EACH


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    y = np.array(["cat", "dog"])[np.arange(60) % 2]
    return rng.normal(size=(60, 3)).astype(np.float32), y, rng.integers(0, 2, 60)


@pytest.fixture
def head_file(rows, tmp_path):
    X, y, attributes = rows
    model = make_pipeline(StandardScaler(), GERNEClassifier(1.0, max_iter=1))
    model.fit(X, y, gerneclassifier__attributes=attributes)
    path = tmp_path / "head.safetensors"
    save(model, path)
    return path


def _refused(path):
    with pytest.raises(ValueError, match=r"head\.safetensors.* save it again"):
        load(path)


def test_every_flipped_bit_is_noticed(head_file):
    whole = head_file.read_bytes()
    rng = np.random.default_rng(0)
    # Every byte once, with one of its bits: header, digest, padding and numbers.
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << rng.integers(8)
        head_file.write_bytes(data)
        _refused(head_file)


def test_every_truncation_and_appendix_is_noticed(head_file):
    whole = head_file.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        head_file.write_bytes(whole[:length])
        _refused(head_file)
    for more in (b"\0", b"{}", whole):
        head_file.write_bytes(whole + more)
        _refused(head_file)


def test_other_programs_read_the_tensors(head_file):
    tensors = read_tensors(head_file.read_bytes())
    assert tensors["1.fitted.coef_"].shape == (1, 3)


def _forge(path, change):
    """Rewrite a file with another header or other arrays, and the right digest."""
    arrays, header = read_file(path, "skdebias-head-2")
    header = change(header, arrays) or header
    write_file(path, arrays, header)


def _set(*keys, value):
    def change(header, arrays):
        place = header
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def _fitted(name, value, step=1):
    def change(header, arrays):
        arrays.pop(f"{step}.fitted.{name}", None)
        described = encode(value, f"{step}.fitted.{name}", arrays)
        _fitted_raw(name, described, step)(header, arrays)

    return change


def _fitted_raw(name, described, step=1):
    def change(header, arrays):
        _lacks(name, step)(header, arrays)
        header["steps"][step]["fitted"]["dict"].append([name, described])

    return change


def _hidden(sizes, biases, linear=False):
    def change(header, arrays):
        if not linear:
            _lacks("coef_")(header, arrays)
            _lacks("intercept_")(header, arrays)
        layers = [np.ones(shape, np.float32) for shape in itertools.pairwise(sizes)]
        _fitted("coefs_", layers)(header, arrays)
        _fitted("intercepts_", [np.ones(n, np.float32) for n in biases])(header, arrays)

    return change


def _lacks(name, step=1):
    def change(header, arrays):
        pairs = header["steps"][step]["fitted"]["dict"]
        pairs[:] = [pair for pair in pairs if pair[0] != name]

    return change


def _parameter(name, value, step=1):
    def change(header, arrays):
        pairs = header["steps"][step]["params"]["dict"]
        pairs[:] = [pair for pair in pairs if pair[0] != name] + [[name, value]]

    return change


FORGED = {
    "no steps": _set("steps", value=[]),
    "steps of another kind": _set("steps", value={"a": 1}),
    "steps missing": lambda header, arrays: header.pop("steps") and None,
    "a header that is a list": lambda header, arrays: [1, 2],
    "another format": _set("format", value="skdebias-head-9"),
    "format of a network": _set("format", value=_serialize.NETWORK_FORMAT),
    "a class that is not known": _set("steps", 1, "class", value="os.system"),
    "another class of skdebias": _set("steps", 1, "class", value="ULEClassifier"),
    "two heads": _set("steps", 0, "class", value="ERMClassifier"),
    "a scaler as head": _set("steps", 1, "class", value="StandardScaler"),
    "a class that is a number": _set("steps", 1, "class", value=1),
    "a name that is a list": _set("steps", 0, "name", value=[]),
    "parameters missing": lambda header, arrays: header["steps"][1].pop("params") and 0,
    "an unknown parameter": _parameter("gamma_ray", 1),
    "a parameter out of range": _parameter("c", -3.0),
    "a parameter of another type": _parameter("max_iter", "many"),
    "a nested parameter": _parameter("hidden_layer_sizes", {"tensor": "none"}),
    "a method as attribute": _fitted("predict_proba", 1),
    "a dunder as attribute": _fitted("__dict__", {}),
    "a private attribute": _fitted("_layers", 1),
    "an unknown fitted attribute": _fitted("gospel_", 1.0),
    "weights with NaN": _fitted("coef_", np.full((1, 3), np.nan, np.float32)),
    "weights with infinity": _fitted("coef_", np.full((1, 3), np.inf, np.float32)),
    "weights of another shape": _fitted("coef_", np.ones((2, 3), np.float32)),
    "weights of another width": _fitted("coef_", np.ones((1, 4), np.float32)),
    "weights that are integers": _fitted("coef_", np.ones((1, 3), np.int64)),
    "weights that are a number": _fitted("coef_", 1.0),
    "weights that are texts": _fitted("coef_", np.array([["a", "b", "c"]])),
    "biases of another length": _fitted("intercept_", np.ones(3, np.float32)),
    "one class": _fitted("classes_", np.array(["cat"])),
    "three classes": _fitted("classes_", np.array(["a", "b", "c"])),
    "classes in a table": _fitted("classes_", np.array([["a", "b"]])),
    "no classes": _lacks("classes_"),
    "no weights": _lacks("coef_"),
    "no width": _lacks("n_features_in_"),
    "a negative width": _fitted("n_features_in_", -3),
    "a width that is true": _fitted("n_features_in_", True),
    "another width": _fitted("n_features_in_", 4),
    "groups beyond the classes": _fitted("groups_", np.array([[5, 0]])),
    "a history that is a text": _fitted("history_", "long ago"),
    "names of too many columns": _fitted("feature_names_in_", np.array(["a"], object)),
    "hidden weights that do not chain": _fitted(
        "coefs_", [np.ones((3, 4), np.float32), np.ones((5, 1), np.float32)]
    ),
    "hidden weights alone": _fitted("coefs_", [np.ones((3, 1), np.float32)]),
    "linear and hidden weights": _hidden([3, 2, 1], [2, 1], linear=True),
    "more biases than layers": _hidden([3, 2, 1], [2, 1, 1]),
    "hidden layers without units": _hidden([3, 0, 1], [0, 1]),
    "a class twice": _fitted("classes_", np.array(["cat", "cat"])),
    "classes in another order": _fitted("classes_", np.array(["dog", "cat"])),
    "a class that is missing": _fitted("classes_", np.array([None, "cat"], object)),
    "a class that is NaN": _fitted("classes_", np.array([1.0, np.nan])),
    "a class that is no time": _fitted("classes_", np.array(["2020", "NaT"], "M8[D]")),
    "classes that are lists": _fitted_raw(
        "classes_", {"objects": [{"list": [1]}, {"list": [2]}], "shape": [2]}
    ),
    "classes of two types": _fitted("classes_", np.array([1, "cat"], object)),
    "attributes that are NaN": _fitted("attribute_values_", np.array([0, np.nan])),
    "negative counts": _fitted("group_counts_", np.full(4, -1)),
    "names that are numbers": _fitted("feature_names_in_", np.array([1, 2, 3], object)),
    "an entry twice": _fitted_raw("history_", {"dict": [["loss", 1], ["loss", 2]]}),
    "a negative shape": _fitted_raw("classes_", {"objects": ["a", "b"], "shape": [-1]}),
    "no shape": _fitted_raw("classes_", {"objects": ["a", "b"], "shape": None}),
    "a scaler's attribute of a head": _fitted("mean_", np.ones(3)),
    "a head's attribute of a scaler": _fitted("coef_", np.ones((1, 3), "f4"), 0),
    "a scaler that is not fitted": _set("steps", 0, "fitted", value={"dict": []}),
    "a scaler without means": _lacks("mean_", 0),
    "a scaler without scales": _lacks("scale_", 0),
    "a scaler whose means are None": _fitted("mean_", None, 0),
    "a scaler whose scales are None": _fitted("scale_", None, 0),
    "a scaler that divides by zero": _fitted("scale_", np.zeros(3), 0),
    "a scaler of negative scale": _fitted("scale_", -np.ones(3), 0),
    "scales that are not asked for": _parameter("with_std", False, 0),
    "a Pipeline or perhaps not": _set("pipeline", value="no"),
    "two steps of a name": _set("steps", 0, "name", value="gerneclassifier"),
    "a name that is a parameter": _set("steps", 0, "name", value="steps"),
    "a name with underscores": _set("steps", 0, "name", value="a__b"),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_forged_files_with_the_right_digest(head_file, change):
    _forge(head_file, change)
    with pytest.raises(ValueError, match=r"head\.safetensors"):
        load(head_file)


def _raw_header(path, text):
    """Replace the JSON of skdebias in a file, and seal it again."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {"skdebias": text, "sha256": "0" * 64}
    raw = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])
    _serialize._seal(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"format": "skdebias-head-2", "format": "skdebias-head-2"}',
        "1",
        "",
        "{",
        '{"format": NaN}',
        '{"format": "skdebias-head-2", "steps": 1' + "0" * 10_000 + "}",
    ],
    ids=["deep lists", "deep objects", "duplicates", "number", "empty", "open", "NaN",
         "a huge number"],
)  # fmt: skip
def test_json_that_is_no_header(head_file, text):
    _raw_header(head_file, text)
    with pytest.raises(ValueError, match=r"head\.safetensors"):
        load(head_file)


def test_a_text_array_cannot_ask_for_more_than_the_file_has(head_file):
    """One long text among many short ones would be widened to all of them."""

    def change(header, arrays):
        objects = ["x" * 1_000_000, *["y"] * 20_000]
        pairs = header["steps"][1]["fitted"]["dict"]
        pairs[:] = [pair for pair in pairs if pair[0] != "classes_"]
        pairs.append(["classes_", {"objects": objects, "shape": [len(objects)]}])

    _forge(head_file, change)
    n_bytes = head_file.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"head\.safetensors"):
            load(head_file)
        assert tracemalloc.get_traced_memory()[1] < 30 * n_bytes
    finally:
        tracemalloc.stop()


def test_a_length_beyond_the_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "head.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    _refused(path)


def test_a_file_of_an_older_version_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "head.safetensors"
    text = json.dumps({"format": "skdebias-head-1", "steps": []})
    save_file({"a": np.ones(2)}, path, {"skdebias": text})
    with pytest.raises(ValueError, match="older version"):
        load(path)


def test_a_head_that_is_not_finite_is_not_written(rows, tmp_path):
    X, y, _ = rows
    head = ERMClassifier(max_iter=1).fit(X, y)
    head.coef_ = np.full_like(head.coef_, np.nan)
    with pytest.raises(ValueError, match=r"coef_.*NaN"):
        save(head, tmp_path / "head")
    assert not list(tmp_path.iterdir())


def test_an_unknown_fitted_attribute_is_not_written(rows, tmp_path):
    X, y, _ = rows
    head = ERMClassifier(max_iter=1).fit(X, y)
    head.remark_ = "mine"
    with pytest.raises(ValueError, match="remark_"):
        save(head, tmp_path / "head")


LABELS = {
    "int": np.array([3, 5]),
    "bool": np.array([False, True]),
    "float": np.array([1.0, 2.0]),
    "text": np.array(["a", "much longer"]),
    "object": np.array(["a", "bc"], dtype=object),
    "umlaut": np.array(["ä", "𝄞"]),
    "float16": np.array([1, 2], np.float16),
    "big-endian": np.array([1, 2], ">i4"),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("hidden", [(), (2,)])
def test_labels_and_attributes_of_every_type_come_back(tmp_path, rows, labels, hidden):
    X, _, attributes = rows
    head = GERNEClassifier(
        1.0, max_iter=1, hidden_layer_sizes=hidden, learning_rate=1e-2
    )
    head.fit(pd.DataFrame(X, columns=list("abc")), labels[np.arange(60) % 2],
             labels[attributes])  # fmt: skip
    save(head, tmp_path / "head")
    again = load(tmp_path / "head")
    frame = pd.DataFrame(X, columns=list("abc"))
    np.testing.assert_array_equal(again.predict(frame), head.predict(frame))
    for name in ("classes_", "attribute_values_", "feature_names_in_"):
        assert getattr(again, name).dtype.kind == getattr(head, name).dtype.kind
        np.testing.assert_array_equal(getattr(again, name), getattr(head, name))


def test_crossed_attributes_come_back(tmp_path, rows):
    X, y, attributes = rows
    pairs = [("sea", bool(a)) for a in attributes]
    head = GERNEClassifier(1.0, max_iter=1).fit(X, y, np.array(pairs, dtype=object))
    save(head, tmp_path / "head")
    values = load(tmp_path / "head").attribute_values_
    np.testing.assert_array_equal(values, head.attribute_values_)


DATES = np.datetime64("2020-01-01") + np.arange(2)
VALIDATED = {
    "crossed": np.array([["sea", "day"], ["land", "night"]]),
    "crossed objects": np.array([["sea", 1], ["land", 2]], dtype=object),
    "frame": pd.DataFrame({"place": ["sea", "land"], "time": [1, 2]}),
    "dates": DATES,
    "nanoseconds": DATES.astype("M8[ns]"),
    "durations": np.array([1, 2], "m8[s]"),
    "bytes": np.array([b"sea", b"land"]),
    "bytes with a zero": np.array([b"sea", b"sea\0"], dtype=object),
    "infinity": np.array([0.0, np.inf]),
}


@pytest.mark.parametrize("values", VALIDATED.values(), ids=VALIDATED.keys())
def test_groups_of_validation_rows_come_back(tmp_path, rows, values):
    X, y, codes = rows
    frame = isinstance(values, pd.DataFrame)
    attributes = values.iloc[codes] if frame else values[codes]
    head = GERNEClassifier(1.0, max_iter=1)
    head.fit(X, y, attributes, X_val=X, y_val=y, attributes_val=attributes)
    save(head, tmp_path / "head")
    again = load(tmp_path / "head")
    np.testing.assert_array_equal(again.attribute_values_, head.attribute_values_)
    for found, group in zip(
        again.history_["validation_groups"], head.history_["validation_groups"]
    ):
        assert found[0] == group[0]
        np.testing.assert_array_equal(found[1], group[1])
        if values is DATES:
            assert isinstance(found[1], np.datetime64)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_scalers_of_every_setting_come_back(tmp_path, rows, with_mean, with_std):
    X, y, _ = rows
    scaler = StandardScaler(with_mean=with_mean, with_std=with_std)
    model = make_pipeline(scaler, ERMClassifier(max_iter=1)).fit(X, y)
    save(model, tmp_path / "head")
    np.testing.assert_array_equal(
        load(tmp_path / "head").predict_proba(X), model.predict_proba(X)
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(values)
def test_values_come_back_as_they_were(value):
    arrays = {}
    text = json.dumps(encode(value, "a", arrays))
    assert repr(decode(strict_json(text), arrays)) == repr(value)


def test_networks_and_heads_tell_tensors_of_torch_from_arrays(tmp_path):
    path = tmp_path / "file"
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.tensor(1)}
    write_file(path, tensors, {"format": "f"})
    again, header = read_file(path, "f", torch=True)
    assert header == {"format": "f"}
    assert again["a"].dtype == torch.bfloat16
    assert torch.equal(again["a"], tensors["a"])


def test_every_fitted_attribute_is_known(rows):
    """Describing an estimator checks its attributes against the table."""
    X, y, attributes = rows
    for row in HEADS.values():
        for hidden in ((), (2,)):
            head = row.make(random_state=0)
            params = {"hidden_layer_sizes": hidden, "max_iter": 2, "n_draws": 2,
                      "n_clusters": 2}  # fmt: skip
            known = {k: v for k, v in params.items() if k in head.get_params()}
            validation = {"X_val": X, "y_val": y, "attributes_val": attributes}
            head.set_params(**known).fit(X, y, attributes, **validation)
            arrays = {}
            described = describe_estimator(head, "0.", arrays)
            again = rebuild_estimator(described, arrays)
            assert set(vars(again)) == {k for k in vars(head) if k[0] != "_"}


@pytest.mark.parametrize("where", ["missing/head", "file/head"])
def test_a_place_that_cannot_be_written_is_named(rows, tmp_path, where):
    X, y, _ = rows
    (tmp_path / "file").write_text("")
    head = ERMClassifier(max_iter=1).fit(X, y)
    with pytest.raises(OSError, match=r"path=.*head.* cannot be written"):
        save(head, tmp_path / where)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(rows, tmp_path, monkeypatch):
    X, y, _ = rows
    head = ERMClassifier(max_iter=1).fit(X, y)
    save(head, tmp_path / "head")
    before = (tmp_path / "head").read_bytes()

    def full(tensors, path, metadata):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    monkeypatch.setattr(_serialize, "_writer", lambda tensors: full)
    with pytest.raises(OSError, match=r"path=.*head.* cannot be written .*space"):
        save(head, tmp_path / "head")
    assert (tmp_path / "head").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def test_loading_and_predicting_need_no_torch(rows, tmp_path):
    X, y, attributes = rows
    for name, row in ONE_OF_EACH.items():
        head = row.make(random_state=0, max_iter=1, n_draws=2)
        save(head.fit(X, y, attributes), tmp_path / name)
    code = (
        "import sys, pathlib, numpy as np\n"
        "from skdebias.export import load\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    head = load(path)\n"
        "    head.predict(np.ones((2, 3))), head.predict_proba(np.ones((2, 3)))\n"
        "    assert 'torch' not in sys.modules, path\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
