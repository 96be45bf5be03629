"""What mixed rows make of logits, losses and gradients."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skdebias._engine._loss import cross_entropy
from skdebias._engine._workspace import Workspace
from skdebias.methods import Mixture
from skdebias.methods._sums import add_by_number


def check_mixture(rule: Any, mixture: Any, expected: tuple[int, int, int]) -> None:
    """Refuse what a rule returns that is no mixture of the rows of a step.

    Parameters
    ----------
    rule : Mixing
    mixture : object
        What it returned.
    expected : (int, int, int)
        Streams, rows and methods.

    Raises
    ------
    ValueError
    """
    shapes = None
    if isinstance(mixture, Mixture):
        shapes = tuple(mixture.partners.shape), tuple(mixture.weights.shape)
    if shapes != (expected[:2], expected):
        returned = f"shapes {shapes}" if shapes else repr(type(mixture))
        raise ValueError(
            f"{type(rule).__name__} returned {returned}: return a "
            f"skdebias.methods.Mixture of partners of shape {expected[:2]} and of "
            f"weights of shape {expected}, one for each method."
        )


@dataclass(frozen=True)
class MixedRows:
    """The rows of a step, each mixed with a partner.

    Parameters
    ----------
    partners : Tensor of shape (S, R)
        Slots.
    weights : Tensor of shape (S, R, M)
        Share of the row itself under every head.
    y : Tensor of shape (S, R)
        Class codes of the partners.
    """

    partners: Tensor
    weights: Tensor
    y: Tensor

    @property
    def _flat(self) -> Tensor:
        """Partners among the rows of all streams, (S * R,)."""
        n_streams, n_rows = self.partners.shape
        first = torch.arange(n_streams, device=self.partners.device)[:, None] * n_rows
        return (self.partners + first).flatten()

    def outputs(self, out: Tensor) -> Tensor:
        """Return what an affine layer makes of the mixed rows.

        Parameters
        ----------
        out : Tensor of shape (S, R, M, width)
            What it makes of the rows as they are.

        Returns
        -------
        Tensor of shape (S, R, M, width)
        """
        share = self.weights[..., None]
        partners = out.flatten(0, 1)[self._flat].view_as(out)
        return share * out + (1.0 - share) * partners

    def adjoint(self, delta: Tensor) -> Tensor:
        """Return derivatives in the rows' own outputs, of those in the mixed ones.

        Parameters
        ----------
        delta : Tensor of shape (S, R, M, width)

        Returns
        -------
        Tensor of shape (S, R, M, width)
        """
        share = self.weights[..., None]
        total = (share * delta).flatten(0, 1).flatten(1)
        passed_on = ((1.0 - share) * delta).flatten(0, 1).flatten(1)
        add_by_number(total, 0, self._flat, passed_on)
        return total.view_as(delta)

    def at(self, slots: Tensor) -> "MixedRows":
        """Return those of some slots; partners stay slots of the whole step."""
        parts = self.partners, self.weights, self.y
        return MixedRows(*(part[:, slots] for part in parts))

    def inputs(self, batch: Any) -> Tensor:
        """Return the mixed items of one stream and method.

        Parameters
        ----------
        batch : Tensor of shape (2 * R, ...)
            Prepared items, then those of their partners.

        Returns
        -------
        Tensor of shape (R, ...)

        Raises
        ------
        ValueError
            If the items are no numbers, as texts are none.
        """
        if not (isinstance(batch, Tensor) and batch.is_floating_point()):
            raise ValueError(
                "The method mixes items, and texts cannot be mixed: embed them by "
                "embeddings_cache.EmbeddingExtractor, and train a head by "
                "DebiasedClassifier."
            )
        rows, partners = batch.chunk(2)
        share = self.weights[0, :, 0].to(batch.dtype)
        share = share.view(-1, *[1] * (batch.ndim - 1))
        return share * rows + (1.0 - share) * partners


def mixed_cross_entropy(
    logits: Tensor,
    y: Tensor,
    mixed: MixedRows | None,
    workspace: Workspace | None = None,
) -> tuple[Tensor, Tensor]:
    """Like :func:`cross_entropy`, for labels that may be mixed.

    Parameters
    ----------
    logits : Tensor of shape (S, R, M, n_logits)
    y : Tensor of shape (S, R)
    mixed : MixedRows or None
    workspace : Workspace, default=None

    Returns
    -------
    losses : Tensor of shape (S, R, M)
    residual : Tensor of shape (S, R, M, n_logits)
    """
    losses, residual = cross_entropy(logits, y, workspace)
    if mixed is None:
        return losses, residual
    other_losses, other_residual = cross_entropy(logits, mixed.y)
    share = mixed.weights
    losses = torch.lerp(other_losses, losses, share)
    return losses, torch.lerp(other_residual, residual, share[..., None])
