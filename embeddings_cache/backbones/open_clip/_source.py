"""What a name of open_clip stands for: architecture, and the settings of its tag.

open_clip keeps how images are prepared, and which activation a network was trained
with, beside each pretrained tag. Whoever loads the tag's weights from a file needs
both as much as whoever downloads them.
"""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embeddings_cache._errors import UnknownBackboneError
from embeddings_cache._paths import expanded, refuse_special_below
from embeddings_cache.backbones._base import BackboneSpec
from embeddings_cache.backbones._building import refuse_kwargs, unknown_name

LOCAL, HUB = "local-dir:", "hf-hub:"
# The constructor's argument -> the field of a tag and of the preprocessing -> where
# `preprocess` of the extractor states it.
_IMAGE_SETTINGS = {
    "image_mean": ("mean", "mean"),
    "image_std": ("std", "std"),
    "image_interpolation": ("interpolation", "interpolation"),
    "image_resize_mode": ("resize_mode", "crop"),
}
_ACTIVATION = ("force_quick_gelu", "quick_gelu")
_NOT_HERE = {
    "pretrained": "name the tag, as in 'open_clip:ViT-B-32/openai', or give weights=",
    "load_weights": "pretrained=False leaves the weights out",
    "precision": "give precision= to the extractor",
    "device": "give device= to the extractor",
    "jit": "give compile=True to the extractor",
    "aug_cfg": "an embedding is not augmented",
    "output_dict": "an embedding is one vector",
}


@dataclass(frozen=True)
class Source:
    """A checked name, and what its pretrained tag says of the network.

    Attributes
    ----------
    name : str
        Architecture, or ``"local-dir:<folder>"``, or ``"hf-hub:<repository>"``.
    tag : str
        Pretrained tag; empty without one.
    kwargs : dict
        Arguments of `open_clip.create_model_and_transforms`: the tag's settings under
        those of the request.
    quick_gelu : bool
        Whether the tag, and not the architecture, asks for QuickGELU.
    """

    name: str
    tag: str
    kwargs: dict[str, Any]
    quick_gelu: bool

    @property
    def has_own_config(self) -> bool:
        """Whether the configuration is beside the weights, not in the library."""
        return self.name.startswith((LOCAL, HUB))


def resolve(spec: BackboneSpec, open_clip: Any) -> Source:
    """Check the name of a request, and look its tag up.

    Raises
    ------
    UnknownBackboneError
        For architectures and tags that the library does not have, and for published
        or local weights that no tag, or none of several, describes.
    """
    refuse_kwargs(spec, _NOT_HERE)
    if spec.name.startswith((LOCAL, HUB)):
        kind, _, place = spec.name.partition(":")
        if kind == "local-dir":
            place = str(expanded(place))
            refuse_special_below(Path(place), "backbone")
        return Source(f"{kind}:{place}", "", dict(spec.model_kwargs), False)
    architecture, _, tag = spec.name.partition("/")
    names = open_clip.list_models()
    if architecture not in names:
        raise unknown_name(replace(spec, name=architecture), names)
    _check_tag(spec, open_clip, architecture, tag)
    default = _settings(open_clip, architecture)
    wanted = _settings(open_clip, architecture, tag) if tag else default
    asked = any(name in spec.model_kwargs for name in _ACTIVATION)
    quick_gelu = wanted["force_quick_gelu"] and not default["force_quick_gelu"]
    kwargs: dict[str, Any] = {}
    if tag:
        kwargs = {name: wanted[name] for name in _IMAGE_SETTINGS}
    if quick_gelu and not asked:
        kwargs["force_quick_gelu"] = True
    if spec.weights is not None and not tag:
        _check_stated(spec, open_clip, architecture, default)
    return Source(
        architecture, tag, {**kwargs, **spec.model_kwargs}, quick_gelu and not asked
    )


def _check_tag(spec: BackboneSpec, open_clip: Any, architecture: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    needed = spec.pretrained and spec.weights is None
    if tag in tags or not (tag or needed):
        return
    near = difflib.get_close_matches(tag.lower(), tags, n=3, cutoff=0.5)
    hint = [f"'open_clip:{architecture}/{name}'" for name in near or tags[:1]]
    raise UnknownBackboneError(
        f"backbone='{spec.label}': "
        + (
            f"{tag!r} is not a pretrained tag of {architecture}. "
            if tag
            else "name the pretrained weights. "
        )
        + (f"Near names: {', '.join(hint)}. " if hint else "")
        + f"Tags of {architecture}: {', '.join(tags) or 'none'}"
    )


def _settings(open_clip: Any, architecture: str, tag: str = "") -> dict[str, Any]:
    """Return what a tag, or the library without one, sets of a network."""
    default = open_clip.transform.PreprocessCfg()
    published = (
        open_clip.pretrained.get_pretrained_cfg(architecture, tag) if tag else {}
    )
    settings: dict[str, Any] = {
        name: published.get(field) or getattr(default, field)
        for name, (field, _) in _IMAGE_SETTINGS.items()
    }
    configured = open_clip.get_model_config(architecture).get("quick_gelu", False)
    settings["force_quick_gelu"] = bool(
        configured or published.get("quick_gelu", False)
    )
    return settings


def _check_stated(
    spec: BackboneSpec, open_clip: Any, architecture: str, default: dict[str, Any]
) -> None:
    """Refuse a file of weights if its settings can be those of several tags.

    A file does not say how its images were prepared, nor its activation. Where the
    tags of an architecture and the library's defaults differ, one of them would be
    a guess.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    of_tags = [_settings(open_clip, architecture, tag) for tag in tags]
    names = [*(_IMAGE_SETTINGS if spec.modality == "image" else ()), _ACTIVATION[0]]
    open_ones = [
        name
        for name in names
        if any(settings[name] != default[name] for settings in of_tags)
        and not _states(spec, name)
    ]
    if not open_ones:
        return
    values = {name: default[name] for name in open_ones}
    raise UnknownBackboneError(
        f"weights={spec.weights!r}: a file of weights does not say which settings of "
        f"{architecture} it was trained with, and its pretrained tags have other ones "
        f"than the library's defaults ({', '.join(open_ones)}). Name the tag, as in "
        f"'open_clip:{architecture}/{tags[0]}', or state them: the defaults are "
        f"model_kwargs={values}. Tags of {architecture}: {', '.join(tags)}"
    )


def _states(spec: BackboneSpec, name: str) -> bool:
    if name in _ACTIVATION:
        return any(other in spec.model_kwargs for other in _ACTIVATION)
    overrides = spec.preprocess if isinstance(spec.preprocess, dict) else {}
    return name in spec.model_kwargs or _IMAGE_SETTINGS[name][1] in overrides
