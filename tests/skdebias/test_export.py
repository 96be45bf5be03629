"""Saved heads come back equal; torch modules agree with predict_proba."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.export import load, save, to_torch


def _data(n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, 300)
    attributes = rng.choice(["sea", "land"], 300)
    X = 3 + 5 * rng.normal(size=(300, 7)) + np.eye(7)[y] * 4
    return X, np.array(["ant", "bee", "cat", "dog"])[y], attributes


@pytest.mark.parametrize("hidden", [(), (5, 4)])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scale", [False, True])
def test_save_load_and_to_torch(tmp_path, hidden, n_classes, scale):
    X, y, attributes = _data(n_classes)
    head = GERNEClassifier(hidden_layer_sizes=hidden, max_iter=3, random_state=0)
    head.set_params(learning_rate=0.05)
    if scale:
        model = make_pipeline(StandardScaler(), head)
        model.fit(X, y, gerneclassifier__attributes=attributes)
    else:
        model = head.fit(X, y, attributes)
    save(model, tmp_path / "head.safetensors")
    again = load(tmp_path / "head.safetensors")

    assert type(again) is type(model)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    loaded = again[-1] if scale else again
    assert loaded.get_params() == head.get_params()
    fitted = {k for k in vars(head) if k.endswith("_") and not k.startswith("_")}
    assert fitted <= set(vars(loaded))
    np.testing.assert_array_equal(loaded.attribute_values_, ["land", "sea"])
    assert loaded.beta_bounds_ == head.beta_bounds_

    with torch.no_grad():
        logits = to_torch(model)(torch.from_numpy(X).float())
    probabilities = torch.softmax(logits, -1).numpy()
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=2e-5)


def test_validation_history_survives(tmp_path):
    X, y, attributes = _data()
    clf = ERMClassifier(max_iter=2)
    clf.fit(X, y, X_val=X, y_val=y, attributes_val=attributes)
    save(clf, tmp_path / "h")
    history = load(tmp_path / "h").history_
    assert history["validation_groups"] == clf.history_["validation_groups"]
    np.testing.assert_array_equal(
        history["validation_group_accuracy"],
        clf.history_["validation_group_accuracy"],
    )


def test_scaling_without_mean_or_std_folds_too():
    X, y, _ = _data()
    for options in ({"with_mean": False}, {"with_std": False}):
        model = make_pipeline(StandardScaler(**options), ERMClassifier(max_iter=3))
        model.fit(X, y)
        with torch.no_grad():
            logits = to_torch(model)(torch.from_numpy(X).float())
        np.testing.assert_allclose(
            torch.softmax(logits, -1), model.predict_proba(X), atol=2e-5
        )


def test_bad_files_and_steps(tmp_path):
    X, y, _ = _data()
    clf = ERMClassifier(max_iter=1).fit(X, y)
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        load(tmp_path / "nothing-here")
    (tmp_path / "junk").write_bytes(b"\x80\x04junk")
    with pytest.raises(ValueError, match=r"junk.* is not a file that skdebias wrote"):
        load(tmp_path / "junk")
    save(clf, tmp_path / "head")
    whole = (tmp_path / "head").read_bytes()
    (tmp_path / "head").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "head")
    with pytest.raises(TypeError, match="LogisticRegression"):
        save(LogisticRegression().fit(X, y), tmp_path / "other")
    with pytest.raises(TypeError, match=r"'tuple'|learning_rate|params"):
        save(clf.set_params(learning_rate=object()), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "junk"]
