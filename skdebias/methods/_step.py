"""What training shows to a method's rules, and what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._result import TrainingResult as TrainingResult
from skdebias.methods._saliency import Saliencies, factors


@dataclass(frozen=True)
class TrainingContext:
    """What is known before the first step.

    `S` streams are trained at the same time, each on rows of its own.

    Parameters
    ----------
    groups : tuple of Groups, one per stream
        Groups of the training rows.
    y : Tensor of shape (n_rows,)
        Class codes of the whole data set, over all streams; on the CPU.
    device : torch.device
        Where losses and weights live.
    seeds : tuple of int, one per stream
        For :func:`uniform`.
    """

    groups: tuple[Groups, ...]
    y: Tensor
    device: torch.device
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """What a rule is told about one optimizer step.

    The last axis holds `M = n_methods * n_heads` heads, the heads of a method side by
    side. Losses are values, not part of any graph. All tensors are valid until the step
    is made: a rule that remembers one copies it.

    Parameters
    ----------
    weights : Tensor of shape (S, R, M)
        Signed slot weights of the plans, loss factors of the rows included. A penalty
        is told those that the method's rule has made of them.
    losses : Tensor of shape (S, R, M)
        Cross-entropy of every row slot under every head.
    strata : Tensor of shape (S, R)
        Stratum of the plan that the slot was drawn from. Rows without labels have the
        number after the last one.
    rows : Tensor of shape (S, R)
        Row numbers in the whole data set; on any device, unlike all else.
    y : Tensor of shape (S, R)
        Class codes; -1 for a row without label, whose loss and weight are 0.
    number : int, default=0
        Steps that were made before, in earlier epochs too.
    planned : Tensor of shape (S, R, M), default=None
        Weights of the plans, for a penalty, whose `weights` are what the rule has left
        of them. None where they are the same.
    """

    weights: Tensor
    losses: Tensor
    strata: Tensor
    rows: Tensor
    y: Tensor
    number: int = 0
    planned: Tensor | None = None


@dataclass(frozen=True)
class WeightedLosses:
    """Weights of a step's losses, and the objective whose derivatives they are.

    Parameters
    ----------
    weights : Tensor of shape (S, R, M)
        Derivative of the objective in every loss.
    values : Tensor of shape (S, M)
        The objective of every head, which `loss_curve_` shows.

    Examples
    --------
    The mean of the squared losses, whose derivative is twice the loss of every row:

    >>> import torch
    >>> from skdebias.methods import WeightedLosses
    >>> class Squared:
    ...     def __call__(self, step):
    ...         weighted = step.weights * step.losses
    ...         return WeightedLosses(2 * weighted, (weighted * step.losses).sum(1))
    ...
    ...     def select(self, methods):
    ...         pass
    """

    weights: Tensor
    values: Tensor


class Weighting(Protocol):
    """Weighting rule with state, for all methods of a stack at once.

    See Also
    --------
    Method.weighting : Makes one.

    Examples
    --------
    The weights `(1 - p_y) ** gamma` of a focal loss. `select` drops candidates that a
    search gives up: the last axis of any state is that of the methods.

    >>> import torch
    >>> class Focal:
    ...     def __init__(self, methods, context):
    ...         gamma = torch.tensor([method.gamma for method in methods])
    ...         self.gamma = gamma.view(len(context.groups), 1, -1).to(context.device)
    ...
    ...     def __call__(self, step):
    ...         return step.weights * (1 - torch.exp(-step.losses)) ** self.gamma
    ...
    ...     def select(self, methods):
    ...         self.gamma = self.gamma[..., methods]
    """

    def __call__(self, step: Step) -> "Tensor | WeightedLosses":
        """Weigh the losses of a step and advance the state.

        Parameters
        ----------
        step : Step

        Returns
        -------
        Tensor of shape (S, R, M) or WeightedLosses
            Weights of the losses, or with them the value of the objective whose
            derivatives they are. Without, that is their weighted sum.
        """
        ...

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods.

        Parameters
        ----------
        methods : Tensor of shape (n_kept,)
            Positions among the methods of a stream, the same in every stream.
        """
        ...


