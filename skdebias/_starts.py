"""Where the heads of a fit start: at those of an earlier fit, or anew."""

from itertools import pairwise

import numpy as np

from skdebias._engine._loss import n_logits
from skdebias._head import fitted_layers, layer_parameters


def hidden_layer_sizes(estimator):
    """Return the widths of the hidden layers.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier

    Returns
    -------
    tuple of int
    """
    return tuple(int(size) for size in estimator.hidden_layer_sizes)


def warm_start(estimator, prepared):
    """Return the weights of the previous fit, if asked for and of the right shape.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
    prepared : Prepared

    Returns
    -------
    list of (coefs, intercepts) or None
        One per head; None if the heads start anew.

    Raises
    ------
    ValueError
        If the previous fit was of other heads, or has weights that are not finite.
    """
    if not (estimator.warm_start and hasattr(estimator, "n_iter_")):
        return None
    method = prepared.method
    for head in method.heads:
        if not {f"{head.prefix}coef_", f"{head.prefix}coefs_"} & {*vars(estimator)}:
            raise ValueError(
                f"warm_start=True, but no head {head.name!r}, which "
                f"{type(method).__name__} trains, was fitted before: fit a clone "
                "instead."
            )
    heads = [fitted_layers(estimator, head.prefix) for head in method.heads]
    for layers, sizes in zip(heads, _sizes_of_heads(estimator, prepared)):
        shapes = [coef.shape for coef, _ in layers]
        if tuple(shapes) != tuple(pairwise(sizes)):
            raise ValueError(
                f"warm_start=True, but a fitted head has layers of shape {shapes} and "
                f"the data and hidden_layer_sizes ask for sizes {sizes}: fit a clone "
                "instead."
            )
    weights = (array for layers in heads for layer in layers for array in layer)
    if not all(np.isfinite(array).all() for array in weights):
        raise ValueError(
            "warm_start=True, but weights of the fitted head are not finite: fit a "
            "clone instead."
        )
    return [layer_parameters(layers) for layers in heads]


def _sizes_of_heads(estimator, prepared):
    """Return the widths of the layers of every head, input to output."""
    widths = [estimator.n_features_in_] * prepared.method.n_heads
    if prepared.data.X_student is not None:
        widths[0] = prepared.data.X_student.shape[1]
    further = *hidden_layer_sizes(estimator), n_logits(len(prepared.classes))
    return [(width, *further) for width in widths]


def check_anchors(estimator, prepared):
    """Refuse anchors that are no heads of these data.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
    prepared : Prepared

    Raises
    ------
    ValueError
    """
    sizes_of_heads = _sizes_of_heads(estimator, prepared)
    for head, sizes in zip(prepared.method.heads, sizes_of_heads):
        if head.anchor is None:
            continue
        shapes = [coef.shape[::-1] for coef in head.anchor[0]]
        if shapes != [*pairwise(sizes)]:
            raise ValueError(
                f"{type(prepared.method).__name__}.heads has an anchor with layers of "
                f"shape {shapes}, and the data and hidden_layer_sizes ask for sizes "
                f"{sizes}: give the weights of a head of these data."
            )
