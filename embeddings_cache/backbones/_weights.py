"""Loading local weights: safetensors only, and every tensor must fit."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from embeddings_cache._errors import WeightsError
from embeddings_cache._paths import expanded

_PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".th", ".pkl", ".tar"})


def weights_file(weights: str) -> Path:
    """Return the one safetensors file that `weights` names.

    Raises
    ------
    WeightsError
        If there is none, if there are several, or if the file is a pickled
        checkpoint, which could run code when it is loaded.
    """
    path = expanded(weights)
    if path.is_dir():
        files = sorted(p for p in path.glob("*.safetensors") if p.is_file())
        if len(files) == 1:
            return files[0]
        pickled = [entry.name for entry in path.iterdir() if entry.suffix in _PICKLED]
        note = f" ({pickled[0]} is pickled and is not loaded)" if pickled else ""
        raise WeightsError(
            f"weights={weights!r}: the folder must have one safetensors file and has "
            f"{len(files)}{note}"
        )
    if path.suffix.lower() in _PICKLED:
        raise WeightsError(
            f"weights={weights!r} looks like a pickled checkpoint, which can run code "
            "when loaded. Convert it to safetensors: "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
        )
    if not path.is_file():
        raise WeightsError(f"weights={weights!r}: no such file or folder")
    return path


def read_weights(weights: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a local safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weights_file(weights)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights={weights!r} is not a whole safetensors file ({error}). "
            "Pickled checkpoints are not loaded"
        ) from error


def load_strictly(
    network: nn.Module,
    state: dict[str, torch.Tensor],
    weights: str,
    label: str,
    head: Iterable[str] = (),
) -> None:
    """Load tensors into a network; each must have its place and each place a tensor.

    Parameters
    ----------
    network : torch.nn.Module
        Receives the tensors.
    state : dict of str to torch.Tensor
        The tensors.
    weights, label : str
        For the message.
    head : iterable of str
        Prefixes of classifier tensors, which a network without its classifier may
        leave out.
    """
    heads = tuple(f"{name}." for name in head)
    expected = network.state_dict()
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in expected or not (heads and name.startswith(heads))
    }
    problems = [
        ("missing", sorted(set(expected) - set(state))),
        ("unexpected", sorted(set(state) - set(expected))),
        (
            "of another shape",
            sorted(
                f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
                for name in set(expected) & set(state)
                if expected[name].shape != state[name].shape
            ),
        ),
    ]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
        for what, names in problems
        if names
    ]
    if differences:
        raise WeightsError(
            f"weights={weights!r} are not weights of {label}: tensors "
            f"{'; '.join(differences)}. Give the weights of this architecture, or the "
            "model_kwargs they were trained with"
        )
    # A file has no versions of modules, without which some networks take none.
    versioned = OrderedDict(state)
    versioned._metadata = expected._metadata  # type: ignore[attr-defined]
    network.load_state_dict(versioned, strict=True)
