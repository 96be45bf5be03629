"""Fitted heads as files without code in them, torch modules and ONNX files.

The format of :func:`save` is one safetensors file: arrays as tensors, everything else
as JSON in its header, and a digest of it all. Loading checks the digest, builds only
classes of a fixed list, sets only fitted attributes of known names, types and shapes,
and never runs code from the file. It needs no torch.
"""

from pathlib import Path

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skdebias._atomic import atomic_write
from skdebias._context import standard_context
from skdebias._fitted import describe_estimator, known_class, rebuild_estimator
from skdebias._fitted_checks import check_head
from skdebias._head import fitted_layers
from skdebias._serialize import (
    NETWORK_FORMAT,
    read_file,
    read_format,
    reading,
    write_file,
)

__all__ = ["load", "save", "to_onnx", "to_torch"]

_FORMAT = "skdebias-head-2"


def save(estimator, path):
    """Write a fitted head or network to a safetensors file.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline
        A fitted head, or a Pipeline of StandardScaler steps that ends in one, or a
        :class:`~skdebias.finetune.FineTuneClassifier`.
    path : str or path-like
        File to write. It appears complete or not at all.

    Raises
    ------
    TypeError
        If a step is neither a head of this package nor a StandardScaler, or a
        parameter or fitted attribute has no safe representation.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from skdebias import ERMClassifier
    >>> from skdebias.export import load, save
    >>> clf = ERMClassifier(max_iter=2).fit(np.eye(6), [0, 1] * 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(clf, os.path.join(folder, "head.safetensors"))
    ...     again = load(os.path.join(folder, "head.safetensors"))
    >>> bool((again.coef_ == clf.coef_).all())
    True
    """
    if _exports_itself(estimator):
        estimator.save(path)
        return
    arrays = {}
    steps = []
    for number, (name, step) in enumerate(_steps(estimator)):
        check_is_fitted(step)
        steps.append({"name": name, **describe_estimator(step, f"{number}.", arrays)})
    header = {
        "format": _FORMAT,
        "pipeline": isinstance(estimator, Pipeline),
        "steps": steps,
    }
    write_file(Path(path), arrays, header)


