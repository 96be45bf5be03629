"""Record digests of results, to hold a change of the code against them bit by bit.

Fits, searches, whole networks, files of heads, keys and rows of the cache: all through
the public interface, on small generated data. Digests are comparable on one machine,
with the same versions of the libraries::

    python tools/record_results.py before.json
    python tools/record_results.py --compare before.json

The comparison prints the name of every result that differs or is missing, and its exit
code says whether there is any. New results and new fitted attributes are no difference.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
    UGCClassifier,
    ULEClassifier,
    export,
)
from skdebias.attributes import (
    ConfidencePseudoAttributes,
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
)
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import (
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
    BatchedRandomizedSearchCV,
)

Results = Iterator[tuple[str, Any]]


def digest(value: Any) -> str:
    """Return a digest of a value: of arrays by their bytes, of the rest by its text."""
    state = hashlib.sha256()
    _update(state, value)
    return state.hexdigest()[:16]


def _update(state: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ma.MaskedArray):
        value = value.filled()
    if isinstance(value, np.ndarray) and value.dtype != object:
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            state.update(str(name).encode())
            _update(state, value[name])
    elif isinstance(value, list | tuple | np.ndarray):
        state.update(f"{len(value)}".encode())
        for part in value:
            _update(state, part)
    elif isinstance(value, bytes):
        state.update(value)
    elif hasattr(value, "coef_"):
        _update(state, value.coef_)
    else:
        text = repr(value)
        state.update(re.sub(r" at 0x[0-9a-f]+", "", text).encode())


def data(n_classes: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return X, y and attributes."""
    X, y, attributes = make_spurious_classification(
        420, n_classes=n_classes, n_features=24, random_state=seed
    )
    return X.astype(np.float32), y, attributes


ESTIMATORS: dict[str, tuple[Any, list[str]]] = {
    "ERM": (ERMClassifier(), ["sgd", "adamw", "lbfgs"]),
    "ERM class": (ERMClassifier("class"), ["sgd", "lbfgs"]),
    "ERM group": (ERMClassifier("group"), ["sgd", "lbfgs"]),
    "ERM reweight": (ERMClassifier(reweight="group"), ["sgd", "lbfgs"]),
    "GERNE": (GERNEClassifier(beta=0.8), ["sgd", "adamw", "lbfgs"]),
    "GERNE unknown": (GERNEClassifier(beta=0.5), ["sgd", "lbfgs"]),
    "GERNE clusters": (
        GERNEClassifier(
            pseudo_attributes=GradientClusterPseudoAttributes(random_state=0)
        ),
        ["sgd", "lbfgs"],
    ),
    "UGC": (UGCClassifier(), ["sgd"]),
    "UGC paper": (
        UGCClassifier(2, warmup="epochs", per_class=False, pool=False),
        ["sgd"],
    ),
    "UGC frequency": (UGCClassifier(robust="inverse_frequency"), ["sgd", "lbfgs"]),
    "UGC magnitude": (UGCClassifier(robust="feature_magnitude"), ["sgd"]),
    "ULE": (ULEClassifier(), ["sgd", "adamw"]),
    "ULE paper": (
        ULEClassifier(
            saliency="logit",
            normalize="max",
            normalize_over="sample",
            student_loss="ce",
            student_epochs=2,
        ),
        ["sgd"],
    ),
    "GroupDRO": (GroupDROClassifier(adjustment=0.5), ["sgd", "lbfgs"]),
    "DFR": (DFRClassifier(), [""]),
    "JTT": (JTTClassifier(), ["sgd", "lbfgs"]),
    "AFR": (AFRClassifier(), ["sgd", "lbfgs"]),
    "LfF": (LfFClassifier(), ["sgd"]),
}
USES_ATTRIBUTES = {"ERM group", "ERM reweight", "GERNE", "GroupDRO", "DFR"}


def fitted(estimator: Any) -> dict[str, Any]:
    """Return public fitted attributes."""
    names = [n for n in dir(type(estimator)) if n.endswith("_") and n[0] != "_"]
    names += [n for n in vars(estimator) if n.endswith("_") and n[0] != "_"]
    result = {}
    for name in set(names):
        try:
            result[name] = getattr(estimator, name)
        except AttributeError:
            continue
    return result


