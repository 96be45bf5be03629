"""ONNX files: onnxruntime agrees with predict_proba, for heads and for networks."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skdebias import ERMClassifier, GERNEClassifier
from skdebias._onnx import onnx_bytes
from skdebias.export import to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def _data(n_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, 300)
    X = 3 + 5 * rng.normal(size=(300, 7)) + np.eye(7)[y] * 4
    return X.astype(np.float32), y, rng.integers(0, 2, 300)


def _session(file):
    content = file.read_bytes() if isinstance(file, Path) else file
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("hidden", "labels", "scale"),
    [((), ["ant", "bee"], True), ((5, 4), [3, 1, 7, 5], False)],
)
def test_onnxruntime_agrees_with_predict_proba(tmp_path, hidden, labels, scale):
    X, y, attributes = _data(len(labels))
    y = np.array(labels)[y]
    head = GERNEClassifier(
        hidden_layer_sizes=hidden, learning_rate=0.05, max_iter=3, random_state=0
    )
    if scale:
        model = make_pipeline(StandardScaler(), head)
        model.fit(X, y, gerneclassifier__attributes=attributes)
    else:
        model = head.fit(X, y, attributes)
    to_onnx(model, tmp_path / "head.onnx")

    onnx.checker.check_model(tmp_path / "head.onnx", full_check=True)
    session = _session(tmp_path / "head.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["embeddings"]
    assert [entry.shape for entry in session.get_inputs()] == [["n_samples", 7]]
    names = [entry.name for entry in session.get_outputs()]
    assert names == ["logits", "probabilities"]
    for rows in (X, X[:1], X[:0]):
        logits, found = session.run(names, {"embeddings": rows})
        assert found.shape == logits.shape == (len(rows), len(labels))
        if len(rows):
            np.testing.assert_allclose(found, model.predict_proba(rows), atol=2e-5)
    found = session.run(["logits"], {"embeddings": X})[0]
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert classes == sorted(labels)
    np.testing.assert_array_equal(np.array(classes)[found.argmax(1)], model.predict(X))
    assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]


class _TwoInputs(nn.Module):
    """A network as for texts: tokens and their mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens, mask):
        weights = mask / mask.sum(1, keepdim=True)
        return self.head((self.embed(tokens) * weights[..., None]).sum(1))


def test_network_with_batch_norm_and_dropout():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 2),
    )
    network(torch.randn(32, 3, 8, 8))  # statistics other than those of the start
    network.eval()
    example = {"pixels": torch.zeros(2, 3, 8, 8)}
    content = onnx_bytes(network, example, np.array([False, True]))

    images = torch.randn(5, 3, 8, 8)
    session = _session(content)
    logits = session.run(["logits"], {"pixels": images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(images), atol=1e-5)
    classes = session.get_modelmeta().custom_metadata_map["classes"]
    assert json.loads(classes) == [False, True]
    # Nothing of this machine goes along.
    for path in (Path(__file__).parents[2], Path(torch.__file__).parents[1]):
        assert str(path).encode() not in content


def test_network_with_two_inputs():
    torch.manual_seed(0)
    network = _TwoInputs().eval()
    tokens, mask = torch.randint(0, 11, (4, 9)), torch.ones(4, 9)
    mask[1:, 5:] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    content = onnx_bytes(network, inputs, np.arange(3))
    longer = {name: np.repeat(value.numpy(), 3, 0) for name, value in inputs.items()}
    logits = _session(content).run(["logits"], longer)[0]
    with torch.no_grad():
        expected = network(tokens, mask).repeat_interleave(3, 0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_cannot_be_exported_leaves_no_file(tmp_path, monkeypatch):
    X, y, _ = _data(2)
    path = tmp_path / "head.onnx"
    with pytest.raises(TypeError, match="LogisticRegression"):
        to_onnx(LogisticRegression().fit(X, y), path)
    clf = ERMClassifier(max_iter=1).fit(X, y)
    clf.classes_ = np.array([1j, 2j])
    with pytest.raises(TypeError, match=r"classes_=.*strings, numbers or booleans"):
        to_onnx(clf, path)
    monkeypatch.setattr("skdebias._onnx._MAX_WEIGHT_BYTES", 10)
    with pytest.raises(ValueError, match=r"less than 2 GiB.*half"):
        to_onnx(clf, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_missing_extra(tmp_path, monkeypatch, missing):
    X, y, _ = _data(2)
    clf = ERMClassifier(max_iter=1).fit(X, y)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing}, .*skdebias\[onnx\]"):
        to_onnx(clf, tmp_path / "head.onnx")
