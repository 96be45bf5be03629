"""Stacks of linear and multi-layer heads that share their input rows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._mixing import MixedRows
from skdebias._engine._threads import Workers, pieces
from skdebias._engine._workspace import Workspace

# Fewest columns of a piece of a product.
_LEAST_COLUMNS = 64


class HeadStack:
    """`S` streams of `M` heads each, trained as one.

    The heads of a stream see the same rows, so the first layer of all of them is one
    matrix product. Parameters are stored head first, `(S * M, n_out, n_in)`: a stream
    is a contiguous block of rows, and dropping heads is a slice.

    Parameters
    ----------
    coefs : sequence of Tensor of shape (n_total_heads, n_out, n_in)
        Weights of the layers, input to output.
    intercepts : sequence of Tensor of shape (n_total_heads, n_out)
        Biases of the layers.
    n_streams : int
        Number of streams; divides the number of heads.
    inputs : sequence of slice, default=None
        The features that each head reads; its weights on all others are zero and stay
        so. None is all features.
    """

    def __init__(
        self,
        coefs: Sequence[Tensor],
        intercepts: Sequence[Tensor],
        n_streams: int = 1,
        inputs: Sequence[slice] | None = None,
    ) -> None:
        self.coefs = list(coefs)
        self.intercepts = list(intercepts)
        self.n_streams = n_streams
        self.inputs = None if inputs is None else list(inputs)
        self._reads: Tensor | None = None
        if self.inputs is not None:
            self._reads = torch.zeros_like(self.coefs[0][:, :1])
            for reads, columns in zip(self._reads, self.inputs):
                reads[:, columns] = 1.0

    @property
    def n_heads(self) -> int:
        """Heads per stream."""
        return self.coefs[0].shape[0] // self.n_streams

    def finite(self) -> Tensor:
        """Return which heads have finite logits on rows of any usual size.

        Weights may be finite and their products not: a row of entries up to 1e4 is
        carried through the largest weights.

        Returns
        -------
        Tensor of shape (n_total_heads,), bool
        """
        largest = [coef.abs().flatten(1).amax(1) for coef in self.coefs]
        bound = torch.stack(largest).prod(0) * 1e4
        biases = torch.cat(self.intercepts, 1).abs().amax(1)
        return torch.isfinite(bound + biases)

    def forward(
        self,
        X: Tensor,
        workspace: Workspace | None = None,
        threads: Workers | None = None,
        mixed: MixedRows | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits of every head on the rows of its stream.

        Parameters
        ----------
        X : Tensor of shape (n_streams, n_rows, n_features)
        workspace : Workspace, default=None
            Holds what the first layer yields. None allocates it.
        threads : Workers, default=None
            Share the product of the first layer. None is the calling thread.
        mixed : MixedRows, default=None
            How the rows are mixed. The first layer is affine: it mixes its outputs.

        Returns
        -------
        logits : Tensor of shape (n_streams, n_rows, n_heads, n_logits)
        activations : list of Tensor
            Inputs of the layers, for :meth:`backward`.
        """
        streams, heads = self.n_streams, self.n_heads
        width = self.coefs[0].shape[1]
        weight = self.coefs[0].view(streams, heads * width, -1)
        bias = self.intercepts[0].view(streams, 1, heads * width)
        out = _affine(X, weight, bias, workspace, threads).view(
            streams, -1, heads, width
        )
        if mixed is not None:
            out = mixed.outputs(out)
        activations = [X]
        if len(self.coefs) == 1:
            return out, activations
        out = out.transpose(1, 2).flatten(0, 1)  # (S * M, n_rows, width)
        for coef, intercept in zip(self.coefs[1:], self.intercepts[1:]):
            activations.append(out.relu())
            out = torch.baddbmm(
                intercept[:, None], activations[-1], coef.transpose(1, 2)
            )
        return out.unflatten(0, (streams, heads)).transpose(1, 2), activations

    def backward(
        self,
        activations: Sequence[Tensor],
        residual: Tensor,
        workspace: Workspace | None = None,
        threads: Workers | None = None,
        hidden: Sequence[Tensor] | None = None,
        mixed: MixedRows | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of a loss whose derivative in the logits is `residual`.

        Parameters
        ----------
        activations : list of Tensor
            What :meth:`forward` returned.
        residual : Tensor of shape (n_streams, n_rows, n_heads, n_logits)
        workspace : Workspace, default=None
            Holds the gradient of the first layer. None allocates it.
        threads : Workers, default=None
            Share the product of the first layer. None is the calling thread.
        hidden : sequence of Tensor of shape (n_streams * n_heads, n_rows, width)
            Derivatives of the loss in the hidden activations at fixed logits. None is
            zero.
        mixed : MixedRows, default=None
            That of the forward pass.

        Returns
        -------
        coef_grads, intercept_grads : list of Tensor
            Of the shapes of the parameters.
        """
        coef_grads: list[Tensor] = []
        intercept_grads: list[Tensor] = []
        delta = residual
        if len(self.coefs) > 1:
            delta = residual.transpose(1, 2).flatten(0, 1)
            for layer in range(len(self.coefs) - 1, 0, -1):
                inputs = activations[layer]
                coef_grads.append(torch.bmm(delta.transpose(1, 2), inputs))
                intercept_grads.append(delta.sum(1))
                delta = torch.bmm(delta, self.coefs[layer])
                if hidden is not None:
                    delta = delta + hidden[layer - 1]
                delta = delta * (inputs > 0)
            delta = delta.unflatten(0, (self.n_streams, self.n_heads)).transpose(1, 2)
        if mixed is not None:
            delta = mixed.adjoint(delta)
        flat = delta.flatten(2)  # (S, n_rows, M * width)
        grad = _outer(flat, activations[0], workspace, threads)
        grad = grad.view_as(self.coefs[0])
        coef_grads.append(grad if self._reads is None else grad * self._reads)
        # Balanced batches make this sum zero at the start but for rounding, which Adam
        # would blow up to a full step, another one in every stack.
        total = flat.sum(1, dtype=torch.float64).to(flat.dtype)
        intercept_grads.append(total.view_as(self.intercepts[0]))
        return coef_grads[::-1], intercept_grads[::-1]

    def added(self, grads: Sequence[Tensor], extra: Sequence[Tensor]) -> list[Tensor]:
        """Sum of gradients in the weights; those of what a head does not read are 0.

        Parameters
        ----------
        grads, extra : sequence of Tensor
            Of the shapes of `coefs`.

        Returns
        -------
        list of Tensor
        """
        total = [grad + more for grad, more in zip(grads, extra, strict=True)]
        if self._reads is not None:
            total[0] = total[0] * self._reads
        return total

    def numpy(self, head: int) -> tuple[list[NDArray], list[NDArray]]:
        """Weights and biases of one head as float32 arrays.

        Parameters
        ----------
        head : int
            Head number over all streams.

        Returns
        -------
        coefs : list of ndarray of shape (n_out, n_in)
            The first over the features that the head reads.
        intercepts : list of ndarray of shape (n_out,)
        """
        coefs = [c[head].cpu().numpy().copy() for c in self.coefs]
        if self.inputs is not None:
            coefs[0] = coefs[0][:, self.inputs[head]].copy()
        return coefs, [b[head].cpu().numpy().copy() for b in self.intercepts]

    def copy_heads(self, source: "HeadStack", heads: Tensor) -> None:
        """Overwrite the given heads with those of another stack of the same shape."""
        heads = heads.to(self.coefs[0].device)
        for mine, theirs in zip(
            self.coefs + self.intercepts, source.coefs + source.intercepts
        ):
            mine[heads] = theirs[heads]

    def select(self, heads: Tensor) -> None:
        """Drop all but the given heads, from memory too.

        Parameters
        ----------
        heads : Tensor of shape (n_kept,)
            Head numbers over all streams, equally many of each.
        """
        self.coefs = [c[heads] for c in self.coefs]
        self.intercepts = [b[heads] for b in self.intercepts]
        if self.inputs is not None and self._reads is not None:
            self.inputs = [self.inputs[head] for head in heads.tolist()]
            self._reads = self._reads[heads]

    def part(self, heads: slice) -> "HeadStack":
        """Return a view of some neighbouring heads, as one stream."""
        inputs = None if self.inputs is None else self.inputs[heads]
        return HeadStack(
            [c[heads] for c in self.coefs],
            [b[heads] for b in self.intercepts],
            1,
            inputs,
        )

    def clone(self) -> "HeadStack":
        """Return a deep copy."""
        return HeadStack(
            [c.clone() for c in self.coefs],
            [b.clone() for b in self.intercepts],
            self.n_streams,
            self.inputs,
        )


def initial_parameters(
    sizes: Sequence[int], seed: int, head: int = 0, *, from_zero: bool = True
) -> tuple[list[NDArray], list[NDArray]]:
    """Starting weights of one head.

    A linear head starts at zero: its objective is convex and the start is then the same
    for every seed. Hidden layers start uniformly in `+-1/sqrt(n_in)`, as
    `torch.nn.Linear` does.

    Parameters
    ----------
    sizes : sequence of int
        Layer sizes from input to logits.
    seed : int
        Seed in [0, 2**64).
    head : int, default=0
        Which head of a method that trains several.
    from_zero : bool, default=True
        Whether a linear head starts at zero.

    Returns
    -------
    coefs : list of ndarray of shape (n_out, n_in)
    intercepts : list of ndarray of shape (n_out,)
    """
    shapes = list(zip(sizes[1:], sizes[:-1]))
    if len(shapes) == 1 and from_zero:
        (n_out, n_in) = shapes[0]
        return [np.zeros((n_out, n_in), np.float32)], [np.zeros(n_out, np.float32)]
    generator = np.random.Generator(np.random.Philox(key=[seed, 2 + head]))
    coefs, intercepts = [], []
    for n_out, n_in in shapes:
        bound = n_in**-0.5
        coef = generator.uniform(-bound, bound, (n_out, n_in))
        coefs.append(coef.astype(np.float32))
        intercepts.append(generator.uniform(-bound, bound, n_out).astype(np.float32))
    return coefs, intercepts


def stack_parameters(
    parameters: Sequence[tuple[Sequence[NDArray], Sequence[NDArray]]],
    n_streams: int,
    device: torch.device,
    inputs: Sequence[slice] | None = None,
) -> HeadStack:
    """Stack the weights of single heads.

    Parameters
    ----------
    parameters : sequence of (coefs, intercepts)
        One pair per head, streams in order.
    n_streams : int
    device : torch.device
    inputs : sequence of slice, default=None
        Features that each head reads.

    Returns
    -------
    HeadStack
    """
    coefs = [
        torch.from_numpy(np.stack(layer)).to(device)
        for layer in zip(*(p[0] for p in parameters))
    ]
    intercepts = [
        torch.from_numpy(np.stack(layer)).to(device)
        for layer in zip(*(p[1] for p in parameters))
    ]
    return HeadStack(coefs, intercepts, n_streams, inputs)


def _affine(
    X: Tensor,
    weight: Tensor,
    bias: Tensor,
    workspace: Workspace | None,
    threads: Workers | None,
) -> Tensor:
    """Batched `X @ weight.T + bias`; a lone stream avoids the batched kernel."""
    out = _held(workspace, "affine", (*X.shape[:2], weight.shape[1]), X.dtype)
    if X.shape[0] > 1:
        return torch.baddbmm(bias, X, weight.transpose(1, 2), out=out)
    if out is None:
        return torch.addmm(bias[0], X[0], weight[0].T)[None]

    def piece(columns: slice) -> None:
        product = out[0, :, columns]
        torch.addmm(bias[0, :, columns], X[0], weight[0, columns].T, out=product)

    _in_pieces(piece, weight.shape[1], X[0].numel(), threads)
    return out


def _outer(
    residual: Tensor, X: Tensor, workspace: Workspace | None, threads: Workers | None
) -> Tensor:
    """Batched `residual.T @ X`; a lone stream avoids the batched kernel."""
    out = _held(workspace, "outer", (len(X), residual.shape[2], X.shape[2]), X.dtype)
    if X.shape[0] > 1:
        return torch.bmm(residual.transpose(1, 2), X, out=out)
    if out is None:
        return torch.mm(residual[0].T, X[0])[None]

    def piece(columns: slice) -> None:
        torch.mm(residual[0, :, columns].T, X[0], out=out[0, columns])

    _in_pieces(piece, residual.shape[2], X[0].numel(), threads)
    return out


def _in_pieces(
    task: Callable[[slice], None], width: int, work: int, threads: Workers | None
) -> None:
    """Run a product by pieces of its `width` columns, each of `work` multiply-adds."""
    divided = pieces(width, width * work, _LEAST_COLUMNS)
    if threads is None:
        for columns in divided:
            task(columns)
    else:
        threads.map(task, divided)


def _held(
    workspace: Workspace | None, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor | None:
    """Memory for a result, or None: without any it can be differentiated."""
    return None if workspace is None else workspace(name, *shape, dtype=dtype)
