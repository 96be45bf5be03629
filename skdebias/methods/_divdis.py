"""DivDis: heads whose predictions on rows without labels are independent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._diverse import (
    DiverseHeads,
    log_probabilities,
    shares_of_unlabeled,
)
from skdebias.methods._ranges import check_numbers
from skdebias.methods._step import Step, TrainingContext

# Of what logarithms are taken: the least that float32 has, so that nothing is infinite.
_TINY = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class DivDis(DiverseHeads):
    """Heads that are right on labelled rows, and independent on rows without labels.

    Where a shortcut and what is meant go together in every labelled row, nothing in
    them says which is which. DivDis therefore trains several heads. On the labelled
    rows each descends its cross-entropy; on `X_unlabeled`, rows in which the features
    do *not* go together, the mutual information of the predictions of every pair of
    heads is lowered, so that they come to use different features. A few labels then
    tell which head to take: those of a validation set, or those that
    :func:`skdebias.model_selection.choose_head` is given afterwards.

    Parameters
    ----------
    n_heads : int, default=2
        Heads, at least 2; published are 2 to 4.
    balance : {None, "class"}, default=None
        Sample the classes of the labelled rows uniformly.
    diversity : float, default=10.0
        At least 0. Weight of the mutual information, summed over pairs of heads. 0 is
        plain training of every head, from random starts of its own.
    regularization : float, default=10.0
        At least 0. Weight of the Kullback-Leibler divergence from `prior` of how often
        a head predicts each class on the rows without labels. It keeps a head from
        being independent of the others by giving one answer to all rows.
    prior : tuple of float, default=None
        Share of each class, in the order of `classes_`, among the rows without labels.
        They sum to one. None takes the shares of the labelled rows.

    See Also
    --------
    DBAT : The same idea, where each head is pushed away from those before it.
    skdebias.model_selection.rows_to_label : The rows whose labels tell most.

    Notes
    -----
    It needs rows without labels in which the correlation is broken, such as rows of
    the place where the classifier will be used: where features go together in them
    too, heads can differ only by being wrong. It costs `n_heads` heads, and half the
    rows of a step are without labels. It is for data without a single row against the
    shortcut; where the training rows hold some, however few, methods that balance
    groups, with known or inferred attributes, use the labels that there are. Of more
    than two classes, independent heads may each use one feature for some classes and
    another for the rest; :class:`DBAT` does not.

    References
    ----------
    Lee, Yao and Finn, "Diversify and Disambiguate: Out-of-Distribution Robustness via
    Disagreement", ICLR 2023, equations 1 to 3.

    Examples
    --------
    Two features that always agree in the labelled rows, the first of them larger; in
    the others they are independent, and ten labels show that the second is meant:

    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.methods import DivDis
    >>> rng = np.random.default_rng(0)
    >>> def rows(first, second):
    ...     signal = np.stack([2 * first, second], axis=1) - [1, 0.5]
    ...     return signal + 0.1 * rng.normal(size=(len(first), 2))
    >>> y, (other, target) = rng.integers(0, 2, 400), rng.integers(0, 2, (2, 400))
    >>> X, U = rows(y, y), rows(other, target)
    >>> clf = DebiasedClassifier(DivDis(), learning_rate=0.05, random_state=0)
    >>> clf.fit(X, y, X_unlabeled=U, X_val=U[:10], y_val=target[:10]).score(U, target)
    1.0
    """

    stackable: ClassVar[tuple[str, ...]] = ("diversity", "regularization")

    diversity: float = 10.0
    regularization: float = 10.0
    prior: tuple[float, ...] | None = None

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
        DivDis

        Raises
        ------
        ValueError
            If a parameter is out of range, or the prior is none of these classes.
        """
        numbers = {"diversity": (0.0, np.inf), "regularization": (0.0, np.inf)}
        check_numbers(self, numbers)
        if self.prior is not None:
            _check_prior(self.prior, groups.n_classes)
        return super().for_groups(groups, inferred=inferred)

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "MutualInformation":
        """Return the mutual information of all pairs, and the divergence.

        Parameters
        ----------
        methods : sequence of DivDis
            As for :meth:`Method.objective`.
        context : TrainingContext

        Returns
        -------
        MutualInformation
        """
        return MutualInformation(methods, context)


class MutualInformation:
    """What DivDis minimises on the rows without labels.

    Parameters
    ----------
    methods : sequence of DivDis
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[DivDis], context: TrainingContext) -> None:
        n_streams = len(context.groups)
        self._n_heads = methods[0].n_heads
        weights = [[m.diversity, m.regularization] for m in methods]
        values = torch.tensor(weights, dtype=torch.float32, device=context.device)
        self._weights = values.view(n_streams, -1, 1, 2)
        n_methods = len(methods) // n_streams
        priors = [
            _prior(method, context.groups[number // n_methods])
            for number, method in enumerate(methods)
        ]
        prior = torch.tensor(np.stack(priors), dtype=torch.float32)
        self._prior = prior.to(context.device).view(n_streams, n_methods, 1, -1)

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the values of the step; a pair's is shared by its two heads.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        p = log_probabilities(logits).exp()
        share = shares_of_unlabeled(step)
        # One matrix for all pairs of heads and of classes, of every method.
        p = p.unflatten(2, (-1, self._n_heads)).transpose(1, 2)
        n_heads, n_classes = p.shape[3:]
        flat = p.flatten(3)  # (S, n_methods, R, n_heads * n_classes)
        joint = (flat * share[:, None, :, None]).mT @ flat
        joint = joint.unflatten(3, (n_heads, n_classes))
        joint = joint.unflatten(2, (n_heads, n_classes)).transpose(3, 4)
        marginal = torch.einsum("sr,smrhc->smhc", share, p)
        independent = marginal[:, :, :, None, :, None] * marginal[:, :, None, :, None]
        information = (joint * (_log(joint) - _log(independent))).sum((4, 5))
        others = 1.0 - torch.eye(n_heads, device=p.device)
        shared = (information * others).sum(3) / 2
        divergence = (marginal * (_log(marginal) - _log(self._prior))).sum(3)
        weights = self._weights.unbind(-1)
        return (weights[0] * shared + weights[1] * divergence).flatten(1)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._weights = self._weights[:, methods]
        self._prior = self._prior[:, methods]


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(_TINY).log()


def _prior(method: DivDis, groups: Groups) -> np.ndarray:
    """Return the shares of the classes that the heads are to predict."""
    if method.prior is not None:
        return np.asarray(method.prior, dtype=np.float64)
    counts = np.bincount(groups.cells[:, 0], groups.counts, groups.n_classes)
    return counts / counts.sum()


def _check_prior(prior: tuple[float, ...], n_classes: int) -> None:
    shares = np.asarray(prior, dtype=np.float64)
    one_each = shares.shape == (n_classes,)
    if not (one_each and (shares > 0).all() and abs(shares.sum() - 1.0) < 1e-5):
        raise ValueError(
            f"prior={prior!r} of DivDis must hold a positive share for each of "
            f"{n_classes} classes, which sum to one, such as "
            f"{(round(1 / n_classes, 3),) * n_classes}; None takes those of the "
            "training rows."
        )