def load(path):
    """Read a head that :func:`save` wrote.

    Parameters
    ----------
    path : str or path-like
        File to read.

    Returns
    -------
    estimator or Pipeline
        As it was saved.

    Raises
    ------
    ValueError
        If the file is damaged or was not written by :func:`save`.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from skdebias import ERMClassifier
    >>> from skdebias.export import load, save
    >>> clf = ERMClassifier(max_iter=2).fit(np.eye(6), ["cat", "dog"] * 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(clf, os.path.join(folder, "head.safetensors"))
    ...     load(os.path.join(folder, "head.safetensors")).classes_
    array(['cat', 'dog'], dtype='<U3')
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is not a file.")
    if read_format(path) == NETWORK_FORMAT:
        from skdebias.finetune import FineTuneClassifier

        return FineTuneClassifier.load(path)
    arrays, header = read_file(path, _FORMAT)
    with reading(path):
        return _rebuild(header, arrays)


def _rebuild(header, arrays):
    """Return the head or Pipeline that a header describes; ValueError if it cannot."""
    steps = [
        (step["name"], rebuild_estimator(step, arrays)) for step in header["steps"]
    ]
    _check_names([name for name, _ in steps])
    if not isinstance(header["pipeline"], bool):
        raise ValueError("it does not say whether it is a Pipeline")
    check_head(vars(steps[-1][1]))
    model = Pipeline(steps) if header["pipeline"] else steps[-1][1]
    if len(_steps(model)) != len(steps):
        raise ValueError("it holds more than one head")
    for name, step in steps:
        check_is_fitted(step)
        if step.n_features_in_ != steps[0][1].n_features_in_:
            raise ValueError(f"step {name!r} has another number of features")
    return model


def _check_names(names):
    """Raise unless a Pipeline accepts the names of its steps."""
    reserved = set(Pipeline([]).get_params(deep=False))
    for name in names:
        if not isinstance(name, str) or "__" in name or name in reserved:
            raise ValueError(f"a step is named {name!r:.40}, which no Pipeline allows")
    if len(set(names)) < len(names):
        raise ValueError("two steps have the same name")


@standard_context()
def to_torch(estimator):
    """Return a fitted head or network as a torch module.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline
        A fitted head, or a Pipeline of StandardScaler steps that ends in one; the
        scaling is folded into the first layer. Or a
        :class:`~skdebias.finetune.FineTuneClassifier`.

    Returns
    -------
    torch.nn.Module
        Maps float32 (n, n_features), or what a network's items are prepared as, to
        logits (n, n_classes) whose softmax is `predict_proba`. With two classes the
        first logit is 0.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skdebias import ERMClassifier
    >>> from skdebias.export import to_torch
    >>> clf = ERMClassifier(max_iter=2).fit(np.eye(6), [0, 1] * 3)
    >>> to_torch(clf)(torch.eye(6)).shape
    torch.Size([6, 2])
    """
    import torch

    if _exports_itself(estimator):
        return estimator.to_torch()
    steps = _steps(estimator)
    head = steps[-1][1]
    check_is_fitted(head)
    layers = [
        (coef.astype(float), bias.astype(float)) for coef, bias in fitted_layers(head)
    ]
    for _, scaler in reversed(steps[:-1]):
        check_is_fitted(scaler)
        layers[0] = _fold(scaler, *layers[0])
    if len(head.classes_) == 2:
        coef, bias = layers[-1]
        layers[-1] = np.hstack([0 * coef, coef]), np.concatenate([0 * bias, bias])
    modules = []
    for coef, bias in layers:
        # Without random numbers, which would come from the caller's generator.
        linear = torch.nn.utils.skip_init(torch.nn.Linear, *coef.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(coef.T))
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1]).eval()


@standard_context(products=False)
def to_onnx(estimator, path):
    """Write a fitted head or network to an ONNX file.

    That of a head has one input, ``embeddings``: float32 (n_samples, n_features), with
    any number of rows. That of a network has the input ``images`` or ``items`` of one
    size, or those of its tokenizer. The outputs are ``logits`` and ``probabilities``,
    both float32 (n_samples, n_classes), the latter as `predict_proba` returns them. The
    labels are in the metadata: ``classes`` is `classes_` as a JSON list.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline
        A fitted head, or a Pipeline of StandardScaler steps that ends in one; the
        scaling is folded into the first layer. Or a
        :class:`~skdebias.finetune.FineTuneClassifier`.
    path : str or path-like
        File to write. It appears complete or not at all.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed: ``pip install "skdebias[onnx]"``.
    TypeError
        If a step is neither a head of this package nor a StandardScaler, or a class
        is not a string, a number or a boolean.

    See Also
    --------
    to_torch : The same as a torch module.
    save : A file that :func:`load` turns into the estimator again.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import ERMClassifier
    >>> from skdebias.export import to_onnx
    >>> clf = ERMClassifier(max_iter=2).fit(np.eye(6), ["cat", "dog"] * 3)
    >>> to_onnx(clf, "head.onnx")  # doctest: +SKIP

    Anywhere else, with no more than onnxruntime installed:

    >>> import json, onnxruntime  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession("head.onnx")  # doctest: +SKIP
    >>> X = np.eye(6, dtype=np.float32)
    >>> session.run(["probabilities"], {"embeddings": X})[0].shape  # doctest: +SKIP
    (6, 2)
    >>> properties = session.get_modelmeta().custom_metadata_map  # doctest: +SKIP
    >>> json.loads(properties["classes"])  # doctest: +SKIP
    ['cat', 'dog']
    """
    import torch

    from skdebias._onnx import onnx_bytes

    module = to_torch(estimator)
    if _exports_itself(estimator):
        inputs, n_free_axes = module.example_inputs()
    else:
        inputs = {"embeddings": torch.zeros(2, module[0].in_features)}
        n_free_axes = 1
    content = onnx_bytes(module, inputs, estimator.classes_, n_free_axes)
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(content)


def _exports_itself(estimator):
    """Return whether an estimator writes its own file and makes its own module."""
    return hasattr(estimator, "save") and hasattr(estimator, "to_torch")


def _fold(scaler, coef, bias):
    """Return weights that act on unscaled rows as `coef, bias` do on scaled ones."""
    scale = 1.0 if scaler.scale_ is None else scaler.scale_
    mean = 0.0 if not scaler.with_mean else scaler.mean_
    coef = coef / np.reshape(scale, (-1, 1))
    return coef, bias - np.broadcast_to(mean, len(coef)) @ coef


def _steps(estimator):
    """Return the named steps of an estimator or Pipeline, all of known classes."""
    if isinstance(estimator, Pipeline):
        steps = [s for s in estimator.steps if s[1] not in (None, "passthrough")]
    else:
        steps = [("head", estimator)]
    for name, step in steps:
        is_head = step is steps[-1][1]
        if not _is_known(step) or is_head == isinstance(step, StandardScaler):
            raise TypeError(
                f"Step {name!r} is a {type(step).__name__}: only a fitted head of "
                "skdebias, alone or after StandardScaler steps in a Pipeline, can be "
                "exported."
            )
    return steps


def _is_known(step):
    """Return whether a file may name the class of a step."""
    try:
        return known_class(type(step).__name__) is type(step)
    except ValueError:
        return False