def _named(prefix: str, estimator: Any, X: np.ndarray) -> Results:
    for name, value in sorted(fitted(estimator).items()):
        yield f"{prefix}/{name}", value
    yield f"{prefix}/predict_proba", estimator.predict_proba(X)


def _parameters(estimator: Any, solver: str, hidden: tuple[int, ...]) -> dict[str, Any]:
    names = estimator.get_params()
    wanted = {"random_state": 3, "max_iter": 6, "device": "cpu"}
    if solver:
        wanted |= {"solver": solver}
    if solver == "lbfgs":
        wanted |= {"max_iter": 40}
    if hidden:
        wanted |= {"hidden_layer_sizes": hidden}
    return {name: value for name, value in wanted.items() if name in names}


def heads() -> Results:
    """Single fits: estimators, solvers, layers, validation rows, 2 and 3 classes."""
    for name, (estimator, solvers) in ESTIMATORS.items():
        for solver in solvers:
            for hidden in [(), (8,)]:
                if hidden and (solver in ("", "lbfgs")):
                    continue
                for n_classes in (2, 3):
                    X, y, a = data(n_classes)
                    X_val, y_val, a_val = data(n_classes, seed=1)
                    groups = {"attributes": a} if name in USES_ATTRIBUTES else {}
                    for validation in (False, True):
                        more = {}
                        if validation:
                            more = {"X_val": X_val, "y_val": y_val}
                            if groups:
                                more |= {"attributes_val": a_val}
                        model = clone(estimator)
                        model.set_params(**_parameters(model, solver, hidden))
                        model.fit(X, y, **groups, **more)
                        label = "with validation" if validation else "alone"
                        key = f"head/{name}/{solver}/{hidden}/{n_classes}/{label}"
                        yield from _named(key, model, X)


def warm_starts() -> Results:
    """Fits that go on, columns of attributes, half precision, refits."""
    X, y, a = data(3)
    two = np.column_stack([a, (X[:, 0] > 0).astype(int)])
    for name in ("ERM group", "GERNE", "GroupDRO"):
        model = clone(ESTIMATORS[name][0])
        model.set_params(random_state=1, max_iter=3, warm_start=True)
        model.fit(X, y, attributes=a).fit(X, y, attributes=a)
        yield from _named(f"warm/{name}", model, X)
        model = clone(ESTIMATORS[name][0]).set_params(random_state=1, max_iter=3)
        model.fit(X.astype(np.float16), y, attributes=two)
        yield from _named(f"two columns/{name}", model, X)
        model.fit(X, y, attributes=a)
        yield from _named(f"refit/{name}", model, X)


GRIDS: dict[str, dict[str, list[Any]]] = {
    "ERM": {"weight_decay": [0.01, 0.1], "learning_rate": [0.01, 0.1]},
    "ERM group": {"weight_decay": [0.01, 0.1]},
    "GERNE": {"beta": [0.0, 0.8], "c": [0.25, 0.5]},
    "GERNE unknown": {"beta": [0.0, 0.5], "t": [0.1, 0.3]},
    "GERNE clusters": {"beta": [0.0, 0.5]},
    "UGC": {"n_clusters": [2, 3], "weight_decay": [0.01, 0.1]},
    "ULE": {"lam": [0.2, 0.5]},
    "GroupDRO": {"step_size": [0.01, 0.1]},
    "JTT": {"upweight": [2, 20]},
    "AFR": {"gamma": [1.0, 4.0]},
    "LfF": {"weight_decay": [0.01, 0.1]},
}
_TIMES = re.compile("time")


def _search_results(key: str, search: Any, X: np.ndarray) -> Results:
    for name, value in search.cv_results_.items():
        if not _TIMES.search(name):
            yield f"{key}/{name}", value
    yield f"{key}/best_params_", search.best_params_
    yield f"{key}/predict_proba", search.predict_proba(X)


