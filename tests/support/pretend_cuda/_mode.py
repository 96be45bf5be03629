"""Sends what names the pretended device to it."""

import torch
from torch.overrides import TorchFunctionMode

from pretend_cuda._state import current_pretence, numbered
from pretend_cuda._tensor import CPU, PretendedTensor, inner, note_down, upload

_COPYING = ("tensor", "as_tensor", "asarray")


class PretenceMode(TorchFunctionMode):
    """The functions of torch that say where a tensor is to be."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch, as on a machine with CUDA."""
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        handler = _HANDLERS.get(name)
        if handler is not None and args and isinstance(args[0], torch.Tensor):
            found = handler(func, args, kwargs)
            if found is not NotImplemented:
                return found
        pinned = kwargs.pop("pin_memory", False)
        if isinstance(kwargs.get("device"), (str, int, torch.device)):
            made = _made_on(func, name, args, kwargs)
        else:
            made = func(*args, **kwargs)
        return current_pretence().pin(made) if pinned else made


def _made_on(func, name, args, kwargs):
    """Call a function with `device=`."""
    device = numbered(kwargs["device"])
    source = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if device is None or device.type != "cuda":
        out = func(*args, **kwargs)
        return inner(out) if isinstance(source, PretendedTensor) else out
    if isinstance(source, PretendedTensor) and name not in _COPYING:
        kwargs["device"] = CPU
        return _placed(func(*args, **kwargs), device)
    if source is not None and name in ("as_tensor", "asarray"):
        dtype = {k: v for k, v in kwargs.items() if k == "dtype"}
        return move(torch.Tensor.to, (source, device), dtype)
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != "cuda":
        raise RuntimeError(
            "Expected a 'cuda' device type for generator but found 'cpu'"
        )
    kwargs["device"] = CPU
    requires_grad = kwargs.pop("requires_grad", False)
    made = func(*args, **kwargs)
    if name in _COPYING:
        current_pretence().log.note("up", name)
        current_pretence().log.note("wait", f"{name} from the CPU")
    else:
        current_pretence().log.note("kernel", name)
    made = _placed(made, device)
    return made.requires_grad_(True) if requires_grad else made


def _placed(made, device):
    return PretendedTensor(inner(made), device)


def move(func, args, kwargs):
    """`Tensor.to` and its relatives."""
    x = args[0]
    device, dtype, non_blocking, copy, rest = _targets(args[1:], kwargs)
    here, target = x.device, device or x.device
    if not isinstance(x, PretendedTensor):
        if target.type != "cuda":
            return func(x, target, dtype or x.dtype, copy=copy, **rest)
        cast = x.to(dtype=dtype or x.dtype, **rest)
        return upload(cast, target, non_blocking)
    if target == here:
        if dtype in (None, x.dtype) and not rest and not copy:
            return x
        return torch.Tensor.to(x, dtype=dtype or x.dtype, copy=copy, **rest)
    if target.type == "cuda":
        current_pretence().log.note("kernel", "copy between devices")
        moved = _Sideways.apply(x, target)
        return moved if dtype is None else moved.to(dtype)
    host = _Download.apply(x)
    if non_blocking:
        current_pretence().log.problem("a copy to memory that is not pinned is read")
    note_down(x, host, False)
    return host if dtype is None else host.to(dtype)


class _Download(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.device = x.device
        return x._inner.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        return _placed(grad, ctx.device)


class _Sideways(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, device):
        ctx.device = x.device
        return _placed(x._inner.detach().clone(), device)

    @staticmethod
    def backward(ctx, grad):
        return _placed(grad, ctx.device), None


def _targets(args, kwargs):
    """Device, dtype, non_blocking, copy and the rest of a call of `Tensor.to`."""
    args, kwargs = list(args), dict(kwargs)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    other = kwargs.pop("other", None)
    if args and isinstance(args[0], torch.Tensor):
        other = args.pop(0)
    elif args and isinstance(args[0], torch.dtype):
        dtype = args.pop(0)
    elif args:
        device = args.pop(0)
        if args and (args[0] is None or isinstance(args[0], torch.dtype)):
            dtype = args.pop(0)
    flags = [*args, None, None]
    non_blocking = kwargs.pop("non_blocking", False) or bool(flags[0])
    copy = kwargs.pop("copy", False) or bool(flags[1])
    if other is not None:
        device, dtype = other.device, other.dtype
    return numbered(device), dtype, non_blocking, copy, kwargs


def _to_cpu(func, args, kwargs):
    return move(torch.Tensor.to, (args[0], CPU), kwargs)


def _to_cuda(func, args, kwargs):
    wanted = args[1] if len(args) > 1 else kwargs.pop("device", None)
    wanted = "cuda" if wanted is None else wanted
    return move(torch.Tensor.to, (args[0], wanted), kwargs)


def _pin(func, args, kwargs):
    if isinstance(args[0], PretendedTensor):
        raise RuntimeError(f"cannot pin {args[0].device}, only dense CPU tensors")
    return current_pretence().pin(args[0].clone())


def _is_pinned(func, args, kwargs):
    return current_pretence().is_pinned(args[0])


def _to_list(func, args, kwargs):
    if not isinstance(args[0], PretendedTensor):
        return NotImplemented
    current_pretence().log.note("wait", "tolist")
    return args[0]._inner.tolist()


def _to_numpy(func, args, kwargs):
    if not isinstance(args[0], PretendedTensor):
        return NotImplemented
    raise TypeError(
        f"can't convert {args[0].device} device type tensor to numpy. Use Tensor.cpu() "
        "to copy the tensor to host memory first."
    )


def _one_hot(func, args, kwargs):
    x = args[0]
    if not isinstance(x, PretendedTensor):
        return NotImplemented
    # C++ would make the numbers of the classes on what it takes for the device.
    log = current_pretence().log
    log.note("kernel", "one_hot")
    if len(args) < 2 and kwargs.get("num_classes", -1) == -1:
        log.note("wait", "one_hot without num_classes")
    return _placed(func(x._inner, *args[1:], **kwargs), x.device)


_HANDLERS = {
    "to": move,
    "cpu": _to_cpu,
    "cuda": _to_cuda,
    "pin_memory": _pin,
    "is_pinned": _is_pinned,
    "tolist": _to_list,
    "numpy": _to_numpy,
    "__array__": _to_numpy,
    "one_hot": _one_hot,
}
