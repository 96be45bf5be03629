"""Networks whose descriptions are compared, in this process and in others."""

import functools
import json
import logging
import math
import sys
import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.fx import symbolic_trace as trace
from torch.nn.utils import parametrize

from embeddings_cache.backbones._describe import describe_network

logger = logging.getLogger(__name__)
GAIN = 1.5
Pair = namedtuple("Pair", "left right")


class Mode(Enum):
    SUM = "sum"
    MEAN = "mean"

    def apply(self, x):
        return x.sum(-1) if self is Mode.SUM else x.mean(-1)


@dataclass
class Settings:
    gain: float = 1.0
    names: set = field(default_factory=lambda: {"alpha", "beta", "gamma", "delta"})


class Scale:
    """A callable object."""

    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by


class Named(dict):
    """A dictionary with attributes."""


def with_attributes(**attributes):
    named = Named(a=1)
    vars(named).update(attributes)
    return named


def helper(x):
    logger.debug("used")
    return math.pi * GAIN * x


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


class Mixin:
    def mix(self, x):
        return helper(x) if even(2) else x


class Net(Mixin, nn.Module):
    """Holds any attributes."""

    factor = 2.0

    def __init__(self, **attributes):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(4, 4)
        with torch.no_grad():
            for tensor in self.linear.parameters():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
        vars(self).update(attributes)

    @property
    def doubled(self):
        return 2 * self.factor

    @staticmethod
    def shift(x):
        return x + 1

    def forward(self, x):
        return self.shift(self.mix(self.linear(x.flatten(1)[:, :4]))) * self.doubled


class Slots(nn.Module):
    __slots__ = ("by",)

    def __init__(self, by):
        super().__init__()
        self.by = by


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def enclosing(value):
    def inner(x):
        return x * value

    return inner


def cyclic(value):
    found = [value]
    found.append(found)
    return found