def searches() -> Results:
    """Grids, random draws and halving, also within a pipeline, also by lbfgs."""
    for name, grid in GRIDS.items():
        estimator, solvers = ESTIMATORS[name]
        for n_classes, solver in [(2, "sgd"), (3, "sgd"), (3, "lbfgs")]:
            if solver not in solvers:
                continue
            X, y, a = data(n_classes)
            groups = {"attributes": a} if name in USES_ATTRIBUTES else {}
            model = clone(estimator)
            model.set_params(**_parameters(model, solver, ()))
            search = BatchedGridSearchCV(model, grid, cv=2).fit(X, y, **groups)
            yield from _search_results(f"grid/{name}/{solver}/{n_classes}", search, X)
        X, y, a = data(2)
        groups = {"attributes": a} if name in USES_ATTRIBUTES else {}
        model = clone(estimator).set_params(random_state=3, max_iter=8)
        halving = BatchedHalvingGridSearchCV(model, grid, cv=2).fit(X, y, **groups)
        yield from _search_results(f"halving/{name}", halving, X)
        model = clone(estimator).set_params(random_state=3, max_iter=4)
        drawn = BatchedRandomizedSearchCV(
            model, grid, n_iter=2, cv=2, random_state=0
        ).fit(X, y, **groups)
        yield from _search_results(f"random/{name}", drawn, X)
    X, y, a = data(3)
    pipeline = make_pipeline(
        StandardScaler(), GERNEClassifier(random_state=0, max_iter=4)
    )
    grid = {
        "gerneclassifier__beta": [0.0, 0.8],
        "standardscaler__with_std": [True, False],
    }
    search = BatchedGridSearchCV(pipeline, grid, cv=2, return_train_score=True)
    yield from _search_results("grid/pipeline", search.fit(X, y, attributes=a), X)


def pseudo_attributes() -> Results:
    """What is inferred, for training rows and for others."""
    for n_classes in (2, 3):
        X, y, _ = data(n_classes)
        X_new, y_new, _ = data(n_classes, seed=1)
        for estimator in (
            ConfidencePseudoAttributes(),
            ErrorSetPseudoAttributes(),
            GradientClusterPseudoAttributes(),
        ):
            names = estimator.get_params()
            estimator.set_params(**{n: 0 for n in names if n.endswith("random_state")})
            key = f"attributes/{type(estimator).__name__}/{n_classes}"
            yield key, estimator.fit_predict(X, y)
            yield f"{key}/predict", estimator.predict(X_new, y_new)


def content(path: Path) -> tuple[str, bytes]:
    """Return the header of a safetensors file, sorted, and its data.

    Its library writes the metadata in an order of chance, which its digest is of.
    """
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"].pop("sha256")
    header["__metadata__"] = {
        k: json.loads(v) for k, v in header["__metadata__"].items()
    }
    return json.dumps(header, sort_keys=True), raw[end:]


