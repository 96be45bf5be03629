"""Networks of the user's and preprocessing: described by all they hold, or refused."""

import builtins
import copy
import io
import linecache
import os
import random
import subprocess
import sys
import threading
import types
from pathlib import Path

import described as cases
import numpy as np
import open_clip
import pytest
import timm.data.transforms
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import _presets, v2

from embeddings_cache import UndescribableError
from embeddings_cache.backbones._describe import describe_network
from embeddings_cache.backbones._transforms import describe_transform


def test_attributes_that_differ_are_told_apart():
    found = {}
    for value in cases.ATTRIBUTES:
        text = cases.described(cases.Net(held=value))
        assert text not in found, (value, found.get(text))
        found[text] = value


def test_networks_that_compute_other_things_are_told_apart():
    found = {}
    for name, make in cases.NETWORKS.items():
        text = cases.described(make())
        assert text == cases.described(make()), name
        assert text not in found, (name, found.get(text))
        found[text] = name


def test_a_description_is_the_same_in_every_process():
    def run(seed):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        return subprocess.run(
            [sys.executable, "-W", "ignore", cases.__file__],
            capture_output=True,
            check=True,
            env=environment,
        ).stdout

    assert run(1) == run(2)


def test_a_description_outlives_a_copy_a_move_and_a_forward_pass():
    net = cases.Net(held=[torch.relu, {"a": np.ones(2)}])
    before = describe_network(net)
    net.eval()(torch.ones(1, 4))
    assert describe_network(net) == before
    assert describe_network(copy.deepcopy(net)) == before


def changed(monkeypatch, owner, name, value):
    """Whether a description of `Net` is another one after a change of its module."""
    before = cases.described(cases.Net())
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, value)
        after = cases.described(cases.Net())
    assert cases.described(cases.Net()) == before
    return before != after


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (cases.Net, "forward", lambda _net, x: x),
        (cases.Net, "factor", 9.0),
        (cases.Net, "doubled", property(lambda net: 3 * net.factor)),
        (cases.Mixin, "mix", lambda _net, x: 2 * x),
        (cases, "helper", lambda x: x),
        (cases, "GAIN", 2.5),
        (cases, "odd", lambda n: n == 1),
        (cases.helper, "__defaults__", (1,)),
        (cases.helper, "__code__", (lambda x: 3 * x).__code__),
        (nn.Linear, "forward", lambda _layer, x: 2 * x),
        (nn.Module, "__call__", lambda _module, x: x),
        (nn.Linear, "forward", nn.Tanh.forward),
        (nn.functional, "linear", lambda x, _weight, _bias: x),
        (torch, "tanh", lambda x: x),
    ],
    ids=lambda value: getattr(value, "__name__", str(value).partition(" at 0x")[0]),
)
def test_code_behind_a_network_is_in_its_description(monkeypatch, owner, name, value):
    assert changed(monkeypatch, owner, name, value)


def test_what_a_network_does_not_refer_to_is_not_in_its_description(monkeypatch):
    assert not changed(monkeypatch, cases, "NETWORKS", {})


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Import a module of the user's, which another one uses."""
    (tmp_path / "pair_tools.py").write_text(
        "BY = 2\ndef scale(x):\n    return BY * x\n"
    )
    (tmp_path / "pair_net.py").write_text(
        "import pair_tools\n"
        "from torch import nn\n"
        "class First(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return pair_tools.scale(x)\n"
        "class Second(nn.Module):\n"
        "    def forward(self, x):\n"
        "        from pair_tools import scale\n"
        "        return scale(x)\n"
        "class Third(nn.Module):\n"
        "    def forward(self, x):\n"
        "        import not_installed\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import pair_net

    yield pair_net
    for name in ("pair_net", "pair_tools"):
        sys.modules.pop(name)


def test_modules_that_code_uses_are_in_the_description(tools, monkeypatch):
    for kind in (tools.First, tools.Second):
        before = cases.described(kind())
        with monkeypatch.context() as patch:
            patch.setattr(tools.pair_tools, "BY", 3)
            assert cases.described(kind()) != before, kind
    assert "absent" in cases.described(tools.Third())


def test_classes_of_a_notebook_are_described(monkeypatch):
    """They are in a module without a file, but the text of each cell is at hand."""

    def cell(number, by):
        text = (
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            f"    def forward(self, x):\n        return x * {by}\n"
        )
        name = f"<cell {number}>"
        lines = text.splitlines(keepends=True)
        monkeypatch.setitem(linecache.cache, name, (len(text), None, lines, name))
        scope = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), scope)
        return cases.described(scope["Net"]())

    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert cell(1, 2) == cell(2, 2) != cell(3, 4)


