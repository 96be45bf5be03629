"""DFR: deep feature reweighting."""

import os
from contextlib import nullcontext
from numbers import Integral, Real
from threading import Lock

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from skdebias._base import BaseDebiasedClassifier
from skdebias._head import HeadClassifier
from skdebias._quiet import ignored
from skdebias._sklearn import HasMethods, Interval, StrOptions
from skdebias._warnings import warn_caller

_LIBLINEAR = Lock()


def _after_fork():
    global _LIBLINEAR
    _LIBLINEAR = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class DFRClassifier(HeadClassifier):
    """Average of sparse heads fitted on group-balanced draws of the rows (DFR) [1]_.

    As many rows of every group as the smallest group has are drawn, a logistic
    regression is fitted on them, and the coefficients of `n_draws` such fits are
    averaged. The strength of the penalty is chosen on rows that were not fitted.

    Parameters
    ----------
    Cs : array-like of float, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
        Inverse strengths of the penalty to choose from. With a single value there is
        no choice, and no row is set aside for it.
    l1_ratio : float, default=1.0
        1 is the L1 penalty, 0 the L2 penalty, values between mix them.
    penalize_intercept : bool, default=False
        Whether the penalty acts on the intercept too, as on one more weight. True is
        the authors' form; see Notes.
    n_draws : int, default=10
        Draws whose coefficients are averaged.
    s : float in (0, 1], default=None
        Dispel [2]_: weight of a group-balanced row in the mixture that a row of its
        class is replaced by. The draws are class-balanced then. None mixes nothing,
        which is DFR. The paper tries 1, 0.9, 0.8 and 0.7.
    alpha : float in [0, 1], default=1.0
        Probability that a row is replaced by its mixture, where `s` is given.
    pseudo_attributes : estimator of `skdebias.attributes`, default=None
        Infers the attributes, in the fit, if it is given none; one that learns from
        annotated rows, such as :class:`~skdebias.attributes.SSAPseudoAttributes`, also
        those of single rows.
    max_iter : int, default=1000
        Most passes of the solver over a draw.
    tol : float, default=1e-3
        Tolerance of the solver.
    selection : {"auto", "worst_group", "worst_inferred_group", "group_balanced", \
"worst_class", "accuracy"}, default="auto"
        Score by which C is chosen. "auto" is worst-group accuracy, or worst-class
        accuracy on a validation set without `attributes_val`. "worst_inferred_group"
        infers those by `pseudo_attributes`.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws and of the solver.

    Attributes
    ----------
    C_ : float
        The chosen C; among equal scores the one with the strongest penalty.
    C_scores_ : ndarray of shape (n_Cs,)
        Selection score of every value of `Cs`; NaN if there was no choice to make.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        Attribute values (crossed, for several columns) seen in `fit`.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    pseudo_attributes_ : ndarray of shape (n_samples,) or (n_samples, n_attributes)
        Inferred attributes, where some were missing.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Averaged weights.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Averaged biases. With `penalize_intercept=False` the L1 penalty of two classes
        acts on them at a hundredth of its strength, all others do not.
    n_iter_ : int
        Most passes that a fit on a draw took.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    ERMClassifier : With `balance="group"`, balances groups by sampling all rows.
    AFRClassifier : Retrains on held-out rows where no attributes are known.

    Notes
    -----
    Give `fit` rows that the network behind the embeddings was not trained on, as the
    paper does with its validation set: the features of its own training rows separate
    the classes too well to be reweighted. The validation set of `fit` chooses C and
    nothing else. Without one, every group is split in half, C is chosen on the second
    half by heads of the first, and all rows are fitted again. As in the authors' code
    a single draw scores every C.

    Features are standardised over all rows before fitting, and the scale is folded
    into `coef_`.

    The authors fit by liblinear, which penalises the intercept like any other weight:
    `penalize_intercept=True`. Here it is free by default. On faces (blond given male,
    five splits) the worst group has .844 with a free intercept and .829 with a
    penalised one if training rows are fitted, .826 and .796 if validation rows are.

    *Dispel* is ``DFRClassifier(s=0.8, n_draws=20)``: a draw takes as many rows of every
    class as the smallest class has, not the smallest group, and with probability
    `alpha` a row `x` of it becomes ``s * x_balanced + (1 - s) * x``, where `x_balanced`
    is a row of its class out of a group-balanced draw. So all rows take part where the
    smallest group is tiny; the smaller `s` and `alpha`, the more of their imbalance
    stays. ``s = alpha = 1`` is DFR on draws with replacement, and ``alpha=0`` balances
    classes alone. `s` and `alpha` are chosen as any other parameter is, by a search.

    References
    ----------
    .. [1] Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for
       Robustness to Spurious Correlations", ICLR 2023.
    .. [2] Xue, Payani, Yang and Mirzasoleiman, "Few-shot Adaptation to Distribution
       Shifts By Mixing Source and Target Embeddings", ICML 2024.

    Examples
    --------
    >>> from skdebias import DFRClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(2000, random_state=0)
    >>> clf = DFRClassifier(n_draws=3, random_state=0)
    >>> clf.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    >>> dispel = DFRClassifier(n_draws=3, s=0.8, random_state=0)
    >>> dispel.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    """

    _parameter_constraints: dict = {
        "Cs": ["array-like"],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "penalize_intercept": ["boolean"],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "s": [Interval(Real, 0, 1, closed="right"), None],
        "alpha": [Interval(Real, 0, 1, closed="both")],
        "pseudo_attributes": [HasMethods(["fit_predict"]), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "selection": [
            StrOptions(
                {
                    "auto",
                    "worst_group",
                    "worst_inferred_group",
                    "group_balanced",
                    "worst_class",
                    "accuracy",
                }
            )
        ],
        "random_state": BaseDebiasedClassifier._parameter_constraints["random_state"],
    }

    def __init__(
        self,
        Cs=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        *,
        l1_ratio=1.0,
        penalize_intercept=False,
        n_draws=10,
        s=None,
        alpha=1.0,
        pseudo_attributes=None,
        max_iter=1000,
        tol=1e-3,
        selection="auto",
        random_state=None,
    ):
        self.Cs = Cs
        self.l1_ratio = l1_ratio
        self.penalize_intercept = penalize_intercept
        self.n_draws = n_draws
        self.s = s
        self.alpha = alpha
        self.pseudo_attributes = pseudo_attributes
        self.max_iter = max_iter
        self.tol = tol
        self.selection = selection
        self.random_state = random_state

    def _train(self, prepared, task):
        import torch

        from skdebias._engine._features import Features

        if self.s is None and self.alpha != 1:
            warn_caller(
                f"alpha={self.alpha!r} has no effect without s, the weight of the rows "
                "that are mixed in: give s too, such as s=0.8."
            )
        Cs, rows = self._checked_Cs(), np.arange(len(prepared.y_codes))
        features = Features(prepared.data.X, torch.device("cpu"))
        scaling = _moments(features, prepared.data.sample_weight)
        rng = np.random.default_rng(prepared.data.seed)
        scores = np.full(len(Cs), np.nan)
        if len(Cs) > 1:
            scores = self._scores(features, prepared, scaling, Cs, rng)
        best = np.nan_to_num(scores)
        C = float(Cs[best == best.max()].min())
        ((coef, intercept),), n_iter = self._heads(
            features, rows, prepared.groups, scaling, [C], self.n_draws, rng
        )
        if n_iter >= self.max_iter:
            warn_caller(
                f"DFRClassifier: a fit on a draw stopped at max_iter={self.max_iter} "
                "before it reached tol: raise max_iter or tol, or lower Cs.",
                ConvergenceWarning,
            )
        return {
            "C_scores_": scores,
            "C_": C,
            "coef_": coef,
            "intercept_": intercept,
            "n_iter_": n_iter,
        }

    def _checked_Cs(self):
        Cs = np.asarray(self.Cs, dtype=float)
        if Cs.ndim != 1 or not len(Cs) or not (Cs > 0).all():
            raise ValueError(
                f"Cs={self.Cs!r} must hold one or more positive numbers, such as "
                "(1.0, 0.1)."
            )
        return Cs

    def _scores(self, features, prepared, scaling, Cs, rng):
        """Score of every C on the validation set, or on half of the rows."""
        import torch

        from skdebias._engine._features import Features
        from skdebias._engine._heads import stack_parameters
        from skdebias._engine._selection import HeadValidationScorer
        from skdebias.methods._dfr import halves

        cpu = torch.device("cpu")
        y, groups, validation = prepared.y_codes, prepared.groups, prepared.validation
        if validation is None:
            rows, held = halves(groups, rng)
            if not len(held):  # every group has one row
                return np.full(len(Cs), np.nan)
            # The groups of held-out training rows are those of training.
            inferred = self.selection in ("auto", "worst_inferred_group")
            selection = "worst_group" if inferred else self.selection
            held_out = HeadValidationScorer(
                y[held],
                groups.take(held),
                selection,
                Features(features.rows(torch.from_numpy(held)), cpu),
            )
        else:
            rows = np.arange(len(y))
            held_out = HeadValidationScorer(
                validation["y"],
                validation["groups"],
                validation["selection"],
                Features(validation["X"], cpu),
            )
        groups_of_rows = groups.take(rows)
        heads, _ = self._heads(features, rows, groups_of_rows, scaling, Cs, 1, rng)
        stack = stack_parameters([([c], [b]) for c, b in heads], 1, cpu)
        return held_out.score(held_out.group_accuracies(stack))

    def _heads(self, features, rows, groups, scaling, Cs, n_draws, rng):
        """Return averaged (coef, intercept) for every C, and the most passes of a fit.

        `groups` are those of `rows`, all of which the draws may take.
        """
        mean, scale = scaling
        classes = groups.cells[:, 0]
        totals, n_iter = [0.0] * len(Cs), 0
        for _ in range(n_draws):
            X, drawn, weights = self._draw(features, rows, groups, rng)
            y = classes[groups.ids[drawn]]
            seed = int(rng.integers(2**31))
            for i, C in enumerate(Cs):
                fitted, passes = self._fit_one((X - mean) / scale, y, weights, C, seed)
                totals[i] += fitted
                n_iter = max(n_iter, passes)
        heads = []
        for total in totals:
            coef = total[:, :-1] / n_draws / scale
            intercept = total[:, -1] / n_draws - coef @ mean
            heads.append((coef.astype(np.float32, order="C"), intercept.astype("f4")))
        return heads, n_iter

    def _draw(self, features, rows, groups, rng):
        """Return a draw: its rows of features, their numbers in `rows`, their weights.

        Numbers are those of the rows whose labels count, mixed or not.
        """
        import torch

        from skdebias.methods._dfr import balanced_draw, mixed_draw

        def read(numbers):
            return features.rows(torch.from_numpy(rows[numbers])).double().numpy()

        if self.s is None:
            drawn, weights = balanced_draw(groups, rng)
            return read(drawn), drawn, weights
        mixed = mixed_draw(groups, self.s, self.alpha, rng)
        shares = mixed.shares[:, None]
        X = (1.0 - shares) * read(mixed.rows) + shares * read(mixed.partners)
        return X, mixed.rows, mixed.weights

    def _fit_one(self, X, y, sample_weight, C, seed):
        """Fit a logistic regression by the fastest solver of its penalty.

        Returns the coefficients beside the intercepts, and the passes of the solver.
        """
        options = {"solver": "saga"}
        if self.l1_ratio == 0:
            options["solver"] = "lbfgs"
        elif self.l1_ratio == 1 and y.max() == 1:
            # Penalises the intercept too; the scaling makes that negligible.
            options = {"solver": "liblinear", "intercept_scaling": 100.0}
        if self.penalize_intercept:
            # The intercept is the weight of a column of ones, whatever the solver.
            X = np.column_stack([X, np.ones(len(X))])
            options["fit_intercept"] = False
        model = LogisticRegression(
            C=C,
            l1_ratio=self.l1_ratio,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=seed,
            **options,
        )
        # All fits of liblinear in a process draw from one generator.
        alone = _LIBLINEAR if options["solver"] == "liblinear" else nullcontext()
        with alone, ignored(ConvergenceWarning):
            model.fit(X, y, sample_weight)
        weights = model.coef_
        if not self.penalize_intercept:
            weights = np.column_stack([weights, model.intercept_])
        return weights, int(model.n_iter_.max())


def _moments(features, sample_weight):
    """Return mean and deviation of the columns, in one pass over blocks."""
    total, squares, shift = 0.0, 0.0, None
    counted = features.n_rows if sample_weight is None else sample_weight.sum()
    for where, block in features.chunks():
        block = block.double().numpy()
        if shift is None:
            shift = block.mean(0)  # keeps the squares small
        block = block - shift
        if sample_weight is None:
            total, squares = total + block.sum(0), squares + (block**2).sum(0)
        else:
            weights = sample_weight[where]
            total, squares = total + weights @ block, squares + weights @ block**2
    mean = total / counted
    variance = np.maximum(squares / counted - mean**2, 0.0)
    constant = variance <= 1e-12 * np.maximum(1.0, (shift + mean) ** 2)
    return shift + mean, np.where(constant, 1.0, np.sqrt(variance))