class Objective(Protocol):
    """What is minimised beside the weighted cross-entropy, for all methods of a stack.

    It is a function of the logits of all rows of a step, of heads and of whole networks
    alike, and is differentiated in them by autograd. The logits are those of the heads,
    without `logit_offsets`. A method that asks for this alone draws its rows in
    batches of factor 0.

    See Also
    --------
    Method.objective : Makes one.
    row_losses : Cross-entropy of every row.

    Examples
    --------
    The variance of the losses, beside their mean:

    >>> from skdebias.methods import row_losses
    >>> class Spread:
    ...     def __call__(self, step, logits):
    ...         return row_losses(logits, step.y).var(1)
    ...
    ...     def select(self, methods):
    ...         pass
    """

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the step's values and advance the state.

        Parameters
        ----------
        step : Step
            Its weights are those of the plans. Its losses are constants;
            :func:`row_losses` gives those that can be differentiated.
        logits : Tensor of shape (S, R, M, n_logits)
            One logit for two classes.

        Returns
        -------
        Tensor of shape (S, M)
            Added to the objective of every head. No head's value may depend on the
            heads of another method.
        """
        ...

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods.

        Parameters
        ----------
        methods : Tensor of shape (n_kept,)
            Positions among the methods of a stream, the same in every stream.
        """
        ...


