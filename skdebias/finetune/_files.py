"""Fitted networks as files without code in them."""

from torch import nn

from skdebias import export
from skdebias.finetune._checkpoint import read_file, write_file
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
        "format": export._NETWORK_FORMAT,
        "code": code,
        "parameters": export._encode(parameters, "params", arrays),
        "estimator": export._describe(inner, "estimator.", arrays),
        "fitted_estimator": export._describe(
            classifier.estimator_, "estimator_.", arrays
        ),
        "fitted": export._encode(fitted, "fitted", arrays),
        "sizes": [layer.in_features for layer in layers] + [layers[-1].out_features],
    }
    import torch

    tensors = {f"array.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    own = classifier.network_.state_dict()
    write_file(path, tensors | {f"network.{k}": v for k, v in own.items()}, header)


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
    tensors, header = read_file(path)
    if header.get("format") != export._NETWORK_FORMAT:
        raise ValueError(
            f"path={str(path)!r} has format {header.get('format')!r}, so "
            "it was not written by FineTuneClassifier.save."
        )
    for name, value in given.items():
        if (name in header["code"]) == (value is None):
            raise ValueError(
                f"{name}={value!r}: the classifier in {str(path)!r} "
                + ("was" if value is None else "was not")
                + f" trained with {name} of your own, which the file does not hold."
            )
    arrays = _under("array.", tensors, lambda value: value.numpy())
    parameters = export._decode(header["parameters"], arrays)
    parameters |= {name: value for name, value in given.items() if value is not None}
    estimator = export._rebuild(header["estimator"], arrays)
    classifier = kind(estimator=estimator, **parameters)
    for name, value in export._decode(header["fitted"], arrays).items():
        setattr(classifier, name, value)
    classifier.estimator_ = export._rebuild(header["fitted_estimator"], arrays)
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


def _is_code(value):
    return isinstance(value, nn.Module) or callable(value)


def _under(prefix, tensors, convert=lambda value: value):
    return {
        name.removeprefix(prefix): convert(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
