"""What operations mean on a GPU: which launch nothing, wait, or depend on an order."""

import torch

# They launch no kernel.
VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "expand",
        "transpose",
        "permute",
        "t",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "as_strided",
        "detach",
        "alias",
        "split",
        "unbind",
        "diagonal",
        "_reshape_alias",
        "lift_fresh",
        "unfold",
        "split_with_sizes",
        "chunk",
        "record_stream",
        "empty",
        "empty_like",
        "new_empty",
        "empty_strided",
        "set_data",
        "new_empty_strided",
        "movedim",
        "narrow",
        "is_same_size",
        "sym_size",
        "resize_",
    ]
)
# The host waits for a number or a shape.
WAITING = frozenset(
    [
        "nonzero",
        "masked_select",
        "unique_dim",
        "_unique2",
        "unique_consecutive",
        "_local_scalar_dense",
        "equal",
        "repeat_interleave",
    ]
)
COPIES = frozenset(["_to_copy", "to", "copy_", "record_stream"])
INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_"])
# One CPU tensor without dimensions may take part, as it does on CUDA.
_SCALAR = ("add", "sub", "mul", "div", "_foreach", "index_put", "where", "fill_")
# Sums by atomic additions: name, and the positions of dimension, index and values.
_ADDITIONS = {
    "index_add": (1, 2, 3),
    "index_add_": (1, 2, 3),
    "scatter_add": (1, 2, 3),
    "scatter_add_": (1, 2, 3),
}
# Their kernels have no fixed order, whatever the values.
_UNORDERED = frozenset(
    [
        "kthvalue",
        "histc",
        "grid_sampler_2d_backward",
        "max_unpool2d",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "upsample_linear1d_backward",
        "adaptive_max_pool2d_backward",
        "reflection_pad2d_backward",
        "embedding_dense_backward",
        "_embedding_bag_dense_backward",
    ]
)


def common_device(func, name, args, tensors):
    """Return the device of an operation.

    Parameters
    ----------
    func : torch.OpOverload
    name : str
    args : tuple
    tensors : list of Tensor
        All that take part.

    Raises
    ------
    RuntimeError
        Where CUDA raises it: the tensors are on several devices.
    """
    first = args[0] if args and isinstance(args[0], torch.Tensor) else tensors[0]
    exempt = set()
    if name in INDEXING and first.device.type == "cuda":
        exempt = {id(i) for i in args[1] if i is not None and i.device.type == "cpu"}
    scalars_may = torch.Tag.pointwise in func.tags or name.startswith(_SCALAR)
    devices = set()
    for tensor in tensors:
        scalar = tensor.ndim == 0 and tensor.device.type == "cpu"
        if id(tensor) not in exempt and not (scalars_may and scalar):
            devices.add(tensor.device)
    if len(devices) > 1:
        found = " and ".join(sorted(map(str, devices)))
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two "
            f"devices, {found}! (when checking {name})"
        )
    return next(iter(devices), first.device)


def depends_on_order(name, args, kwargs):
    """Whether the bits of a result depend on which thread of a GPU ends first.

    Parameters
    ----------
    name : str
    args : tuple
        Plain tensors.
    kwargs : dict

    Returns
    -------
    bool
        Sums whose order cannot be seen, such as those of counts, do not.
    """
    if name in _UNORDERED:
        return True
    if name in ("cumsum", "cumsum_"):
        return args[0].is_floating_point() and args[0].numel() > 1
    if name == "bincount":
        return len(args) > 1 and args[1] is not None
    if name in _ADDITIONS:
        return _sums_differ(name, args, kwargs)
    if name in ("index_put", "index_put_", "_index_put_impl_"):
        return _written_twice(args, kwargs)
    if name in ("scatter", "scatter_") and isinstance(args[3], torch.Tensor):
        return _differs(lambda flip: _scattered(args, flip))
    return False


def _sums_differ(name, args, kwargs):
    target, (dim, index, values) = args[0], (args[p] for p in _ADDITIONS[name])
    if not values.is_floating_point():
        return False
    plain = "index_add" if name.startswith("index") else "scatter_add"
    where = 0 if plain == "index_add" else dim

    def summed(order):
        index_then = index.index_select(where, order)
        values_then = values.index_select(dim, order)
        return getattr(torch.Tensor, plain)(target, dim, index_then, values_then)

    rows = torch.arange(values.shape[dim])
    orders = rows, rows.flip(0), rows.roll(len(rows) // 2)
    one, *others = map(summed, orders)
    return not all(torch.equal(one, other) for other in others)


def _written_twice(args, kwargs):
    """Whether one place gets several values, or a sum of several in any order."""
    target, indices, values = args[:3]
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    places = torch.arange(target.numel()).view(target.shape)[
        tuple(map(_sliced, indices))
    ]
    flat, values = places.flatten(), values.expand(places.shape).flatten()

    def written(flip):
        order = torch.arange(len(flat)).flip(0) if flip else torch.arange(len(flat))
        out = target.detach().clone().flatten()
        return out.index_put_((flat[order],), values[order], accumulate)

    return _differs(written)


def _sliced(index):
    return slice(None) if index is None else index


def _scattered(args, flip):
    target, dim, index, values = args[:4]
    if flip:
        index, values = index.flip(dim), values.narrow(dim, 0, index.shape[dim])
        values = values.flip(dim)
    return torch.scatter(target, dim, index, values)


def _differs(result):
    return not torch.equal(result(False), result(True))