class GroupObjective(Protocol):
    """Convex objective of the strata's mean losses, for a solver that sees all rows.

    What a rule does step by step is there a function of the mean losses themselves.

    See Also
    --------
    Method.group_objective : Makes one.

    Examples
    --------
    The largest of the mean losses:

    >>> import torch
    >>> class Largest:
    ...     def __call__(self, losses, heads):
    ...         values, worst = losses.max(1)
    ...         return values, torch.nn.functional.one_hot(worst, losses.shape[1])
    """

    def __call__(self, losses: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate mean losses.

        Parameters
        ----------
        losses : Tensor of shape (n, n_strata)
            Mean loss in every stratum of the plan.
        heads : Tensor of shape (n,)
            Which of the methods they belong to.

        Returns
        -------
        values : Tensor of shape (n,)
        shares : Tensor of shape (n, n_strata)
            Derivative of the value in every mean loss.
        """
        ...


@dataclass(frozen=True)
class ForwardPass:
    """What a penalty is told about one optimizer step beyond :class:`Step`.

    This is the forward pass of stacked heads, whose derivatives are in closed form and
    not part of any graph. That of whole networks has no `coefs`, and its `logits` and
    :meth:`saliencies` are recorded.

    Parameters
    ----------
    logits : Tensor of shape (S, R, M, n_logits)
        One logit for two classes.
    residual : Tensor of shape (S, R, M, n_logits)
        `softmax - onehot`, the derivative of every row's cross-entropy, unweighted.
    activations : sequence of Tensor
        Inputs of the layers: the rows, (S, R, n_features), then the outputs of the
        hidden ReLU layers, (S * M, R, width).
    coefs : sequence of Tensor of shape (S * M, n_out, n_in)
        Weights of the layers, input to output. Not to be written to.
    """

    logits: Tensor
    residual: Tensor
    activations: Sequence[Tensor]
    coefs: Sequence[Tensor]

    #: Whether it is part of a graph.
    recorded: ClassVar[bool] = False

    @property
    def hidden(self) -> Sequence[Tensor]:
        """Outputs of the hidden layers, (S * M, R, width), input to output.

        Of whole networks, the embedding is the first of them.
        """
        if len(self.activations) < 2:
            raise ValueError(
                "The penalty looks at hidden activations, and hidden_layer_sizes=() "
                "has none: choose hidden_layer_sizes=(64,), or train a whole network "
                "by skdebias.finetune.FineTuneClassifier, whose embedding is one."
            )
        return self.activations[1:]

    def layer(self, name: str) -> Tensor:
        """Return what a layer of whole networks yields, recorded.

        Parameters
        ----------
        name : str
            One of :attr:`Method.layers`, or that an auxiliary head reads.

        Returns
        -------
        Tensor of shape (M, R, width)
            Maps and sequences are averaged over their positions.
        """
        raise ValueError(_without_network(f"the layer {name!r}"))

    def auxiliary(self, name: str, features: Tensor, *, frozen: bool = False) -> Tensor:
        """Return what an auxiliary head says of features, recorded.

        Parameters
        ----------
        name : str
            Of one of :attr:`Method.auxiliaries`.
        features : Tensor of shape (n, width)
            Detached, what comes of the outputs trains the head alone.
        frozen : bool, default=False
            Whether it trains the features alone.

        Returns
        -------
        Tensor of shape (n, n_outputs)
        """
        raise ValueError(_without_network(f"the auxiliary head {name!r}"))

    def head_logits(self, head: int, embeddings: Tensor) -> Tensor:
        """Return what the head of a network says of other embeddings, recorded.

        Parameters
        ----------
        head : int
            Number of the network.
        embeddings : Tensor of shape (n, n_features)
            As the head reads them.

        Returns
        -------
        Tensor of shape (n, n_logits)
        """
        raise ValueError(_without_network("the heads of networks"))

    def saliencies(self, heads: Tensor, values: Tensor) -> Saliencies:
        """Return gradients of outputs in the inputs.

        Parameters
        ----------
        heads : Tensor of shape (n,)
            Positions among the `M` heads of a stream, the same in every stream.
        values : Tensor of shape (S * n, R, n_logits)
            Which combination of the logits is differentiated.

        Returns
        -------
        Saliencies
        """

        def of_heads(stacked: Tensor) -> Tensor:
            by_stream = stacked.unflatten(0, (len(self.logits), -1))
            return by_stream[:, heads].flatten(0, 1)

        coefs = [of_heads(coef) for coef in self.coefs]
        masks = [of_heads(hidden) > 0 for hidden in self.activations[1:]]
        return factors(values, coefs, masks)


def _without_network(what: str) -> str:
    return (
        f"The penalty asks for {what}, which heads on embeddings do not have: train a "
        "whole network by skdebias.finetune.FineTuneClassifier, and name it in "
        "Method.layers or Method.auxiliaries."
    )


@dataclass(frozen=True)
class PenaltyTerm:
    """Penalty on one step, and its derivatives.

    Parameters
    ----------
    values : Tensor of shape (S, M)
        Added to the objective of every head. Where the forward pass is recorded, so
        are these, and what follows holds only what is not in their graph.
    logits : Tensor of shape (S, R, M, n_logits)
        Derivative through the logits; the engine carries it on to all parameters.
    coefs : sequence of Tensor or None
        Derivative in the weights themselves, at fixed logits, in the shapes of
        `ForwardPass.coefs`.
    hidden : sequence of Tensor or None
        Derivative through the hidden activations, at fixed logits, in the shapes of
        `ForwardPass.hidden`; the engine carries it on to the layers before.
    """

    values: Tensor
    logits: Tensor
    coefs: Sequence[Tensor] | None = None
    hidden: Sequence[Tensor] | None = None


class Penalty(Protocol):
    """Penalty with state, for all methods of a stack at once.

    See Also
    --------
    Method.penalty : Makes one.

    Examples
    --------
    The size of the logits, which keeps heads from being too sure:

    >>> import torch
    >>> from skdebias.methods import PenaltyTerm
    >>> class SmallLogits:
    ...     def __call__(self, step, forward):
    ...         logits, n_rows = forward.logits, forward.logits.shape[1]
    ...         values = logits.square().sum((1, 3)) / n_rows
    ...         return PenaltyTerm(values, 2 * logits / n_rows)
    ...
    ...     def end_epoch(self, coefs):
    ...         return {}
    ...
    ...     def select(self, methods):
    ...         pass
    """

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return the step's penalty and advance the state."""
        ...

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what the epoch showed.

        Parameters
        ----------
        coefs : sequence of Tensor of shape (S * M, n_out, n_in)
            Weights of the layers at the end of the epoch.

        Returns
        -------
        dict of str to Tensor of shape (S * M,)
            For the history. A boolean entry `sound` marks heads whose epoch may be kept
            where no validation score chooses.
        """
        ...

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods.

        Parameters
        ----------
        methods : Tensor of shape (n_kept,)
            Positions among the methods of a stream, the same in every stream.
        """
        ...
