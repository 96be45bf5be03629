"""Fitted networks as files without code in them."""

from torch import nn

from skdebias._fitted import describe_estimator, rebuild_estimator
from skdebias._serialize import (
    NETWORK_FORMAT,
    decode,
    encode,
    read_file,
    reading,
    write_file,
)
from skdebias.finetune._checkpoint import to_host
from skdebias.finetune._network import Network, backbone_settings

# What a file cannot hold, and load is given instead.
_CODE = ("backbone", "preprocess", "augment")
_FITTED = (
    "classes_", "groups_", "group_counts_", "attribute_values_", "n_iter_",
    "best_epoch_", "loss_curve_", "history_", "n_features_in_", "feature_names_in_",
    "_input_shapes",
)  # fmt: skip


def save_network(classifier, path):
    """Write a fitted classifier.

    Parameters
    ----------
    classifier : FineTuneClassifier
    path : Path
    """
    arrays = {}
    parameters = classifier.get_params(deep=False)
    inner = parameters.pop("estimator")
    code = [name for name in _CODE if _is_code(parameters[name])]
    for name in (*code, "checkpoint_dir"):
        parameters[name] = None
    if not isinstance(parameters["random_state"], int):
        parameters["random_state"] = None
    if parameters["weights"] is not None:
        parameters["weights"] = str(parameters["weights"])
    fitted = {n: getattr(classifier, n) for n in _FITTED if hasattr(classifier, n)}
    layers = classifier.network_.linear_layers
    header = {
        "format": NETWORK_FORMAT,
        "code": code,
        "parameters": encode(parameters, "params", arrays),
        "estimator": describe_estimator(inner, "estimator.", arrays),
        "fitted_estimator": describe_estimator(
            classifier.estimator_, "estimator_.", arrays
        ),
        "fitted": encode(fitted, "fitted", arrays),
        "sizes": [layer.in_features for layer in layers] + [layers[-1].out_features],
    }
    import torch

    tensors = {f"array.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    own = classifier.network_.state_dict()
    tensors |= {f"network.{k}": v for k, v in own.items()}
    write_file(path, to_host(tensors), header)


def load_network(kind, path, given):
    """Read what :func:`save_network` wrote.

    Parameters
    ----------
    kind : type
        FineTuneClassifier.
    path : Path
    given : dict
        What the file cannot hold; None where there is no need.

    Returns
    -------
    FineTuneClassifier
    """
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is not a file.")
    tensors, header = read_file(path, NETWORK_FORMAT, torch=True)
    with reading(path):
        _check_given(header["code"], given)
        classifier = _rebuild(kind, header, tensors, given)
    # The weights come from the file: nothing is to be downloaded or read elsewhere.
    untrained = {**classifier.get_params(deep=False), "pretrained": False}
    if not str(classifier.backbone).startswith("sentence-transformers:"):
        untrained["weights"] = None
    network = Network(classifier.backbone, backbone_settings(untrained))
    *sizes, n_out = header["sizes"]
    network.add_head(sizes[0], sizes[1:], n_out, classifier.dropout, seed=0)
    try:
        network.load_state_dict(_under("network.", tensors))
    except RuntimeError as error:
        raise ValueError(
            f"path={str(path)!r} holds the weights of another architecture than "
            f"backbone={classifier.backbone!r}: {error}"
        ) from error
    classifier.network_ = network.eval()
    return classifier


def _check_given(code, given):
    """Raise unless exactly what the file cannot hold is given."""
    for name, value in given.items():
        if (name in code) == (value is None):
            raise ValueError(
                f"{name}={value!r}: the classifier "
                + ("was" if value is None else "was not")
                + f" trained with {name} of your own, which the file does not hold"
            )


def _rebuild(kind, header, tensors, given):
    """Return the classifier that a header describes, without its network."""
    arrays = _under("array.", tensors, lambda value: value.numpy())
    parameters = decode(header["parameters"], arrays)
    parameters |= {name: value for name, value in given.items() if value is not None}
    estimator = rebuild_estimator(header["estimator"], arrays)
    classifier = kind(estimator=estimator, **parameters)
    for name, value in decode(header["fitted"], arrays).items():
        if name not in _FITTED:
            raise ValueError(f"{name} is no fitted attribute")
        setattr(classifier, name, value)
    classifier.estimator_ = rebuild_estimator(header["fitted_estimator"], arrays)
    return classifier


def _is_code(value):
    return isinstance(value, nn.Module) or callable(value)


def _under(prefix, tensors, convert=lambda value: value):
    return {
        name.removeprefix(prefix): convert(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
