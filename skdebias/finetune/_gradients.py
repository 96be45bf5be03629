"""Gradients of one step of networks, in passes that each see a part of its rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skdebias._engine._mixing import MixedRows, mixed_cross_entropy
from skdebias._engine._weighting import StackedMethods
from skdebias.finetune._accelerate import synchronised, unsharded
from skdebias.finetune._draws import PassDraws
from skdebias.finetune._extraction import to_device
from skdebias.finetune._layers import AuxiliaryHeads
from skdebias.finetune._networks import Points
from skdebias.finetune._passes import buffers_kept, deal_slots, position_in_passes
from skdebias.finetune._saliency import NetworkPass
from skdebias.methods import PenaltyTerm, Step


def run_networks(
    model: nn.Module, batch: Any, accelerator: Any, clean: Any = None
) -> tuple[list[Tensor], Points]:
    """Return logits of all networks, in float32, and points within their graph.

    Parameters
    ----------
    model : torch.nn.Module
        What Accelerate made of :class:`Networks`.
    batch : Tensor or dict of Tensor
        On the device.
    accelerator : accelerate.Accelerator
    clean : Tensor or dict of Tensor, default=None
        The same items without augmentation, for networks that see them so.

    Returns
    -------
    logits : list of Tensor of shape (n_samples, n_logits)
    points : Points
    """
    with accelerator.autocast():
        outputs, points = model(batch, clean)
    return [logits.float() for logits in outputs], points


class StepGradients:
    """The gradients of a step, accumulated over passes and processes.

    Parameters
    ----------
    model : torch.nn.Module
        What Accelerate made of :class:`Networks`.
    methods : StackedMethods
        Of the one method that trains them.
    y : Tensor of shape (n_samples,)
        Class codes, on the CPU.
    draws : PassDraws
    accelerator : accelerate.Accelerator
    n_passes : int
        Passes of a process that are asked for.
    auxiliary : AuxiliaryHeads, default=None
        Those of the model.
    heads : sequence of torch.nn.Module, default=()
        Those of its networks.

    Attributes
    ----------
    slots : list of ndarray
        Slots of this process, pass by pass; -1 stands for none.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: StackedMethods,
        y: Tensor,
        draws: PassDraws,
        accelerator: Any,
        n_passes: int,
        auxiliary: AuxiliaryHeads | None = None,
        heads: Sequence[nn.Module] = (),
    ) -> None:
        self._model = model
        self._methods = methods
        self._y = y
        self._draws = draws
        self._accelerator = accelerator
        self._auxiliary = auxiliary
        self._heads = heads
        self._n_processes = accelerator.num_processes
        rank = accelerator.process_index
        self.slots = deal_slots(methods.n_slots, self._n_processes, rank, n_passes)
        position = position_in_passes([len(slots) for slots in self.slots])
        self._position = torch.from_numpy(position).to(accelerator.device)

    def rows_of_pass(
        self, step: int, rows: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the rows that a pass reads.

        Parameters
        ----------
        step : int
            Number of its step.
        rows : ndarray of shape (R,)
            Row numbers of all slots of the step.
        slots : ndarray of shape (r,)
            Of the pass.

        Returns
        -------
        ndarray of shape (r,) or (2 * r,)
            Those of the slots; where rows are mixed, those of their partners too.
        """
        mixed = self._mixed(step, torch.from_numpy(rows))
        if mixed is None:
            return rows[slots]
        partners = mixed.partners[0].cpu().numpy()
        return rows[np.concatenate([slots, partners[slots]])]

    def _mixed(self, step: int, index: Tensor) -> MixedRows | None:
        """Return how the rows of a step are mixed."""
        if self._methods.mixing is None:
            return None
        y = self._y[index].to(self._accelerator.device)
        return self._methods.mix(step, index[None], y[None])

    def accumulate(
        self, step: int, rows: NDArray[np.int64], batches: list["PassItems"]
    ) -> Tensor:
        """Add the gradients of a step to those of the weights.

        Parameters
        ----------
        step : int
            Its number.
        rows : ndarray of shape (R,)
            Row numbers of all its slots.
        batches : list of PassItems
            The prepared items of this process, pass by pass.

        Returns
        -------
        Tensor of shape (n_networks,)
            This process's share of the objective.
        """
        methods, device = self._methods, self._accelerator.device
        index = torch.from_numpy(rows)
        y = self._y[index].to(device)
        batches = [batch.on(device) for batch in batches]
        whole = self._mixed(step, index)
        mixed: list[MixedRows | None] = [None] * len(batches)
        if whole is not None:
            mixed = [whole.at(torch.from_numpy(s).to(device)) for s in self.slots]
            batches = [b.mixed(part) for part, b in zip(mixed, batches) if part]
        terms = None
        if not methods.sees_whole_steps:
            terms = _StepTerms(methods.row_weighted(index[None]))
        elif len(batches) > 1:
            # A rule wants the outputs of the whole step before any of its weights.
            outputs = self._outputs_alone(step, batches, mixed, y)
            terms = self._ask(step, index, y, *outputs)
        objective = torch.zeros(methods.n_heads, device=device)
        for number, (dealt, batch) in enumerate(zip(self.slots, batches)):
            slots = torch.from_numpy(dealt).to(device)
            is_last = number == len(batches) - 1
            with synchronised(self._accelerator, self._model, is_last=is_last):
                self._draws.start_pass(step, number)
                forward, losses = self._forward(batch, slots, mixed[number], y)
                if terms is None:
                    terms = self._ask(
                        step, index, y, [losses], [forward.logits.detach()]
                    )
                used = torch.from_numpy(dealt >= 0).to(device)
                weights = terms.weights[:, slots] * used[:, None]
                loss = self._loss(forward, weights, terms.term, slots, used)
                if terms.values is None:
                    objective += (losses * weights).sum((0, 1))
                if methods.penalty is not None:
                    pass_ = (weights, index[None, dealt], losses, y[slots][None])
                    seen = methods.step_of_pass(step, slots, *pass_)
                    extra, value = self._penalty(seen, forward)
                    loss = loss + extra
                    objective += value
                self._accelerator.backward(loss)
        if terms is not None:
            # Every process has the values of the whole step.
            for values in terms.of_whole_step():
                objective += values / self._n_processes
        return objective

    def _loss(
        self,
        forward: NetworkPass,
        weights: Tensor,
        term: PenaltyTerm | None,
        slots: Tensor,
        used: Tensor,
    ) -> Tensor:
        """Return a number whose derivative in the logits is that of the objective.

        Signed weights make one backward pass of all batches of a plan. The derivative
        of the losses is known; this starts from it.
        """
        derivative = forward.residual * weights[..., None]
        if term is not None:
            derivative = derivative + term.logits[:, slots] * used[:, None, None]
        return (forward.logits * derivative).sum() * self._n_processes

    def _ask(
        self,
        step: int,
        index: Tensor,
        y: Tensor,
        losses: list[Tensor],
        logits: list[Tensor],
    ) -> "_StepTerms":
        """Return what the methods make of a step, whose outputs are known."""
        methods = self._methods
        seen = methods.step(step, index[None], self._gathered(losses), y[None])
        weights, values = methods.weigh(seen)
        has_objective = methods.objective is not None
        outputs = self._gathered(logits) if has_objective else None
        return _StepTerms(weights, values, methods.differentiate(seen, outputs))

    def _forward(
        self, items: "PassItems", slots: Tensor, mixed: MixedRows | None, y: Tensor
    ) -> tuple[NetworkPass, Tensor]:
        """Return a pass, and the losses of its rows (1, r, M)."""
        outputs, points = run_networks(
            self._model, items.batch, self._accelerator, items.clean
        )
        logits = torch.stack(outputs, 1)[None]  # (1, r, M, n_logits)
        shifted = self._methods.shifted(logits.detach(), slots)
        labels = y[slots][None]
        losses, residual = mixed_cross_entropy(shifted, labels.clamp_min(0), mixed)
        losses = losses.masked_fill_((labels < 0)[..., None], 0.0)
        forward = NetworkPass(
            logits,
            residual,
            (),
            (),
            outputs,
            points.tensors,
            points.layers,
            points.named,
            self._auxiliary,
            self._heads,
        )
        return forward, losses

    def _penalty(
        self, step: Step, forward: NetworkPass
    ) -> tuple[Tensor | float, Tensor | float]:
        """Return what the penalty adds to a pass's loss, and to the objective."""
        with unsharded(self._model):
            term = self._methods.penalise(step, forward)
        if term is None:
            return 0.0, 0.0
        n_passes, logits = len(self.slots), forward.logits
        extra = term.values.sum() + (logits * term.logits.detach()).sum()
        if term.hidden is not None:
            pairs = zip(forward.hidden, term.hidden)
            extra = extra + sum((h * d.detach()).sum() for h, d in pairs)
        value = term.values.detach()[0] / (n_passes * self._n_processes)
        return extra / n_passes, value

    def _outputs_alone(
        self,
        step: int,
        batches: list["PassItems"],
        mixed: list[MixedRows | None],
        y: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return losses and logits of every pass, without gradients."""
        losses, logits = [], []
        with torch.no_grad(), buffers_kept(self._model):
            for number, (dealt, batch) in enumerate(zip(self.slots, batches)):
                self._draws.start_pass(step, number)
                slots = torch.from_numpy(dealt).to(y.device)
                part = mixed[number]
                forward, losses_of_pass = self._forward(batch, slots, part, y)
                losses.append(losses_of_pass)
                logits.append(forward.logits)
        return losses, logits

    def _gathered(self, passes: list[Tensor]) -> Tensor:
        """Return values of all slots of a step, out of each process's, (1, R, ...)."""
        in_order = torch.cat(passes, 1)[0][self._position].contiguous()
        if self._n_processes > 1:
            in_order = self._accelerator.gather(in_order)
        # Process by process; slots were dealt out in turn.
        by_process = in_order.view(self._n_processes, -1, *in_order.shape[1:])
        by_slot = by_process.transpose(0, 1).flatten(0, 1)
        return by_slot[: self._methods.n_slots][None]


@dataclass(frozen=True)
class PassItems:
    """The items of one pass.

    Parameters
    ----------
    batch : Tensor or dict of Tensor
        Prepared and augmented.
    clean : Tensor or dict of Tensor, default=None
        The same without augmentation, where a network sees them so.
    """

    batch: Any
    clean: Any = None

    def mixed(self, rows: MixedRows) -> Self:
        """Return the items of rows that are mixed with their partners."""
        clean = None if self.clean is None else rows.inputs(self.clean)
        return type(self)(rows.inputs(self.batch), clean)

    def on(self, device: torch.device) -> Self:
        """Return the items on a device."""
        return type(self)(*(to_device(b, device) for b in (self.batch, self.clean)))


@dataclass(frozen=True)
class _StepTerms:
    """What the methods make of a step.

    Parameters
    ----------
    weights : Tensor of shape (1, R, M)
        Of the losses.
    values : Tensor of shape (1, M), default=None
        What the weights are the derivatives of. None is the weighted sum.
    term : PenaltyTerm, default=None
        An objective of the logits, and its derivative.
    """

    weights: Tensor
    values: Tensor | None = None
    term: PenaltyTerm | None = None

    def of_whole_step(self) -> Iterator[Tensor]:
        """Yield the parts of the objective that no single pass has, (M,)."""
        if self.values is not None:
            yield self.values[0]
        if self.term is not None:
            yield self.term.values[0]