@pytest.mark.parametrize("patched", [nn.Module, nn.ReLU])
def test_patched_classes_of_a_library_are_seen_without_a_class_of_ones_own(
    monkeypatch, patched
):
    before = cases.described(nn.Sequential(nn.ReLU()))
    monkeypatch.setattr(patched, "forward", lambda _module, x: 2 * x)
    assert cases.described(nn.Sequential(nn.ReLU())) != before


BY = types.ModuleType("by")
BY._value = 2
HELD = [BY]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * getattr(BY, "_value"),  # noqa: B009
        lambda x: x * vars(BY)["_value"],
        lambda x: x * BY.__dict__["_value"],
        lambda x: x * HELD[0]._value,
        lambda x: x * globals()["BY"]._value,
    ],
)
def test_attributes_that_code_looks_up_are_in_the_description(monkeypatch, function):
    before = cases.described(cases.Net(held=function))
    monkeypatch.setattr(BY, "_value", 3)
    assert cases.described(cases.Net(held=function)) != before


@pytest.mark.parametrize("owner", [builtins, torch.Tensor])
def test_names_added_to_python_and_to_tensors_are_in_the_description(
    monkeypatch, owner
):
    def of(value):
        monkeypatch.setattr(owner, "added_scale", value, raising=False)
        return cases.described(cases.Net(held=function))

    if owner is builtins:
        function = lambda x: added_scale(x)  # noqa: E731, F821
    else:
        function = lambda x: x.added_scale()  # noqa: E731
    assert of(lambda x: 2 * x) == of(lambda x: 2 * x) != of(lambda x: 3 * x)


class Beside(nn.Module):
    """Uses a module that is no part of it."""

    other: nn.Module = nn.Identity()

    def forward(self, x):
        return self.other(x)


@pytest.mark.parametrize("other", [nn.BatchNorm1d(2), nn.Dropout(), nn.GRU(2, 2)])
def test_a_module_beside_the_network_has_to_be_evaluated(monkeypatch, other):
    monkeypatch.setattr(Beside, "other", staticmethod(other.train()))
    with pytest.raises(UndescribableError, match=r"in training mode.*call its eval"):
        describe_network(Beside().eval())
    other.eval()
    describe_network(Beside().eval())
    # What is the same in both modes may be in any.
    monkeypatch.setattr(Beside, "other", staticmethod(nn.ReLU().train()))
    describe_network(Beside().eval())


def test_a_compiled_function_is_what_was_compiled():
    def of(function, **settings):
        return cases.described(cases.Net(held=torch.compile(function, **settings)))

    assert of(torch.relu) == of(torch.relu) != of(torch.tanh)
    with pytest.raises(UndescribableError, match="backend of the user's"):
        of(torch.relu, backend=lambda graph, _x: graph)


def test_functions_on_one_line_are_told_apart():
    pair = [lambda x: x * 2, lambda x: x * 3]
    first, second = (cases.Net(held=function) for function in pair)
    assert cases.described(first) != cases.described(second)


def test_wrapped_functions_are_known_by_their_own_code():
    import functools

    @functools.wraps(nn.functional.relu)
    def tripled(x):
        return 3 * x

    assert cases.described(cases.Net(held=tripled)) != cases.described(
        cases.Net(held=nn.functional.relu)
    )


def test_only_training_asks_what_is_trained():
    frozen = cases.Net()
    frozen.linear.weight.requires_grad_(False)
    hooked = cases.Net()
    hooked.linear.weight.register_hook(lambda gradient: 2 * gradient)
    networks = [cases.Net(), frozen, hooked]
    assert len({str(describe_network(net)) for net in networks}) == 1
    assert len({str(describe_network(net, training=True)) for net in networks}) == 3


def test_hidden_modules_bring_their_weights():
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    for number, layer in enumerate(layers):
        nn.init.constant_(layer.weight, number)
        nn.init.constant_(layer.bias, 0.0)
    first, second = (cases.Net(held=[layer]) for layer in layers)
    assert cases.described(first) != cases.described(second)


