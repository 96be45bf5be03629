"""What only whole networks have, and its refusal where heads are trained."""

from numbers import Integral, Real
from typing import Any

from skdebias.methods._head import Auxiliary
from skdebias.methods._method import Method


def refuse_without_network(method: Method) -> None:
    """Refuse a method of whole networks where heads on embeddings are trained.

    Parameters
    ----------
    method : Method

    Raises
    ------
    TypeError
    """
    name, needed = type(method).__name__, method.needs_network
    heads = method.heads
    if needed is None and any(h.first_epoch > 1 or h.clean or h.layer for h in heads):
        needed = "heads with a first_epoch or a layer, or that see clean items"
    if needed is None and (method.layers or method.auxiliaries):
        needed = "layers of a backbone"
    if needed is None and method.joint_embeddings:
        needed = "the embeddings of several networks"
    if needed is not None:
        raise TypeError(
            f"{name} needs {needed}, which heads on embeddings do not have: train a "
            "whole network by skdebias.finetune.FineTuneClassifier("
            f"DebiasedClassifier({name}()), backbone)."
        )


def check_layers(method: Method) -> None:
    """Refuse layers and auxiliary heads that no network can have.

    Parameters
    ----------
    method : Method

    Raises
    ------
    TypeError
        If they are of the wrong kind.
    ValueError
        If a setting has no meaning.
    """
    where = type(method).__name__
    layers, heads = method.layers, method.auxiliaries
    if not _is_tuple_of(layers, str):
        raise TypeError(
            f"{where}.layers is {layers!r}: return a tuple of names of layers, such as "
            "('layer1',), from a property."
        )
    if not _is_tuple_of(heads, Auxiliary):
        raise TypeError(
            f"{where}.auxiliaries is {heads!r}: return a tuple of "
            "skdebias.methods.Auxiliary, such as (Auxiliary('sieve', 'layer1'),), from "
            "a property."
        )
    if method.joint_embeddings and (layers or heads):
        raise ValueError(
            f"{where}.joint_embeddings: networks whose heads read each other's "
            "embeddings have no named layers nor auxiliary heads."
        )
    names = [head.name for head in heads]
    for head in heads:
        label = f"{where}.auxiliaries: {head.name!r}"
        if not (isinstance(head.name, str) and head.name.isidentifier()):
            raise ValueError(
                f"{label}: give a name of letters, digits and underscores."
            )
        if names.count(head.name) > 1:
            raise ValueError(f"{label} is there twice: give each a name of its own.")
        if not isinstance(head.layer, str):
            raise ValueError(f"{label} reads layer={head.layer!r}: give its name.")
        if not all(_is_count(size) for size in head.hidden_layer_sizes):
            raise ValueError(
                f"{label} has hidden_layer_sizes={head.hidden_layer_sizes!r}: give "
                "whole numbers of at least 1."
            )
        n_outputs = head.n_outputs
        known = n_outputs is None or isinstance(n_outputs, str)
        if not (known or _is_count(n_outputs)):
            raise ValueError(
                f"{label} has n_outputs={n_outputs!r}: give a whole number of at least "
                "1, the name of a layer, or None."
            )
        if not (isinstance(head.rate, Real) and 0 < head.rate < float("inf")):
            raise ValueError(f"{label} has rate={head.rate!r}: give a positive number.")


def _is_tuple_of(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and all(isinstance(v, kind) for v in values)


def _is_count(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and bool(value >= 1)
