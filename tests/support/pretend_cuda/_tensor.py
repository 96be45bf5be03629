"""Tensors that say they are on a pretended device."""

import torch
from torch.utils._pytree import tree_flatten, tree_map

from pretend_cuda._rules import (
    COPIES,
    INDEXING,
    VIEWS,
    WAITING,
    common_device,
    depends_on_order,
)
from pretend_cuda._state import current_pretence

CPU = torch.device("cpu")


class _LikeTensor(type(torch.Tensor)):
    """Type that equals torch.Tensor: a tensor on CUDA has no type of its own."""

    def __eq__(cls, other):
        return other is torch.Tensor or other is cls

    def __hash__(cls):
        return hash(torch.Tensor)


class PretendedTensor(torch.Tensor, metaclass=_LikeTensor):
    """A CPU tensor that says it is elsewhere.

    Parameters
    ----------
    inner : Tensor
        Holds the numbers.
    device : torch.device
        With its number.
    """

    @staticmethod
    def __new__(cls, inner, device):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="cpu",
            requires_grad=False,
        )
        made._inner, made._where = inner, device
        return made

    # Only Python sees these.
    device = property(lambda self: self._where)
    is_cuda = property(lambda self: self._where.type == "cuda")
    is_cpu = property(lambda self: self._where.type == "cpu")

    __torch_function__ = torch._C._disabled_torch_function_impl

    def record_stream(self, stream):
        """Do nothing: the parser of arguments knows real streams only."""

    def get_device(self):
        """Return the number of the device."""
        return self._where.index

    def __repr__(self, *, tensor_contents=None):
        return f"{self._inner!r} on {self.device}"

    def __reduce_ex__(self, protocol):
        inner = self._inner.detach()
        return _unpickled, (inner, str(self.device), self.requires_grad)

    def __deepcopy__(self, memo):
        with torch.no_grad():
            copy = PretendedTensor(self._inner.detach().clone(), self.device)
        if getattr(self, "_is_param", False):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        else:
            copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Run an operation on the CPU's numbers, and hold it to the rules of CUDA."""
        name, kwargs = func._schema.name.split("::")[1], dict(kwargs or {})
        if name in ("_to_copy", "to"):
            return _cast(func, args, kwargs)
        if name == "copy_":
            return _copied(args, kwargs)
        if name == "record_stream":
            return None
        tensors = [
            x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)
        ]
        device = common_device(func, name, args, tensors)
        _note(name, args)
        if "device" in kwargs:
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        known = {id(t._inner): t for t in tensors if isinstance(t, PretendedTensor)}
        plain_args, plain_kwargs = tree_map(inner, args), tree_map(inner, kwargs)
        if device.type == "cuda" and depends_on_order(name, plain_args, plain_kwargs):
            current_pretence().log.problem(
                f"the result of {name} depends on the order in which threads end"
            )
        out = func(*plain_args, **plain_kwargs)
        if torch.Tag.inplace_view in func.tags:
            with torch.utils._mode_utils.no_dispatch():
                func(*args, **kwargs)

        def wrapped(x):
            if not isinstance(x, torch.Tensor):
                return x
            if id(x) in known:
                return _unchanged(known[id(x)], x, name)
            return cls(x, device) if device.type == "cuda" else x

        return tree_map(wrapped, out)


# Libraries that ask for the module of a class are to take it for a tensor of torch.
PretendedTensor.__module__ = "torch"


def inner(x):
    """Return the CPU tensor of a pretended one, and anything else as it is."""
    return x._inner if isinstance(x, PretendedTensor) else x


def _unpickled(plain, device, requires_grad):
    return PretendedTensor(plain, torch.device(device)).requires_grad_(requires_grad)


def _unchanged(mine, x, name):
    if mine.shape != x.shape:
        raise RuntimeError(f"{name}: out= was resized to {tuple(x.shape)}")
    return mine


def _note(name, args):
    log = current_pretence().log
    if name in WAITING:
        log.note("wait", name)
    if name in INDEXING:
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                log.note("wait", f"{name} by a mask")
            elif index is not None and not isinstance(index, PretendedTensor):
                log.note("up", f"{name} by a CPU tensor")
                log.note("wait", f"{name} by a CPU tensor")
    if name not in VIEWS and name not in COPIES:
        log.note("kernel", name)


def _cast(func, args, kwargs):
    """A pretended tensor in another type, on the same device."""
    source = args[0]
    if "device" in kwargs:
        kwargs["device"] = CPU
    rest = [CPU if isinstance(x, torch.device) else inner(x) for x in args[1:]]
    plain = func(source._inner, *rest, **kwargs)
    if plain is source._inner:
        return source
    current_pretence().log.note("kernel", "_to_copy")
    return PretendedTensor(plain, source.device)


def _copied(args, kwargs):
    target, source = args[:2]
    non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    kinds = target.device.type, source.device.type
    if kinds == ("cuda", "cpu"):
        note_up(source, non_blocking, "copy_")
    elif kinds == ("cpu", "cuda"):
        note_down(source, target, non_blocking)
    else:
        current_pretence().log.note("kernel", "copy_")
    inner(target).copy_(inner(source))
    return target


def note_up(source, non_blocking, what):
    """Count a copy to a device; the host waits unless it is from pinned memory."""
    pretence = current_pretence()
    pretence.log.note("up", what)
    if not (non_blocking and pretence.is_pinned(source)):
        pretence.log.note("wait", f"{what} from the CPU")


def note_down(source, host, non_blocking):
    """Count a copy from a device; to pinned memory it is under way afterwards."""
    pretence = current_pretence()
    pretence.log.note("down", "copy")
    if non_blocking and pretence.is_pinned(host):
        pretence.under_way[source.device] += 1
    else:
        pretence.log.note("wait", "copy to the CPU")


class _Upload(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, device):
        return PretendedTensor(x.detach().clone(), device)

    @staticmethod
    def backward(ctx, grad):
        return inner(grad), None


def upload(x, device, non_blocking=False, what="copy"):
    """Copy a CPU tensor to a pretended device."""
    note_up(x, non_blocking, what)
    if x.requires_grad and torch.is_grad_enabled():
        return _Upload.apply(x, device)
    kept = x.detach().clone(memory_format=torch.preserve_format)
    return PretendedTensor(kept, device)