def test_tied_weights_are_not_separate_ones():
    def pair():
        layers = nn.Linear(2, 2), nn.Linear(2, 2)
        layers[1].load_state_dict(layers[0].state_dict())
        return nn.Sequential(*layers)

    tied = pair()
    tied[1].weight = tied[0].weight
    assert cases.described(tied) != cases.described(pair())


def test_a_compiled_network_is_what_was_compiled():
    described = {cases.described(torch.compile(nn.ReLU()))}
    described.add(cases.described(torch.compile(nn.ReLU())))
    assert len(described) == 1
    assert cases.described(torch.compile(nn.GELU())) not in described
    with pytest.raises(UndescribableError, match="compiled in another way"):
        describe_network(torch.compile(nn.ReLU(), backend=lambda graph, _x: graph))


class Subclassed(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        io.StringIO("text"),
        iter([1]),
        (n for n in range(3)),
        random.Random(0),
        random.random,
        np.random.default_rng(0),
        np.random.default_rng(0).normal,
        np.random.RandomState(0),
        torch.Generator(),
        np.frompyfunc(abs, 1, 1),
        np.array([object()]),
        np.ma.array([1]),
        np.array([(1, None)], dtype=[("a", int), ("b", object)]),
        torch.ones(1).as_subclass(Subclassed),
        torch.empty(1, device="meta"),
        torch.jit.script(nn.Linear(1, 1)),
        {"deep": [object(), threading.Event()]},
        types.SimpleNamespace(lock=threading.Lock()),
        lambda: threading.Lock() and LOCK,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_described_is_refused_by_name(value):
    net = nn.Sequential(cases.Net(_held=value))
    with pytest.raises(UndescribableError) as error:
        describe_network(net)
    message = str(error.value)
    assert message.startswith("backbone: backbone.0._held")
    assert "set cache_description on the network" in message


LOCK = threading.Lock()


def test_a_hook_that_cannot_be_described_is_named():
    net = cases.Net()
    net.linear.register_forward_hook(random.Random(0).choice)
    with pytest.raises(UndescribableError, match=r"linear\._forward_hooks\[0\]"):
        describe_network(net)


@pytest.mark.parametrize(
    "given", [object(), {"f": len}, float("nan"), [repr(object())]]
)
def test_a_declaration_must_be_plain_and_the_same_in_every_process(given):
    net = cases.Net(cache_description=given)
    with pytest.raises(UndescribableError, match=r"network\.cache_description"):
        describe_network(net)

    def function(image):
        return image

    function.cache_description = given
    with pytest.raises(UndescribableError, match=r"preprocess\.cache_description"):
        describe_transform(function)


def test_a_part_may_declare_itself():
    def of(text):
        part = cases.Net(held=threading.Lock(), cache_description=text)
        return cases.described(nn.Sequential(part))

    assert of("a") == of("a") != of("b")


SMALL = [transforms.Resize(8), transforms.ToTensor()]
RANDOM = [
    transforms.RandomApply(SMALL),
    transforms.RandomChoice(SMALL),
    transforms.RandomOrder(SMALL),
    transforms.ColorJitter(0.5),
    transforms.GaussianBlur(3),
    transforms.ElasticTransform(),
    transforms.AutoAugment(),
    transforms.RandAugment(),
    transforms.TrivialAugmentWide(),
    transforms.AugMix(),
    transforms.RandomErasing(),
    v2.RandomApply(SMALL),
    v2.ColorJitter(0.5),
    v2.GaussianBlur(3),
    v2.GaussianNoise(),
    v2.JPEG((1, 9)),
    v2.ScaleJitter((8, 8)),
    v2.MixUp(num_classes=2),
    v2.Lambda(abs),
    timm.data.transforms.RandomCropOrPad(8),
    timm.data.transforms.RandomResizedCropAndInterpolation(8),
    timm.data.transforms.ResizeKeepRatio(8, random_scale_prob=0.5),
    timm.data.transforms.ResizeKeepRatio(8, interpolation="random"),
    nn.Dropout(0.5),
]


@pytest.mark.parametrize("part", RANDOM, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize(
    "around",
    [
        lambda part: part,
        lambda part: transforms.Compose([*SMALL, transforms.Compose([part])]),
        lambda part: v2.Compose([part]),
        lambda part: nn.Sequential(nn.Identity(), nn.Sequential(part)),
    ],
    ids=["alone", "Compose", "v2.Compose", "Sequential"],
)
def test_random_preprocessing_is_refused_by_name(around, part):
    if not isinstance(part, nn.Module) and isinstance(around(SMALL[0]), nn.Sequential):
        pytest.skip("a Sequential takes modules only")
    with pytest.raises(UndescribableError) as error:
        describe_transform(around(part))
    assert type(part).__name__ in str(error.value)
    assert "preprocess.cache_description" in str(error.value)
    # Training may be random, and is told apart by the same attributes.
    assert describe_transform(part, allow_random=True, name="augment")


def patched_transform():
    transform = transforms.CenterCrop(4)
    transform.forward = lambda image: image
    return transform


def hooked_transform():
    transform = v2.CenterCrop(4)
    transform.register_forward_hook(lambda _module, _x, out: out)
    return transform


class MyCrop(transforms.CenterCrop):
    def forward(self, image):
        return image


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (patched_transform(), r"preprocess\.forward"),
        (hooked_transform(), r"_forward_hooks\[0\]"),
        (MyCrop(4), "MyCrop"),
        (transforms.Compose([MyCrop(4)]), r"transforms\[0\] is MyCrop"),
        (abs, "builtin"),
        (Path, "class Path"),
        (SMALL[0].forward, "method"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_code_in_preprocessing_is_refused_by_name(transform, name):
    with pytest.raises(UndescribableError, match=name):
        describe_transform(transform)


def test_a_patched_class_of_transforms_is_refused(monkeypatch):
    monkeypatch.setattr(transforms.CenterCrop, "forward", lambda _crop, image: image)
    with pytest.raises(UndescribableError, match="forward"):
        describe_transform(transforms.Compose([transforms.CenterCrop(4)]))


TABLE = {torch.Tensor: torch.float32, "others": None}
DETERMINISTIC = [
    v2.LinearTransformation(torch.eye(12), torch.zeros(12)),
    v2.LinearTransformation(2 * torch.eye(12), torch.zeros(12)),
    transforms.LinearTransformation(torch.eye(12), torch.zeros(12)),
    v2.ToDtype(torch.float32),
    v2.ToDtype(torch.float32, scale=True),
    v2.ToDtype(torch.float64, scale=True),
    v2.ToDtype(TABLE),
    transforms.ConvertImageDtype(torch.float32),
    transforms.ConvertImageDtype(torch.float16),
    transforms.Resize(8),
    transforms.Resize((8, 8)),
    transforms.Resize(8, antialias=False),
    transforms.Resize(8, transforms.InterpolationMode.NEAREST),
    transforms.Resize(8, max_size=9),
    v2.Resize(8),
    transforms.Pad(1),
    transforms.Pad(1, fill=1),
    transforms.Pad(1, padding_mode="reflect"),
    transforms.CenterCrop(8),
    transforms.Grayscale(),
    transforms.Grayscale(3),
    transforms.Normalize((0.5,), (0.5,)),
    transforms.Normalize((0.5,), (0.4,)),
    transforms.Compose(SMALL),
    transforms.Compose(SMALL[::-1]),
    v2.Compose(SMALL),
    v2.Compose([v2.ToImage(), v2.RGB(), v2.ToPureTensor()]),
    nn.Sequential(SMALL[0]),
    _presets.ImageClassification(crop_size=8),
    _presets.ImageClassification(crop_size=8, resize_size=9),
    timm.data.transforms.ResizeKeepRatio(8),
    timm.data.transforms.ResizeKeepRatio(8, longest=1),
    timm.data.create_transform((3, 8, 8)),
    timm.data.create_transform((3, 8, 8), crop_pct=1, crop_mode="border"),
]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(transforms.functional, "resize"), (v2.Transform, "forward")],
)
def test_patches_below_the_transforms_are_refused(monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, lambda *_arguments: None)
    with pytest.raises(UndescribableError, match=rf"{name} is the function"):
        describe_transform(v2.Resize(8))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_preprocessing_of_open_clip_is_described(mode):
    made = open_clip.image_transform(8, is_train=False, resize_mode=mode)
    assert describe_transform(made)


def test_deterministic_transforms_are_described_by_all_that_changes_a_pixel():
    found = [str(describe_transform(transform)) for transform in DETERMINISTIC]
    for n, text in enumerate(found):
        assert text not in found[:n], DETERMINISTIC[n]
    again = [str(describe_transform(copy.deepcopy(t))) for t in DETERMINISTIC]
    assert again == found