def files() -> Results:
    """Bytes of saved heads, and what comes back."""
    X, y, a = data(3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.safetensors"
        for name in ("ERM", "GERNE", "ULE", "LfF", "DFR", "UGC"):
            model = clone(ESTIMATORS[name][0])
            model.set_params(**_parameters(model, "", (8,)))
            groups = {"attributes": a} if name in USES_ATTRIBUTES else {}
            export.save(model.fit(X, y, **groups), path)
            yield f"file/{name}", content(path)
            yield f"file/{name}/loaded", export.load(path).predict_proba(X)
        pipeline = make_pipeline(StandardScaler(), ERMClassifier(random_state=0))
        export.save(pipeline.fit(X, y), path)
        yield "file/pipeline", content(path)


NETWORKS = ["ERM", "GERNE", "GERNE unknown", "UGC", "ULE", "GroupDRO", "JTT", "LfF"]


class SmallNetwork(torch.nn.Module):
    """Convolutions with batch normalisation, for rows of 24 numbers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = torch.nn.Conv1d(1, 4, 5, stride=2)
        self.norm = torch.nn.BatchNorm1d(4)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one vector for each row."""
        return torch.relu(self.norm(self.conv(x.unsqueeze(1)))).flatten(1)


def networks() -> Results:
    """Whole networks: weights, predictions, names of runs, files."""
    from skdebias.finetune import FineTuneClassifier

    X, y, a = data(3)
    X_val, y_val, a_val = data(3, seed=1)
    for name in (
        "ERM",
        "GERNE",
        "GERNE unknown",
        "UGC",
        "ULE",
        "GroupDRO",
        "JTT",
        "LfF",
    ):
        groups = {"attributes": a} if name in USES_ATTRIBUTES else {}
        more = {"attributes_val": a_val} if groups else {}
        with tempfile.TemporaryDirectory() as folder:
            model = FineTuneClassifier(
                clone(ESTIMATORS[name][0]),
                SmallNetwork(),
                modality="tensor",
                max_iter=2,
                random_state=0,
                device="cpu",
                checkpoint_dir=folder,
            )
            model.fit(X, y, **groups, X_val=X_val, y_val=y_val, **more)
            yield f"network/{name}/proba", model.predict_proba(X)
            state = model.network_.state_dict()
            yield f"network/{name}/state", state
            yield f"network/{name}/loss", model.loss_curve_
            yield f"network/{name}/history", model.history_
            runs = sorted(path.name for path in Path(folder).iterdir())
            yield f"network/{name}/runs", runs
            for run in runs:
                yield f"network/{name}/run {runs.index(run)}", run
            path = Path(folder) / "network.safetensors"
            model.save(path)
            yield f"network/{name}/file", content(path)


def embeddings() -> Results:
    """Names of extractors, which are their keys, names of rows, and the rows."""
    from embeddings_cache import EmbeddingExtractor, EmbeddingStore

    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), np.uint8)
    texts = ["a text", "another text of more words", "one more"]
    backbones: list[tuple[str, dict[str, Any], Any]] = [
        ("timm:test_vit.r160_in1k", {}, images),
        ("timm:test_resnet.r160_in1k", {"layer": "layer2"}, images),
        ("torchvision:resnet18", {"precision": "bfloat16"}, images),
        ("open_clip:ViT-S-32-alt", {}, images),
        ("open_clip:ViT-S-32-alt", {}, texts),
        ("sentence-transformers:sentence-transformers/all-MiniLM-L6-v2", {}, texts),
    ]
    for number, (name, settings, items) in enumerate(backbones):
        with tempfile.TemporaryDirectory() as folder:
            extractor = EmbeddingExtractor(
                name,
                cache_dir=folder,
                pretrained=False,
                progress=False,
                num_workers=0,
                **settings,
            )
            key = f"cache/{number} {name}"
            try:
                rows = extractor.transform(items)
            except (ImportError, OSError, ValueError) as error:
                yield f"{key}/refusal", type(error).__name__
                continue
            yield f"{key}/rows", rows
            yield f"{key}/extractors", len(EmbeddingStore(folder).extractors())
            (described,) = Path(folder).glob("v*/*/extractor.json")
            yield f"{key}/key", described.parent.name
            yield f"{key}/description", described.read_bytes()
            (keys,) = described.parent.rglob("*.keys")
            yield f"{key}/items", keys.read_bytes()


PARTS: dict[str, Callable[[], Results]] = {
    "heads": heads,
    "warm starts": warm_starts,
    "searches": searches,
    "pseudo-attributes": pseudo_attributes,
    "files": files,
    "networks": networks,
    "embeddings": embeddings,
}


def record(only: str) -> dict[str, str]:
    """Return the digests of the parts whose name matches."""
    results = {}
    for name, part in PARTS.items():
        if re.search(only, name):
            results |= {key: digest(value) for key, value in part()}
            print(f"{name}: {len(results)} results so far", file=sys.stderr)
    return results


def main() -> int:
    """Record, or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="file of digests, in JSON")
    parser.add_argument("--compare", action="store_true", help="with what it holds")
    parser.add_argument("--only", default="", help="parts whose name matches")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = record(options.only)
    if not options.compare:
        options.path.write_text(json.dumps(results, indent=1, sort_keys=True))
        return 0
    before = json.loads(options.path.read_text())
    if options.only:
        tops = {key.partition("/")[0] for key in results}
        before = {k: v for k, v in before.items() if k.partition("/")[0] in tops}
    different = [key for key, value in before.items() if results.get(key) != value]
    for key in different:
        print(f"{'differs' if key in results else 'missing'}: {key}")
    print(f"{len(before) - len(different)} of {len(before)} are the same")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
