"""D-BAT: heads that are pushed away from those before them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._groups import Groups
from skdebias.methods._diverse import (
    DiverseHeads,
    log_probabilities,
    shares_of_unlabeled,
)
from skdebias.methods._ranges import check_numbers
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class DBAT(DiverseHeads):
    """Agree to disagree: each head is pushed away from those before it.

    The first head is that of plain training. Every further one descends its
    cross-entropy on the labelled rows, and on `X_unlabeled` `alpha` times
    `-log(p (1 - q) + (1 - p) q)`, where p and q are the probabilities that an earlier
    head and this one give to the class that the earlier one predicts; the mean over the
    rows and over the heads before. What the first head found is thereby the one thing
    that the second must not use. A few labels then tell which to take, as for
    :class:`DivDis`.

    Parameters
    ----------
    n_heads : int, default=2
        Heads, at least 2.
    balance : {None, "class"}, default=None
        Sample the classes of the labelled rows uniformly.
    alpha : float, default=1.0
        At least 0. Weight of the disagreement; published values go down to 1e-4. 0 is
        plain training of all heads.

    See Also
    --------
    DivDis : Treats all heads alike.

    Notes
    -----
    The paper trains the heads one after another. Here they are trained side by side,
    and a head sees those before it as they are at the step, as constants: no head
    depends on those after it, and the first is that of ERM. The rows without labels
    have to be ones on which features disagree; those on which they agree too would
    teach the second head to be wrong, which is what a small `alpha` is for. It costs
    `n_heads` heads, and half the rows of a step are without labels.

    References
    ----------
    Pagliardini, Jaggi, Fleuret and Karimireddy, "Agree to Disagree: Diversity through
    Disagreement for Better Transferability", ICLR 2023, equations 1 and 2, and
    appendix for more classes and heads.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.methods import DBAT
    >>> rng = np.random.default_rng(0)
    >>> def rows(first, second):
    ...     signal = np.stack([2 * first, second], axis=1) - [1, 0.5]
    ...     return signal + 0.1 * rng.normal(size=(len(first), 2))
    >>> y, (other, target) = rng.integers(0, 2, 400), rng.integers(0, 2, (2, 400))
    >>> X, U = rows(y, y), rows(other, target)
    >>> clf = DebiasedClassifier(DBAT(), learning_rate=0.05, random_state=0)
    >>> clf.fit(X, y, X_unlabeled=U, X_val=U[:10], y_val=target[:10]).chosen_head_
    'head2'
    """

    stackable: ClassVar[tuple[str, ...]] = ("alpha",)
    start: ClassVar[Literal["zero", "random"]] = "zero"

    alpha: float = 1.0

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method itself, its parameters checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        DBAT

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_numbers(self, {"alpha": (0.0, np.inf)})
        return super().for_groups(groups, inferred=inferred)

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "Disagreement":
        """Return the disagreement of every head with those before it.

        Parameters
        ----------
        methods : sequence of DBAT
            As for :meth:`Method.objective`.
        context : TrainingContext

        Returns
        -------
        Disagreement
        """
        return Disagreement(methods, context)


class Disagreement:
    """What D-BAT minimises on the rows without labels.

    Parameters
    ----------
    methods : sequence of DBAT
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[DBAT], context: TrainingContext) -> None:
        self._n_heads = methods[0].n_heads
        alpha = torch.tensor([method.alpha for method in methods], dtype=torch.float32)
        self._alpha = alpha.view(len(context.groups), -1).to(context.device)

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the values of the step, 0 for the first head.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        share = shares_of_unlabeled(step)[..., None]
        log_p = log_probabilities(logits).unflatten(2, (-1, self._n_heads))
        heads = log_p.unbind(3)  # of (S, R, n_methods, n_classes) each
        values = [torch.zeros_like(self._alpha) for _ in heads]
        for before, after in combinations(range(self._n_heads), 2):
            earlier = heads[before].detach()
            predicted = earlier.argmax(-1, keepdim=True)
            p, not_p = _of_class(earlier, predicted)
            q, not_q = _of_class(heads[after], predicted)
            rows = -torch.logaddexp(p + not_q, not_p + q)
            values[after] = values[after] + (share * rows).sum(1) * self._alpha / after
        return torch.stack(values, 2).flatten(1)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._alpha = self._alpha[:, methods]


def _of_class(log_p: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the probability of a class, and of all others."""
    is_class = one_hot(classes[..., 0], log_p.shape[-1]).bool()
    others = log_p.masked_fill(is_class, -torch.inf).logsumexp(-1)
    return log_p.gather(-1, classes)[..., 0], others