def odd_tensors():
    eye = torch.eye(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that these are new, or old
        return [
            eye.to_sparse(),
            (2 * eye).to_sparse(),
            eye.to_sparse_csr(),
            torch.quantize_per_tensor(eye, 0.5, 0, torch.qint8),
            torch.quantize_per_tensor(eye, 0.25, 0, torch.qint8),
        ]


# Attributes that differ in one thing each: all must have different descriptions.
ATTRIBUTES = [
    None, True, 1, 1.0, -0.0, 0.0, math.nan, math.inf, 1j, 2, "1", b"1",
    bytearray(b"1"), 10**400,
    np.float32(1), np.float64(1), np.int64(1), np.float32(np.nan),
    np.arange(3), np.arange(3.0), np.arange(3)[::-1], np.arange(3)[:, None],
    np.array(["a"]), np.zeros(2000), np.eye(2000)[1],
    torch.tensor(1.0), torch.tensor(1), torch.tensor([1.0]), torch.tensor(2.0),
    torch.tensor([1 + 1j]), torch.tensor([1 + 1j]).conj(),
    torch.eye(2), *odd_tensors(),
    torch.float16, torch.float32, torch.device("cpu"), torch.Size([1]), torch.strided,
    (1,), [1], {1}, frozenset({1}), deque([1]), deque([1], maxlen=2), {1: 2}, {2: 1},
    {"a": 1, "b": 2}, {"b": 2, "a": 1}, OrderedDict(a=1, b=2), {"1": 2},
    defaultdict(int, {1: 2}), defaultdict(float, {1: 2}),
    [1, 2], [2, 1], [[1], 2], [1, [2]], {"x", "y"}, {"x", "z"},
    Mode.SUM, Mode.MEAN, Pair(1, 2), Pair(2, 1), (1, 2),
    Settings(), Settings(2.0), Settings(names={"alpha"}), Scale(1), Scale(2),
    with_attributes(b=1), with_attributes(b=2), {"a": 1},
    SimpleNamespace(a=1), SimpleNamespace(a=2),
    slice(1), slice(2), range(2), range(3), ..., Fraction(1, 2), PurePath("a"),
    torch.relu, torch.tanh, torch.nn.functional.relu, torch.nn.functional.gelu,
    np.tanh, np.exp, math.sin, math.cos, len, nn.ReLU, nn.GELU, nn.ReLU(), nn.GELU(),
    nn.GELU("tanh"), torch.ops.aten.relu.default, torch.ops.aten.tanh.default,
    lambda x: x + 1, lambda x: x + 2, lambda x, y=1: x + y, lambda x, y=2: x + y,
    lambda x: torch.relu(x), lambda x: torch.tanh(x), lambda x: helper(x),
    lambda x: x + GAIN, enclosing(1), enclosing(2), enclosing(torch.relu),
    functools.partial(torch.add, alpha=1), functools.partial(torch.add, alpha=2),
    functools.partial(helper), Scale(1).__call__, "".join, "-".join,
    Double, Double(), [Double()], [nn.PReLU()],
    cyclic(1), cyclic(2), math, np, torch.nn.functional,
]  # fmt: skip


def hooked(*hooks, **settings):
    net = Net()
    for hook in hooks:
        net.linear.register_forward_hook(hook, **settings)
    return net


def pre_hooked():
    net = Net()
    net.linear.register_forward_pre_hook(lambda _module, x: (2 * x[0],))
    return net


def backward_hooked():
    net = Net()
    net.register_full_backward_hook(lambda _module, grads, _out: grads)
    return net


def parametrized(by):
    net = Net()
    parametrize.register_parametrization(net.linear, "weight", by)
    return net


def patched(function):
    net = Net()
    net.forward = functools.partial(function, net)
    return net


def triple(_module, _inputs, output):
    return 3 * output


def negate(_module, _inputs, output):
    return -output


def subclass(**members):
    """Make a class of the same name, with other members."""

    class Other(Net):
        pass

    for name, value in members.items():
        setattr(Other, name, value)
    return Other()


def other_getattr(net, name):
    return nn.Module.__getattr__(net, name)


# Networks with the same tensors that compute different things.
NETWORKS = {
    "plain": Net,
    "hook": lambda: hooked(triple),
    "other hook": lambda: hooked(negate),
    "hooks": lambda: hooked(triple, negate),
    "hooks reversed": lambda: hooked(negate, triple),
    "always called": lambda: hooked(triple, always_call=True),
    "pre-hook": pre_hooked,
    "backward hook": backward_hooked,
    "parametrized": lambda: parametrized(Double()),
    "parametrized by another": lambda: parametrized(nn.Identity()),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(Net().linear),
    "old spectral norm": lambda: nn.utils.spectral_norm(Net().linear),
    "patched": lambda: patched(Net.forward),
    "patched otherwise": lambda: patched(lambda net, x: net.linear(x)),
    "subclass": subclass,
    "class attribute": lambda: subclass(factor=3.0),
    "property": lambda: subclass(doubled=property(lambda net: 5 * net.factor)),
    "method": lambda: subclass(mix=lambda _net, x: x),
    "static method": lambda: subclass(shift=staticmethod(lambda x: x - 1)),
    "getattr": lambda: subclass(__getattr__=other_getattr),
    "sequential": lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
    "sequential reversed": lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    "slot": lambda: Slots(1),
    "another slot": lambda: Slots(2),
    "data parallel": lambda: nn.DataParallel(nn.ReLU()),
    "recurrent": lambda: nn.LSTM(2, 2, bias=False),
    "traced": lambda: trace(nn.Sequential(nn.ReLU(), nn.Tanh())),
    "traced reversed": lambda: trace(nn.Sequential(nn.Tanh(), nn.ReLU())),
    "traced function": lambda: trace(
        type("Relu", (nn.Module,), {"forward": lambda _self, x: torch.relu(x)})()
    ),
}  # fmt: skip


def described(network):
    """Return the part of a description that is not the values of the weights."""
    return json.dumps(describe_network(network)["network"])


if __name__ == "__main__":
    found = [described(Net(held=value)) for value in ATTRIBUTES]
    found += [described(make()) for make in NETWORKS.values()]
    sys.stdout.write("\n".join(found))
